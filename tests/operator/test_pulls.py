"""What the kubelet says of an image that it cannot pull, as one stable sentence. The texts are of containerd, CRI-O and Docker Hub."""

from __future__ import annotations

import pytest

from jitney_operator import failures, pulls
from jitney_operator.observed import Pod

IMAGE = "registry.example/team/runtime:1"
UNPACK = f'failed to pull and unpack image "{IMAGE}": failed to resolve reference "{IMAGE}": '
DENIED = f"{UNPACK}pull access denied, repository does not exist or may require authorization: "
HEAD = f'{UNPACK}failed to do request: Head "https://registry.example/v2/": '
TLS = f"{HEAD}tls: failed to verify certificate: x509: "
EXPIRED = "certificate has expired or is not yet valid"
ANSWER = f"{UNPACK}unexpected status from HEAD request to https://registry.example/v2/x: "
TOKEN = "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://r.example/token?scope=a: "
MESSAGES = {
    "not there": (f"rpc error: code = NotFound desc = {UNPACK}{IMAGE}: not found", "was not found in its registry"),
    "not there, CRI-O": ("reading manifest 1 in registry.example/team/runtime: manifest unknown", "was not found in its registry"),
    "no credentials": (f"{DENIED}authorization failed: no basic auth credentials", "registry refuses"),
    "hub": (f"{DENIED}server message: insufficient_scope: authorization failed", "spec.imagePullSecrets"),
    "token": (f"{UNPACK}{TOKEN}401 Unauthorized", "401 Unauthorized"),
    "no such host": (
        f"{HEAD}dial tcp: lookup registry.example on 10.0.0.2:53: no such host",
        "cannot be reached from the node (no such host)",
    ),
    "refused": (f"{HEAD}dial tcp 10.0.0.9:5000: connect: connection refused", "cannot be reached from the node (connection refused)"),
    "slow": (f"{HEAD}read tcp 10.0.0.1:41234->10.0.0.9:443: i/o timeout", "cannot be reached from the node (i/o timeout)"),
    "unknown authority": (f"{TLS}certificate signed by unknown authority", "authority's certificate"),
    "old certificate": (f"{TLS}{EXPIRED}: current time 2026-11-26T07:00:00Z is after 2026-01-01T00:00:00Z", f"({EXPIRED})"),
    "full": (f"{UNPACK}failed to extract layer sha256:ab: write /var/lib/x: no space left on device", "no room"),
    "other processor": (f"{UNPACK}no match for platform in manifest: not found", "kind of processor"),
    "busy": (f"{ANSWER}429 Too Many Requests", "does not give it now (429 Too Many Requests)"),
    "broken": (f"{ANSWER}503 Service Unavailable", "does not give it now (503 Service Unavailable)"),
    "something new": (f"{UNPACK}the moon is full", "cannot be pulled (the moon is full)"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_the_cause_is_told_and_the_attempts_are_not(case: str) -> None:
    message, expected = MESSAGES[case]
    tried = pulls.sentence(IMAGE, "ErrImagePull", message)
    assert expected in tried
    assert IMAGE in tried
    waits = pulls.sentence(IMAGE, "ImagePullBackOff", f'Back-off pulling image "{IMAGE}": ErrImagePull: {message}')
    assert waits == tried
    later = message.replace("41234", "51999").replace("07:00:00", "07:05:13").replace("10.0.0.9", "10.0.0.8")
    assert pulls.sentence(IMAGE, "ErrImagePull", later) == tried


@pytest.mark.parametrize("image", ["reg.example/app:401", "reg.example/app:404", "reg.example/forbidden/app:1", "unauthorized/x:not-found"])
def test_what_an_image_is_called_says_nothing(image: str) -> None:
    unpack = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": failed to do request: '
    found = pulls.sentence(image, "ErrImagePull", f'{unpack}Head "https://x/v2/{image}": dial tcp: lookup x: no such host')
    assert found.startswith(f"The registry of the image {image} cannot be reached from the node (no such host)")
    assert "was not found" in pulls.sentence(image, "ErrImagePull", f'rpc error: code = NotFound desc = "{image}": {image}: not found')


def test_what_is_no_pull_at_all() -> None:
    assert "no name of an image" in pulls.sentence("A:b:c", "InvalidImageName", 'Failed to apply default image tag "A:b:c"')
    assert "imagePullPolicy Never" in pulls.sentence(IMAGE, "ErrImageNeverPull", f'Container image "{IMAGE}" is not present')


def test_between_two_attempts_an_older_kubelet_says_nothing_new() -> None:
    def failure(reason: str, message: str, told: dict[str, str] | None = None) -> failures.Failure:
        waiting = {"name": "runtime", "state": {"waiting": {"reason": reason, "message": message}}}
        spec = {"containers": [{"name": "runtime", "image": IMAGE}]}
        found = failures.of_pod(Pod({"metadata": {"name": "p"}, "spec": spec, "status": {"containerStatuses": [waiting]}}), told=told)
        assert found is not None
        return found

    tried = failure("ErrImagePull", MESSAGES["not there"][0])
    back_off = f'Back-off pulling image "{IMAGE}"'
    assert failure("ImagePullBackOff", back_off, tried.echo("2026-01-01T00:00:00Z")) == tried
    other = tried.echo("2026-01-01T00:00:00Z") | {"message": "The image other:1 was not found in its registry."}
    assert "was not found" not in failure("ImagePullBackOff", back_off, other).message


def test_an_image_that_holds_a_model_is_named_where_it_is_the_one() -> None:
    waiting = {"name": "runtime", "state": {"waiting": {"reason": "ErrImagePull", "message": MESSAGES["not there"][0]}}}
    spec = {"containers": [{"name": "runtime", "image": "jitney-runtime:1"}], "volumes": [{"name": "model", "image": {"reference": IMAGE}}]}
    found = failures.of_pod(Pod({"metadata": {"name": "p"}, "spec": spec, "status": {"containerStatuses": [waiting]}}))
    assert found is not None
    assert found.message.startswith(f"The image {IMAGE} was not found")
