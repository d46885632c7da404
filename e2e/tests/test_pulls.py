"""Images that cannot be pulled: the resource says which of three things is wrong, and is Ready once it was put right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from product import resource, stand_in
from product.eye import Eye, Seen
from product.resource import condition
from product.situations import LABEL, Knows, Situation, waiting

from cluster import binaries, ports
from cluster.images import Builder
from cluster.kubectl import Kubectl, wait_for
from cluster.local import LocalCluster
from cluster.registry import ADDRESS, Registry
from cluster.target import Cluster

NAME = "stand-in:1"
SECRET = "registry-account"
FIRST, LATER = waiting("ErrImagePull"), waiting("ImagePullBackOff")
BOTH = waiting("ErrImagePull", "ImagePullBackOff")


@pytest.fixture(scope="module")
def registry(cluster: Cluster) -> Iterator[Registry]:
    """Holds one image."""
    if not isinstance(cluster, LocalCluster):
        pytest.skip("the nodes of another cluster do not reach a registry on this machine")
    binaries.build((binaries.REGISTRY,))
    builder = Builder()
    _forget_pulled(cluster)
    with Registry(cluster.plane) as registry:
        with stand_in.built(builder) as image:
            registry.push(builder, image, NAME)
        yield registry
    _forget_pulled(cluster)


def _forget_pulled(cluster: LocalCluster) -> None:
    """The node's images outlive the cluster, and with them those of a run that was killed."""
    containerd = cluster.node.containerd
    for name in containerd.images():
        if name.startswith(f"{ADDRESS}:"):
            containerd.remove_image(name)
    containerd.remove_nameless_images()


@pytest.fixture
def account(registry: Registry, kubectl: Kubectl, namespace: str) -> list[dict[str, str]]:
    """For spec.imagePullSecrets."""
    kubectl.apply(registry.secret(SECRET, namespace))
    return [{"name": SECRET}]


def test_an_image_that_is_not_in_the_registry(
    registry: Registry, account: list[dict[str, str]], apply: Callable[..., None], situation: Situation, eye: Eye, namespace: str
) -> None:
    image = registry.reference("stand-in:2")
    apply("nowhere", model="file:///nowhere", image=image, imagePullSecrets=account)
    situation("image not in the registry", "nowhere", BOTH, "ModelLoaded", "ImagePullError")
    # A node that is asked for a pod's Secret at once may not be allowed to read it yet: it asks without, is refused, and asks again.
    sentence = _comes("was not found", "nowhere", eye, namespace)
    assert image in sentence
    _stays(sentence, "nowhere", eye, namespace)


def test_an_image_that_needs_credentials(
    registry: Registry, apply: Callable[..., None], situation: Situation, eye: Eye, kubectl: Kubectl, namespace: str
) -> None:
    """Refused at first; Ready once the Secret is there and named, and the node has pulled with it what it did not have."""
    image = registry.reference(NAME)
    apply("secret", model="file:///nowhere", image=image)
    sentence = _sentence(situation("image needs credentials", "secret", BOTH, "ModelLoaded", "ImagePullError"))
    assert image in sentence
    assert "refuses" in sentence
    assert "spec.imagePullSecrets" in sentence
    _stays(sentence, "secret", eye, namespace)
    kubectl.apply(registry.secret(SECRET, namespace))
    apply("secret", model="file:///nowhere", image=image, imagePullSecrets=[{"name": SECRET}])
    resource.wait_ready(kubectl, "secret", 120, namespace)
    (pod,) = [pod for pod in kubectl.list("pods", namespace, "-l", f"{LABEL}=secret") if "deletionTimestamp" not in pod["metadata"]]
    assert pod["spec"]["imagePullSecrets"] == [{"name": SECRET}]
    assert pod["status"]["containerStatuses"][0]["imageID"].startswith(f"{registry.reference('stand-in')}@sha256:")
    pulled = [event["message"] for event in kubectl.list("events", namespace) if event["reason"] == "Pulled"]
    assert any(message.startswith(f'Successfully pulled image "{image}"') for message in pulled), pulled


def test_a_registry_that_nobody_is(apply: Callable[..., None], situation: Situation, eye: Eye, cluster: Cluster, namespace: str) -> None:
    """A port on which nobody listens."""
    if not isinstance(cluster, LocalCluster):
        pytest.skip("who listens on the nodes of another cluster is not known")
    image = f"{ADDRESS}:{ports.free(1)[0]}/{NAME}"
    apply("nobody", model="file:///nowhere", image=image)
    sentence = _sentence(situation("registry unreachable", "nobody", BOTH, "ModelLoaded", "ImagePullError"))
    assert image in sentence
    assert "cannot be reached" in sentence
    _stays(sentence, "nobody", eye, namespace)


def _sentence(seen: Seen) -> str:
    return str((condition(seen, "ModelLoaded") or {})["message"])


def _comes(words: str, name: str, eye: Eye, namespace: str) -> str:
    """The first sentence with these words."""
    said = lambda: [sentence for sentence in _told(name, eye, namespace) if words in sentence]  # noqa: E731
    return str(wait_for(said, 60, f"{words!r} on {name}")[0])


def _told(name: str, eye: Eye, namespace: str) -> list[str]:
    """What the resource said of its image, in order."""
    mine = [found for found in eye.seen("modeldeployments") if found["metadata"]["namespace"] == namespace]
    told = [condition(found, "ModelLoaded") or {} for found in mine if found["metadata"]["name"] == name]
    return [str(entry["message"]) for entry in told if entry.get("reason") == "ImagePullError"]


def _stays(sentence: str, name: str, eye: Eye, namespace: str) -> None:
    """Kubernetes has two words for it by turns, with one more layer around the cause; a person reads one sentence."""
    for knows in (FIRST, LATER):
        eye.first("pods", _of(name, namespace, knows), 60, f"both words on a pod of {name}")
    told = _told(name, eye, namespace)
    assert set(told[told.index(sentence) :]) == {sentence}


def _of(name: str, namespace: str, knows: Knows) -> Callable[[Seen], bool]:
    def holds(pod: Seen) -> bool:
        metadata = pod["metadata"]
        mine = (metadata["namespace"], metadata.get("labels", {}).get(LABEL)) == (namespace, name)
        return mine and knows.holds(pod)

    return holds
