"""The operator as its own process against the real API server. No controllers run: what they would write is written by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import ports
from cluster.control_plane import ControlPlane
from support.namespaces import Namespace

OPERATOR = Path(__file__).parents[2] / "operator"
SMALL: dict[str, Any] = {"model": "smollm2-instruct", "size": "0.135"}
SECONDS = 20


@pytest.fixture(scope="module", autouse=True)
def operator(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The path of its log."""
    log = tmp_path_factory.mktemp("operator") / "log"
    environment = {"PYTHONPATH": str(OPERATOR), "KUBECONFIG": str(plane.kubeconfig), "JITNEY_HTTP_PORT": str(ports.free(1)[0])}
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "jitney_operator"], env=os.environ | environment, stdout=file, stderr=file)
        yield log
        process.terminate()
        assert process.wait(20) == 0, log.read_text()
    lease = json.loads(plane.kubectl("get", "lease", "jitney-operator", "-n", "default", "-o", "json"))
    assert lease["spec"].get("holderIdentity", "") == "", "the lease was not released"


def eventually(look: Callable[[], Any], log: Path) -> Any:
    """What `look` gives once it is true; the operator's log when it never is."""
    end, seen = time.monotonic() + SECONDS, None
    while time.monotonic() < end:
        try:
            seen = look()
        except RuntimeError:
            seen = None
        if seen:
            return seen
        time.sleep(0.2)
    raise AssertionError(f"not within {SECONDS} s; the operator said:\n{log.read_text()[-3000:]}")


def child(namespace: Namespace, kind: str) -> dict[str, Any]:
    return dict(json.loads(namespace.kubectl("get", kind, "chat", "-o", "json")))


def reason(namespace: Namespace) -> str:
    return str(namespace.get()["status"]["reason"])


def condition(namespace: Namespace, kind: str) -> dict[str, Any]:
    return next((entry for entry in namespace.get()["status"]["conditions"] if entry["type"] == kind), {})


def test_children_and_a_true_status(namespace: Namespace, operator: Path):
    namespace.create(**SMALL)
    deployment = eventually(lambda: child(namespace, "deployment"), operator)
    assert deployment["metadata"]["ownerReferences"][0]["uid"] == namespace.get()["metadata"]["uid"]
    assert child(namespace, "service")["spec"]["ports"][0]["port"] == 80
    status = eventually(lambda: namespace.get()["status"]["observedGeneration"] == 1 and namespace.get()["status"], operator)
    assert (status["ready"], status["reason"]) == ("0/1", "Pending")
    assert status["resolved"]["repository"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert condition(namespace, "Accepted")["status"] == "True"


def test_ready_when_the_deployment_is(namespace: Namespace, operator: Path):
    namespace.create(**SMALL)
    eventually(lambda: child(namespace, "deployment"), operator)
    status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
    namespace.kubectl("patch", "deployment", "chat", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    eventually(lambda: reason(namespace) == "Ready", operator)
    assert condition(namespace, "Ready")["status"] == "True"
    before = namespace.get()["metadata"]["resourceVersion"]
    time.sleep(2)
    assert namespace.get()["metadata"]["resourceVersion"] == before


def test_edits_and_deletions_of_children_are_undone(namespace: Namespace, operator: Path):
    namespace.create(**SMALL)
    eventually(lambda: child(namespace, "deployment"), operator)
    namespace.kubectl("scale", "deployment", "chat", "--replicas=5")
    eventually(lambda: child(namespace, "deployment")["spec"]["replicas"] == 1, operator)
    namespace.kubectl("delete", "service", "chat")
    eventually(lambda: child(namespace, "service"), operator)


def test_scale_suspend_and_a_new_batch_width(namespace: Namespace, operator: Path):
    namespace.create(**SMALL)
    eventually(lambda: child(namespace, "deployment"), operator)
    namespace.kubectl("scale", "mdep", "chat", "--replicas=3")
    eventually(lambda: child(namespace, "deployment")["spec"]["replicas"] == 3, operator)
    namespace.kubectl("patch", "mdep", "chat", "--type=merge", "-p", '{"spec": {"suspend": true, "maxNumSeqs": 4}}')
    eventually(lambda: child(namespace, "deployment")["spec"]["replicas"] == 0, operator)
    args = child(namespace, "deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[args.index("--max-num-seqs") + 1] == "4"


def test_a_service_of_somebody_else_is_left_alone(namespace: Namespace, operator: Path):
    namespace.kubectl("create", "service", "clusterip", "chat", "--tcp=80:80")
    before = child(namespace, "service")
    namespace.create(**SMALL)
    eventually(lambda: reason(namespace) == "NameConflict", operator)
    assert child(namespace, "service") == before
    namespace.kubectl("delete", "service", "chat")
    eventually(lambda: child(namespace, "deployment"), operator)


def test_what_is_not_supported_yet_is_said(namespace: Namespace, operator: Path):
    namespace.create(**SMALL, quantization="int8")
    eventually(lambda: reason(namespace) == "NotSupportedYet", operator)
    assert condition(namespace, "Stalled")["status"] == "True"
    assert not namespace.kubectl("get", "deployments", "-o", "name")


def test_the_runtimes_last_words_reach_the_resource(namespace: Namespace, operator: Path):
    namespace.create(**SMALL)
    template = eventually(lambda: child(namespace, "deployment"), operator)["spec"]["template"]
    metadata = {**template["metadata"], "name": "chat-1"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**template["spec"], "nodeName": "n1"}}
    namespace.kubectl("create", "-f", "-", input=json.dumps(pod))
    ended = {"exitCode": 10, "reason": "Error", "message": "ModelNotFound: the hub has no repository x/y"}
    container = {"name": "runtime", "image": "x", "imageID": "", "ready": False, "restartCount": 1, "state": {"terminated": ended}}
    status = json.dumps({"status": {"phase": "Running", "containerStatuses": [container]}})
    namespace.kubectl("patch", "pod", "chat-1", "--subresource=status", "--type=merge", "-p", status)
    eventually(lambda: reason(namespace) == "ModelNotFound", operator)
    failure = namespace.get()["status"]["lastFailure"]
    assert (failure["pod"], failure["exitCode"]) == ("chat-1", 10)
    assert "the hub has no repository x/y" in failure["message"]
