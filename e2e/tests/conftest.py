"""One cluster for the whole run, the operator from the chart, a namespace per test; what was seen is printed when a test fails."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from product import installation, model_claim, resource, rollouts, situations
from product.client import Client
from product.ear import Ear
from product.eye import Eye
from product.gate import Gate, NoExcuses
from product.repeats import failing
from product.restricted import RESTRICTED
from product.rollouts import Rollout
from product.situations import Situation
from test_model import model_folder

from cluster import target
from cluster.kubectl import Kubectl, wait_for
from cluster.target import Cluster

FOLDER = Path(__file__).parent
OUTCOME = pytest.StashKey[bool]()
LOCAL = (os.environ.get("JITNEY_CLUSTER") or "local") == "local"
SITUATIONS = Gate(
    "what the resource says, and how soon",
    FOLDER,
    situations.table,
    situations.NEEDED,
    frozenset() if LOCAL else situations.LOCAL_ONLY,
)
ROLLOUTS = Gate("what became of the chats", FOLDER, rollouts.table, rollouts.NEEDED, frozenset() if LOCAL else rollouts.LOCAL_ONLY)


def pytest_configure(config: pytest.Config) -> None:
    # The last one is asked first.
    for gate in (ROLLOUTS, SITUATIONS):
        config.pluginmanager.register(gate)
    if LOCAL:
        config.pluginmanager.register(NoExcuses())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(1800))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    item.stash[OUTCOME] = item.stash.get(OUTCOME, False) or report.failed
    return report


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """Up, with the images of this checkout; left up, as `make demo` leaves it."""
    chosen = target.chosen()
    chosen.up()
    return chosen


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster) -> Kubectl:
    return Kubectl(cluster.kubeconfig)


@pytest.fixture(scope="session")
def operator(cluster: Cluster, kubectl: Kubectl) -> None:
    """The operator in its pod, with its own ServiceAccount."""
    installation.install(cluster, kubectl)


@pytest.fixture(scope="session")
def tidy(kubectl: Kubectl) -> Iterator[None]:
    """Nobody waits for a namespace's end between two tests; that they all go is seen in the end."""
    yield
    wait_for(lambda: not [name for name in kubectl("get", "namespaces", "-o", "name").split() if "/e2e-" in name], 180, "end of namespaces")


@pytest.fixture(scope="session", autouse=True)
def overdue(operator: None, eye: Eye, kubectl: Kubectl, tidy: None) -> Iterator[str]:
    """The namespace of a resource `overdue`, whose rollout begins with the suite and cannot end; nobody waits for it in vain."""
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    spec = {"model": "file:///nowhere", "image": "registry.invalid/none/such:1", "startupTimeoutSeconds": 10}
    metadata = {"name": "overdue", "namespace": name}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}},
        {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "spec": spec},
    )
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session", autouse=True)
def repeating(
    cluster: Cluster, operator: None, eye: Eye, kubectl: Kubectl, tidy: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The namespace of resources that fail from the suite's beginning on, so that nobody waits for their restarts; empty where their pods
    would not reach a hub here."""
    if cluster.kind != "local":
        yield ""
        return
    with failing(kubectl, tmp_path_factory.mktemp("own")) as namespace:
        yield namespace


@pytest.fixture
def namespace(kubectl: Kubectl, tidy: None, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of its own, which takes restricted pods only; shown when the test failed, and gone afterwards."""
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    yield name
    if request.node.stash.get(OUTCOME, False):
        print(f"\n=== {name}\n{kubectl.picture(name)}\n=== the operator\n{kubectl.picture(installation.NAMESPACE)}")
    # What waits for its pods in a test is the test's; here nobody has an answer to lose.
    kubectl("delete", "mdep", "--all", "-n", name, "--cascade=foreground", "--wait=false")
    kubectl("delete", "pods", "--all", "-n", name, "--grace-period=1", "--timeout=120s")
    kubectl("delete", "namespace", name, "--wait=false")
    kubectl("delete", "pv", f"{model_claim.CLAIM}-{name}", "--ignore-not-found", "--wait=false")


@pytest.fixture
def model(cluster: Cluster, kubectl: Kubectl, namespace: str) -> str:
    """The test model's reference on a claim in the test's namespace."""
    return model_claim.provide(cluster, kubectl, model_folder(), namespace)


@pytest.fixture(scope="session")
def eye(kubectl: Kubectl, operator: None) -> Iterator[Eye]:
    with Eye(kubectl) as eye, Ear(kubectl, eye):
        yield eye


@pytest.fixture
def situation(eye: Eye, kubectl: Kubectl, namespace: str, request: pytest.FixtureRequest) -> Situation:
    return Situation(eye, kubectl, namespace, _id(request.node), SITUATIONS.rows(request.node))


@pytest.fixture
def rollout(request: pytest.FixtureRequest) -> Rollout:
    return Rollout(_id(request.node), ROLLOUTS.rows(request.node))


def _id(test: pytest.Item) -> str:
    """Without the folder: the tables are wide enough."""
    return test.nodeid.rpartition("/")[2]


@pytest.fixture
def gpu_on_paper(kubectl: Kubectl) -> Iterator[None]:
    """A node that claims one GPU and has none: the scheduler places the pod, the kubelet runs it."""
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    for operation in ("add", "remove"):
        value = {"value": "1"} if operation == "add" else {}
        patch = [{"op": operation, "path": f"/status/{part}/nvidia.com~1gpu", **value} for part in ("capacity", "allocatable")]
        kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps(patch))
        if operation == "add":
            yield


@pytest.fixture
def client(cluster: Cluster, kubectl: Kubectl, namespace: str) -> Client:
    return Client(cluster, kubectl, namespace)


@pytest.fixture
def apply(operator: None, eye: Eye, kubectl: Kubectl, namespace: str):
    """apply(name, **spec): make or change a ModelDeployment in the test's namespace."""

    def apply_resource(name: str, **spec: object) -> None:
        metadata = {"name": name, "namespace": namespace}
        kubectl.apply({"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "spec": spec})

    return apply_resource


@pytest.fixture
def smollm2(apply, model: str, kubectl: Kubectl, namespace: str) -> str:
    """A Ready model that drains quickly; the URL of its Service."""
    apply("smollm2", model=model, maxNumSeqs=16, rollout={"drainSeconds": 30})
    resource.wait_ready(kubectl, "smollm2", 180, namespace)
    return f"http://smollm2.{namespace}.svc.cluster.local/v1"
