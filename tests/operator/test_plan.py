"""Situations in, plan and status out; no cluster."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from jitney_operator import builders, drift, failures, fit, plan, resolve
from jitney_operator.api import TEMPLATE, ModelDeployment
from jitney_operator.catalogue import Catalogue
from jitney_operator.errors import ClusterError, Rejected
from jitney_operator.observed import Observed, Pod, Trouble
from jitney_operator.settings import Profile, Settings
from jitney_operator.writer import Writer
from support.plans import CATALOGUE, GI, NOW, SETTINGS, SMALL, conditions, make, resource, running


def test_a_new_resource_gets_a_service_and_a_deployment():
    wish = make(resource(**SMALL))
    assert [child["kind"] for child in wish.changes] == ["Service", "Deployment"]
    container = wish.changes[1]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][:2] == ["--model", "HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert wish.status(NOW)["ready"] == "0/1"


def test_a_model_in_an_image_is_mounted_where_the_runtime_reads_it():
    pod = make(resource(model="oci://registry.example/models/x:1")).changes[1]["spec"]["template"]["spec"]
    assert {"name": "model", "image": {"reference": "registry.example/models/x:1", "pullPolicy": "IfNotPresent"}} in pod["volumes"]
    container = pod["containers"][0]
    assert container["args"][:2] == ["--model", "/mnt/model"]
    assert {"name": "model", "mountPath": "/mnt/model", "readOnly": True} in container["volumeMounts"]


@pytest.mark.parametrize(
    ("spec", "endpoint"),
    [
        (SMALL, "https://hub.example"),
        ({"model": "hf://org/repo"}, "https://hub.example"),
        ({"model": "org/repo", "env": [{"name": "HF_ENDPOINT", "value": "http://mine"}]}, "http://mine"),
        ({"model": "pvc://claim/model"}, None),
        ({"model": "oci://registry.example/models/x:1"}, None),
        ({"model": "file:///models/x"}, None),
    ],
)
def test_the_administrators_hub_is_where_pods_download_from(spec: dict[str, Any], endpoint: str | None):
    def made(settings: Settings) -> dict[str, Any]:
        return plan.make(resource(**spec), Observed(), settings, CATALOGUE).changes[1]["spec"]["template"]

    mirrored = made(replace(SETTINGS, hub_endpoint="https://hub.example"))
    found = [entry["value"] for entry in mirrored["spec"]["containers"][0]["env"] if entry["name"] == "HF_ENDPOINT"]
    assert found == ([endpoint] if endpoint else [])
    # Only a pod that downloads from another place is another pod.
    assert (mirrored == made(SETTINGS)) == (endpoint != "https://hub.example")


def test_everything_ready_and_nothing_to_do():
    mdep = resource(**SMALL)
    wish = make(mdep, running(mdep, Ready="True"))
    assert wish.changes == ()
    found = conditions(wish.status(NOW))
    assert found["Ready"] == ("True", "Ready")
    assert found["Available"] == ("True", "Serving")
    assert "Stalled" not in found


def test_the_second_status_equals_the_first():
    mdep = resource(**SMALL)
    first = make(mdep, running(mdep, Ready="True")).status(NOW)
    again = resource(first, **SMALL)
    assert make(again, running(mdep, Ready="True")).status("2027-01-01T00:00:00Z") == first


def test_suspended_is_ready_and_not_available():
    mdep = resource(**SMALL, suspend=True)
    service, deployment = make(mdep).changes
    assert deployment["spec"]["replicas"] == 0
    deployment["status"] = {"observedGeneration": 1}
    found = conditions(make(mdep, Observed(deployment, service)).status(NOW))
    assert (found["Ready"], found["Available"]) == (("True", "Suspended"), ("False", "Suspended"))


@pytest.mark.parametrize(
    ("spec", "reason", "said"),
    [
        ({"model": "nope"}, "ModelNotFound", "org/repo"),
        ({"model": "smollm2-instruct"}, "SizeNotFound", "0.135, 0.36, 1.7"),
        ({"model": "smollm2-instruct", "size": 9}, "SizeNotFound", "0.135"),
        ({"model": "qwen1.5-chat", "size": 7, "device": "cpu"}, "DoesNotFit", "smaller size"),
        (
            {"model": "qwen2.5-instruct", "size": 7, "resourceProfile": "cpu"},
            "DoesNotFit",
            "What would fit: resourceProfile gpu (24.00Gi).",
        ),
        (SMALL | {"maxModelLen": 8192, "maxNumSeqs": 512}, "DoesNotFit", "What would fit: "),
        (SMALL | {"resourceProfile": "h100"}, "ProfileNotFound", "cpu, gpu"),
        (
            {"model": "qwen2.5-instruct", "size": 14, "device": "cuda", "maxModelLen": 1024},
            "DoesNotFit",
            "What would fit: quantization int8 (",
        ),
        (
            {"model": "qwen2.5-instruct", "size": 32, "maxModelLen": 1024, "maxNumSeqs": 4},
            "DoesNotFit",
            "What would fit: quantization int4 (",
        ),
        ({"model": "qwen2.5-instruct", "size": 72, "device": "cuda", "quantization": "int4"}, "DoesNotFit", "Choose a smaller size"),
        (
            {"model": "qwen2.5-instruct", "size": "1.5", "resourceProfile": "cpu"},
            "DoesNotFit",
            "What would fit: resourceProfile gpu (24.00Gi) or quantization int8 (4.00Gi, weights 1.88Gi, maxModelLen 3408).",
        ),
        (
            {"model": "qwen3", "size": "0.6", "resourceProfile": "cpu", "maxModelLen": 1024, "args": ["--dtype", "float32"]},
            "DoesNotFit",
            "or quantization none without --dtype float32 or --kernel, in args or env (3.78Gi, weights 1.40Gi).",
        ),
        (
            {"model": "qwen2.5-instruct", "size": "3", "resourceProfile": "cpu", "quantization": "int8", "maxModelLen": 1024},
            "DoesNotFit",
            "What would fit: resourceProfile gpu (24.00Gi) or quantization int4 (3.74Gi, weights 2.49Gi).",
        ),
        (
            {
                "model": "qwen2.5-instruct",
                "size": 3,
                "resourceProfile": "cpu",
                "maxModelLen": 1024,
                "args": ["--kernel=plain", "--dtype=bfloat16"],
            },
            "DoesNotFit",
            "or quantization int4 without --dtype float32 or --kernel, in args or env (3.74Gi, weights 2.49Gi).",
        ),
        (
            SMALL | {"autoscaling": {"minReplicas": 0, "maxReplicas": 2}},
            "FeatureUnavailable",
            "none serves the namespace team: set it to 1 or more",
        ),
        (SMALL | {"image": "elsewhere/x:1"}, "NotAllowed", "allowed are registry.example/*"),
        (SMALL | {"env": [{"name": "LD_PRELOAD", "value": "x"}]}, "NotAllowed", "LD_PRELOAD"),
        (SMALL | {"cache": {"type": "HostPath", "path": "/etc"}}, "NotAllowed", "allowed are /mnt/models"),
        (SMALL | {"cache": {"type": "HostPath", "path": "/mnt/models/../../etc"}}, "NotAllowed", "allowed are /mnt/models"),
        (SMALL | {"cache": {"type": "HostPath", "path": "/mnt/models-of-others"}}, "NotAllowed", "allowed are /mnt/models"),
        (SMALL | {"args": ["--trust-remote-code"]}, "NotAllowed", "take trust-remote-code out"),
        (SMALL | {"args": ["--trust-remote-code=true"]}, "NotAllowed", "take trust-remote-code out"),
        (SMALL | {"env": [{"name": "JITNEY_trust_REMOTE_CODE", "value": "1"}]}, "NotAllowed", "take trust-remote-code out"),
        (SMALL | {"args": ["$(HF_X)"], "env": [{"name": "HF_X", "value": "--trust-remote-code"}]}, "NotAllowed", "write $(HF_X) out"),
        (
            {"model": "qwen2.5-instruct", "size": "0.5", "maxNumSeqs": 512, "resourceProfile": "cpu"},
            "DoesNotFit",
            "What would fit: maxNumSeqs ",
        ),
        ({"model": "oci://elsewhere/models/x:1"}, "NotAllowed", "allowed are registry.example/*"),
    ],
)
def test_what_is_not_accepted(spec: dict[str, Any], reason: str, said: str):
    wish = make(resource(**spec))
    assert wish.changes == ()
    status = wish.status(NOW)
    assert conditions(status)["Accepted"] == ("False", reason)
    assert conditions(status)["Stalled"] == ("True", reason)
    assert said in status["conditions"][0]["message"]


@pytest.mark.parametrize("more", [{}, {"image": "registry.example/another-build:1"}], ids=["the runtime's image", "a person's"])
@pytest.mark.parametrize(
    ("args", "said"),
    [
        *[
            ([flag, "7"], f"spec.args: {flag} is set by {field}: take it out, and set that field.")
            for flag, field in resolve.FIELD_OF.items()
        ],
        *[([f"{flag}=7"], f"spec.args: {flag} is the operator's own: take it out.") for flag in ("--host", "--port", "--termination-log")],
        (["--log-level", "debug", "--max-num-seqs=512"], "--max-num-seqs is set by spec.maxNumSeqs"),
        (["--device", "cuda"], "--device is set by spec.device"),
        (["--device=cpu", "--device=cuda"], "--device is set by spec.device"),
        (["--device"], "--device is set by spec.device"),
    ],
)
def test_a_flag_that_a_field_sets_is_refused_in_favour_of_the_field(args: list[str], said: str, more: dict[str, Any]):
    wish = make(resource(**SMALL, **more, args=args))
    assert wish.changes == ()
    status = wish.status(NOW)
    assert conditions(status)["Accepted"] == ("False", "NotAllowed")
    assert said in status["conditions"][0]["message"]


@pytest.mark.parametrize(
    "args", [["--max-waiting", "7"], ["--chat-template=--port"], ["--stop=--max-num-seqs=1"], ["--model-x", "--portable"]]
)
def test_other_flags_are_handed_on_behind_the_operators(args: list[str]):
    container = make(resource(**SMALL, args=args)).changes[1]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][-len(args) :] == args


def test_a_flag_of_a_field_that_an_earlier_version_took_stays_until_the_spec_changes(monkeypatch: pytest.MonkeyPatch):
    spec = SMALL | {"args": ["--max-num-seqs", "512"]}
    with monkeypatch.context() as earlier:
        earlier.setattr(resolve, "refuse_flags_of_fields", lambda spec: None)
        first = make(resource(**spec))
    again = make(resource(first.status(NOW), **spec))
    assert (again.resolved, again.changes) == (first.resolved, first.changes)
    before = again.status(NOW)
    before["resolved"]["generation"] = 0
    changed = make(resource(before, **spec, maxModelLen=1024)).status(NOW)
    assert conditions(changed)["Accepted"] == ("False", "NotAllowed")


def test_a_gpu_that_is_left_idle_is_told_so():
    """The processor computes, in the pod's memory."""
    spec = SMALL | {"maxModelLen": 1024, "resourceProfile": "gpu", "args": ["--device", "cpu"]}
    wish = make(resource(**spec))
    found = wish.resolved or {}
    assert (found["device"], found["gpus"], found["breakdown"]["weights"]) == ("cpu", 1, "0.30Gi")
    container = wish.changes[1]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][-2:] == ["--device", "cpu"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    refused = make(resource(**spec, resources={"limits": {"memory": "512Mi"}})).status(NOW)
    assert conditions(refused)["Accepted"] == ("False", "DoesNotFit")
    assert "and resources.limits.memory is 0.50Gi." in refused["conditions"][0]["message"]


def test_beside_an_idle_gpu_a_model_is_measured_by_the_pods_limit():
    gpu = Profile("gpu", "cuda", 24 * GI, gpus=1, limits={"memory": "1Gi"})
    assert resolve.memory_of(resource(**SMALL).spec, gpu) == 24 * GI
    assert resolve.memory_of(resource(**SMALL, args=["--device=cpu"]).spec, gpu) == GI


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        ({"exitCode": 10, "message": "ModelNotFound: no such repository"}, "ModelNotFound"),
        ({"exitCode": 11}, "Unauthorized"),
        ({"exitCode": 12}, "HubUnreachable"),
        ({"exitCode": 13}, "DiskFull"),
        ({"exitCode": 14}, "OutOfMemory"),
        ({"exitCode": 15}, "GPUOutOfMemory"),
        ({"exitCode": 16}, "DeviceNotFound"),
        ({"exitCode": 17}, "NotSupportedYet"),
        ({"exitCode": 2}, "CrashLoop"),
        ({"exitCode": 137, "reason": "OOMKilled"}, "OutOfMemory"),
        ({"exitCode": 0, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:10:07Z"}, "StartupTimeout"),
        ({"exitCode": 137, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:12:01Z"}, "StartupTimeout"),
        ({"exitCode": 0, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-20T00:00:00Z"}, "CrashLoop"),
        ({"exitCode": 137, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:20Z"}, "CrashLoop"),
        ({"exitCode": 143}, "CrashLoop"),
        ({"exitCode": 10, "startedAt": None, "finishedAt": None}, "ModelNotFound"),
    ],
)
def test_exit_codes_become_reasons_and_stay_while_it_restarts(ended: dict[str, Any], reason: str):
    mdep = resource(**SMALL)
    for state in ({"state": {"terminated": ended}}, {"state": {"running": {}}, "lastState": {"terminated": ended}}):
        status = make(mdep, running(mdep, state, Ready="False")).status(NOW)
        assert conditions(status)["ModelLoaded"] == ("False", reason)
        assert status["reason"] == status["lastFailure"]["reason"] == reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("0/2 nodes are available: 2 Insufficient nvidia.com/gpu.", "InsufficientGPU"),
        ("0/2 nodes are available: 2 Insufficient nvidia.com/mig-1g.10gb.", "InsufficientGPU"),
        ("0/2 nodes are available: 2 Insufficient memory.", "InsufficientMemory"),
        ("0/2 nodes are available: 2 node(s) had untolerated taint(s).", "Unschedulable"),
        ('persistentvolumeclaim "weights" not found', "ClaimNotFound"),
        ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found", "Unschedulable"),
    ],
)
def test_why_no_node_takes_it(message: str, reason: str):
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    failure = failures.of_pod(Pod({"metadata": {"name": "p"}, "spec": DEVICES, "status": {"conditions": [condition]}}))
    assert failure is not None
    assert failure.reason == reason


LIMITS = {"nvidia.com/gpu": "1", "nvidia.com/mig-1g.10gb": "1", "memory": "1Gi"}
DEVICES = {"containers": [{"name": "runtime", "resources": {"limits": LIMITS}}]}
WAITS = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: 1 Insufficient nvidia.com/gpu."}
SILENT = [{"type": "Ready", "status": "Unknown"}, {"type": "ContainersReady", "status": "True"}]


@pytest.mark.parametrize(
    ("spec", "conditions", "reason"),
    [
        (DEVICES | {"nodeName": "n"}, [], "WaitingForDrain"),
        (DEVICES, [], "InsufficientGPU"),
        ({"nodeName": "n", "containers": []}, [], "InsufficientGPU"),
        (DEVICES | {"nodeName": "n"}, SILENT, "InsufficientGPU"),
    ],
    ids=["it holds one", "never placed", "holds none", "on a node that is lost"],
)
def test_only_a_pod_that_holds_the_device_is_waited_for(spec: dict[str, Any], conditions: list[dict[str, str]], reason: str):
    leaving = Pod({"metadata": {"name": "old", "deletionTimestamp": NOW}, "spec": spec, "status": {"conditions": conditions}})
    failure = failures.of_pod(Pod({"metadata": {"name": "p"}, "spec": DEVICES, "status": {"conditions": [WAITS]}}), (leaving,))
    assert failure is not None
    assert failure.reason == reason


def test_last_words_with_a_time_in_them_are_told_once():
    mdep = resource(**SMALL)

    def words(text: str) -> Observed:
        ended = {"exitCode": 3, "message": text}
        return running(mdep, {"state": {"running": {}}, "lastState": {"terminated": ended}}, Ready="False")

    first = make(mdep, words("2026-01-01T07:00:41Z server[101]: no such table")).status(NOW)
    again = resource(first, **SMALL)
    assert make(again, words("2026-01-01T07:00:59Z server[222]: no such table")).status("2026-01-01T08:00:00Z") == first
    assert first["lastFailure"]["time"] == NOW, "of its first occurrence"
    other = make(again, words("2026-01-01T07:00:59Z server[222]: no such user")).status("2026-01-01T08:00:00Z")
    assert "no such user" in other["lastFailure"]["message"]
    assert other["lastFailure"]["time"] == "2026-01-01T08:00:00Z"


def test_long_last_words_with_a_time_in_them_are_told_once_too():
    """A field of the status takes 4,096 characters of them."""
    mdep = resource(**SMALL)

    def said(time: str) -> Observed:
        message = f"failed to create the container at {time}: " + "mount " * 1000
        return running(mdep, {"state": {"waiting": {"reason": "CreateContainerError", "message": message}}}, Ready="False")

    first = make(mdep, said("07:00:41")).status(NOW)
    assert (first["reason"], len(first["lastFailure"]["message"])) == ("CrashLoop", 4096)
    assert make(resource(first, **SMALL), said("07:00:59")).status("2026-01-01T08:00:00Z") == first


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('secret "keys" not found', "SecretNotFound"),
        ("couldn't find key main in Secret team/keys", "SecretNotFound"),
        ('configmap "secret-settings" not found', "ConfigMapNotFound"),
        ("couldn't find key main in ConfigMap team/secret", "ConfigMapNotFound"),
    ],
)
def test_what_the_container_refers_to_is_named(message: str, reason: str):
    mdep = resource(**SMALL)
    status = make(mdep, running(mdep, {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": message}}})).status(NOW)
    assert conditions(status)["ModelLoaded"] == ("False", reason)
    assert message in status["lastFailure"]["message"]


def test_ready_is_what_the_pods_are_too():
    """The Deployment's counters may be behind: a pod that its node lost is not ready, whatever they say."""
    mdep = resource(**SMALL)
    observed = running(mdep, {"state": {"running": {}}}, Ready="True")
    assert make(mdep, observed).status(NOW)["reason"] == "Ready"
    (pod,) = observed.pods
    lost = replace(observed, pods=(Pod({**pod.body, "status": pod.body["status"] | {"conditions": SILENT}}),))
    status = make(mdep, lost).status(NOW)
    assert (status["reason"], status["ready"], conditions(status)["Available"][0]) == ("NodeLost", "0/1", "False")
    none = make(mdep, replace(observed, pods=())).status(NOW)
    assert conditions(none)["Ready"][0] == "False"


@pytest.mark.parametrize(("namespaces", "accepted"), [((), "False"), (("other",), "False"), (("other", "team"), "True"), (("*",), "True")])
def test_a_model_may_sleep_where_a_front_door_wakes_it(namespaces: tuple[str, ...], accepted: str):
    mdep, settings = resource(**SMALL, autoscaling={"minReplicas": 0, "maxReplicas": 2}), replace(SETTINGS, wake_namespaces=namespaces)
    found = conditions(plan.make(mdep, Observed(), settings, CATALOGUE).status(NOW))
    assert found["Accepted"] == (accepted, "Fits" if accepted == "True" else "FeatureUnavailable")
    assert ("Stalled" in found) == (accepted == "False")


@pytest.mark.parametrize(
    ("namespaces", "hpa", "said"),
    [
        (("*",), False, "the next request to the front door wakes it"),
        (("*",), True, "set spec.replicas to serve again"),
        # It slept before its front door went.
        ((), False, "none serves the namespace team"),
    ],
)
def test_a_model_that_its_load_sent_to_sleep(namespaces: tuple[str, ...], hpa: bool, said: str):
    mdep = resource(**SMALL, autoscaling={"minReplicas": 0, "maxReplicas": 2}).with_hpa(hpa).with_replicas(0)
    service, deployment = plan.make(mdep, Observed(), replace(SETTINGS, wake_namespaces=("*",)), CATALOGUE).changes
    deployment["status"] = {"observedGeneration": 1}
    status = plan.make(mdep, Observed(deployment, service), replace(SETTINGS, wake_namespaces=namespaces), CATALOGUE).status(NOW)
    found = {entry["type"]: entry for entry in status["conditions"]}
    assert found["Ready"]["reason"] == ("ScaledToZero" if namespaces else "FeatureUnavailable")
    assert found["Available"]["status"] == "False"
    assert said in found["Ready"]["message"]
    assert status["ready"] == "0/0"
    assert status["autoscaling"] == {"replicas": 0, "decidedBy": "HorizontalPodAutoscaler" if hpa else "Load"}


def test_a_model_of_which_nobody_knows_who_scales_it_says_so():
    mdep = resource(**SMALL, autoscaling={"maxReplicas": 2})
    serving = running(mdep, {"state": {"running": {}}}, Ready="True")
    status = make(mdep.with_hpa(False, "cannot list; grant it"), serving).status(NOW)
    said = next(entry for entry in status["conditions"] if entry["type"] == "Progressing")
    assert (said["status"], said["reason"]) == ("False", "AutoscalerUnknown")
    assert "cannot list; grant it" in said["message"]
    assert status["autoscaling"] == {"replicas": 1, "decidedBy": "Nobody"}
    assert conditions(status)["Ready"] == ("True", "Ready")
    known = make(mdep.with_hpa(True, "cannot list; grant it"), serving).status(NOW)
    assert conditions(known)["Progressing"] == ("False", "Complete")
    assert known["autoscaling"]["decidedBy"] == "HorizontalPodAutoscaler"


def test_a_refused_generation_is_told_with_the_replicas_that_stay():
    mdep = resource(**SMALL)
    serving = running(mdep, {"state": {"running": {}}}, Ready="True")
    status = make(resource(**SMALL, suspend=True, resourceProfile="h100"), serving).status(NOW)
    assert conditions(status)["Accepted"] == ("False", "ProfileNotFound")
    assert (status["ready"], conditions(status)["ModelLoaded"], conditions(status)["Available"][0]) == ("1/1", ("True", "Loaded"), "True")


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize(
    ("spec", "device"),
    [
        (SMALL, "cpu"),
        (SMALL | {"device": "cuda"}, "cuda"),
        (SMALL | {"resourceProfile": "gpu"}, "cuda"),
        # The profile for a CPU is too small.
        ({"model": "qwen2.5-instruct", "size": 14}, "cuda"),
    ],
)
def test_a_quantized_model_goes_to_any_device(spec: dict[str, Any], device: str, quantization: str):
    made = make(resource(**spec, quantization=quantization))
    args = made.changes[1]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert [args[args.index(flag) + 1] for flag in ("--quantization", "--device")] == [quantization, device]
    status = made.status(NOW)
    assert conditions(status)["Accepted"] == ("True", "Fits")
    assert (status["resolved"]["device"], status["resolved"]["gpus"]) == (device, int(device == "cuda"))


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_the_administrators_default_may_be_a_gpu_for_a_quantized_model_too(quantization: str):
    mdep = resource(**SMALL, quantization=quantization)
    assert (plan.make(mdep, Observed(), replace(SETTINGS, default_profile="gpu"), CATALOGUE).resolved or {})["profile"] == "gpu"


@pytest.mark.parametrize(
    ("more", "weights"),
    [
        ({}, "0.30Gi"),
        ({"args": ["--dtype", "float32"]}, "0.61Gi"),
        ({"args": ["--log-level", "debug", "--dtype=float32"]}, "0.61Gi"),
        ({"args": ["--dtype", "float32", "--dtype", "bfloat16"]}, "0.30Gi"),
        ({"args": ["--dtype", "float16"]}, "0.30Gi"),
        ({"args": ["--kernel", "onednn"]}, "0.61Gi"),
        ({"args": ["--kernel", "onednn", "--dtype", "bfloat16"]}, "0.30Gi"),
        ({"args": ["--kernel", "plain", "--dtype", "float32"]}, "0.61Gi"),
        ({"args": ["--kernel", "onednn"], "device": "cuda"}, "0.25Gi"),
        ({"args": ["--dtype", "float32"], "device": "cuda"}, "0.50Gi"),
        ({"args": ["--dtype", "float32"], "quantization": "int8"}, "0.18Gi"),
        ({"env": [{"name": "JITNEY_DTYPE", "value": "float32"}]}, "0.61Gi"),
        ({"env": [{"name": "JITNEY_DTYPE", "value": "float32"}], "args": ["--dtype", "auto"]}, "0.30Gi"),
        ({"env": [{"name": "JITNEY_DTYPE", "value": ""}, {"name": "JITNEY_KERNEL", "value": "plain"}]}, "0.61Gi"),
    ],
)
def test_the_dtype_that_a_person_asks_for_is_counted(more: dict[str, Any], weights: str):
    """SmolLM2: 134,515,008 weights, and on a CPU 28,311,552 once more, which score the vocabulary."""
    status = make(resource(**SMALL, maxModelLen=1024, **more)).status(NOW)
    assert status["resolved"]["breakdown"]["weights"] == weights


def test_a_quantized_model_has_the_time_to_be_fetched_as_it_is_published():
    large = Settings(profiles={"cpu": Profile("cpu", "cpu", 96 * GI)})
    mdep = resource(model="qwen2.5-instruct", size="14", quantization="int4")
    deployment = plan.make(mdep, Observed(), large, CATALOGUE).changes[1]["spec"]
    assert deployment["progressDeadlineSeconds"] - 300 == 2 * CATALOGUE.find("qwen2.5-instruct", "14").parameters // 20_000_000


def test_a_gpu_pod_leaves_before_the_next_comes():
    deployment = make(resource(**SMALL, resourceProfile="gpu")).changes[1]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    limits = deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"nvidia.com/gpu": "1"}


@pytest.mark.parametrize(
    ("live", "desired", "same"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"limits": {"cpu": "500m"}}, {"limits": {"cpu": "0.5"}}, True),
        ([{"name": "x"}, {"name": "injected"}], [{"name": "x"}], True),
        (["a", "b"], ["a"], False),
        (None, {"a": 1}, False),
    ],
)
def test_drift(live: Any, desired: Any, same: bool):
    assert drift.holds(live, desired) is same


@pytest.mark.parametrize(
    ("ready", "containers", "reason"),
    [
        ({"status": "False"}, "True", "NodeLost"),
        ({"status": "Unknown", "reason": "NodeStatusUnknown"}, "True", "NodeLost"),
        ({"status": "False", "reason": "ContainersNotReady"}, "False", None),
        ({"status": "False", "reason": "ReadinessGatesNotReady"}, "True", None),
        ({"status": "True"}, "True", None),
    ],
)
def test_a_node_that_has_fallen_silent(ready: dict[str, str], containers: str, reason: str | None):
    status = {"conditions": [{"type": "Ready", **ready}, {"type": "ContainersReady", "status": containers}]}
    failure = failures.of_pod(Pod({"metadata": {"name": "p"}, "spec": {"nodeName": "n7"}, "status": status}))
    assert (failure.reason if failure else None) == reason
    assert failure is None or "n7" in failure.message


def test_without_a_profile_the_smallest_that_holds_the_model_is_taken_and_that_is_said():
    found = make(resource(model="qwen2.5-instruct", size=7)).resolved or {}
    assert found["profile"] == "gpu"
    assert found["explanation"].startswith("gpu (24.00Gi) holds the model and cpu (4.00Gi) would not.")
    assert "The context window is " in found["explanation"]


def test_the_smallest_profile_is_taken_where_it_holds_the_model():
    found = make(resource(**SMALL, maxModelLen=2048)).resolved or {}
    assert found["profile"] == "cpu"
    assert found["explanation"] == "cpu (4.00Gi) is the smallest that holds it."


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("8Gi", "cpu (8.00Gi by resources.limits.memory) is the smallest that holds it."),
        ("512Mi", "gpu (24.00Gi) holds the model and cpu (0.50Gi by resources.limits.memory) would not."),
    ],
)
def test_the_explanation_has_the_memory_that_was_compared(limit: str, said: str):
    found = make(resource(**SMALL, maxModelLen=2048, resources={"limits": {"memory": limit}})).resolved or {}
    assert found["explanation"] == said


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            SMALL | {"resourceProfile": "cpu", "maxModelLen": 2048},
            "and resources.limits.memory is 0.50Gi. What would fit: resourceProfile gpu (24.00Gi).",
        ),
        ({"model": "qwen1.5-chat", "size": 7, "device": "cpu"}, "Choose a smaller size, or raise resources.limits.memory."),
        # A GPU is the largest of what was tried, whatever the profiles for a CPU have.
        ({"model": "qwen2.5-instruct", "size": 72}, "and the profile has 24.00Gi."),
    ],
)
def test_a_refusal_has_the_memory_that_was_compared(spec: dict[str, Any], said: str):
    large = replace(SETTINGS, profiles={**SETTINGS.profiles, "large": Profile("large", "cpu", 64 * GI)})
    mdep = resource(**spec, resources={"limits": {"memory": "512Mi"}})
    status = plan.make(mdep, Observed(), large, CATALOGUE).status(NOW)
    assert conditions(status)["Accepted"] == ("False", "DoesNotFit")
    assert said in status["conditions"][0]["message"]


def test_a_profile_that_was_named_needs_no_explanation():
    assert "explanation" not in (make(resource(**SMALL, maxModelLen=2048, resourceProfile="gpu")).resolved or {})


def test_of_a_model_whose_shape_is_unknown_it_is_not_said_that_it_fits():
    found = make(resource(model="org/unheard-of")).resolved or {}
    assert found["explanation"] == "cpu (4.00Gi) is the smallest; what the model needs is not known."


def test_an_explanation_that_an_earlier_version_did_not_give_is_no_reason_to_write():
    mdep = resource(**SMALL, maxModelLen=2048)
    first = make(mdep)
    status = first.status(NOW)
    del status["resolved"]["explanation"]
    again = make(resource(status, **SMALL, maxModelLen=2048))
    assert again.status(NOW) == status
    assert again.changes[-1]["spec"]["template"] == first.changes[-1]["spec"]["template"]


def test_the_administrators_default_comes_first():
    settings = replace(SETTINGS, default_profile="gpu")
    found = plan.make(resource(**SMALL, maxModelLen=2048), Observed(), settings, CATALOGUE).resolved or {}
    assert found["profile"] == "gpu"


def test_last_words_from_a_log_carry_no_time_that_would_make_them_new():
    mdep = resource(**SMALL)
    said = [
        make(mdep, running(mdep, {"state": {"terminated": {"exitCode": 139, "message": f"2026-01-01 00:00:0{n},123 ERROR a.b: gone"}}}))
        for n in (1, 2)
    ]
    assert said[0].status(NOW) == said[1].status(NOW)
    assert said[0].status(NOW)["lastFailure"]["message"] == "gone"


def test_an_evicted_pod_is_not_counted_beside_its_replacement():
    mdep = resource(**SMALL)
    observed = running(mdep, Ready="True")
    (pod,) = observed.pods
    evicted = {**pod.body, "metadata": {**pod.body["metadata"], "name": "chat-0"}, "status": {"phase": "Failed", "reason": "Evicted"}}
    both = Observed(observed.deployment, observed.service, (Pod(evicted), pod))
    assert conditions(make(mdep, both).status(NOW))["Ready"] == ("True", "Ready")


@pytest.mark.parametrize("message", ['secret "hub" not found', "couldn't find key token in Secret team/hub"])
def test_a_secret_or_a_key_of_it_that_is_missing(message: str):
    mdep = resource(**SMALL)
    waiting = {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": message}}}
    assert make(mdep, running(mdep, waiting)).status(NOW)["reason"] == "SecretNotFound"


def volume(wish: plan.Plan, name: str) -> dict[str, Any]:
    volumes = {entry["name"]: entry for entry in wish.changes[-1]["spec"]["template"]["spec"]["volumes"]}
    return {key: value for key, value in volumes[name].items() if key != "name"}


@pytest.mark.parametrize(
    ("cache", "source"),
    [
        (None, {"emptyDir": {}}),
        ({"type": "EmptyDir", "size": "20Gi"}, {"emptyDir": {"sizeLimit": "20Gi"}}),
        ({"type": "PersistentVolumeClaim", "claimName": "weights"}, {"persistentVolumeClaim": {"claimName": "weights"}}),
        ({"type": "PersistentVolumeClaim", "size": "20Gi"}, {"persistentVolumeClaim": {"claimName": "chat-cache"}}),
        ({"type": "HostPath", "path": "/mnt/models/a"}, {"hostPath": {"path": "/mnt/models/a", "type": "DirectoryOrCreate"}}),
    ],
)
def test_where_downloads_go(cache: dict[str, Any] | None, source: dict[str, Any]):
    assert volume(make(resource(**SMALL, **({"cache": cache} if cache else {}))), "cache") == source


def test_a_made_claim_is_made_once_and_its_pods_overlap_only_where_that_is_asked_for():
    mdep = resource(**SMALL, cache={"type": "PersistentVolumeClaim", "size": "20Gi"})
    claim, service, deployment = make(mdep).changes
    assert (claim["kind"], claim["metadata"]["name"], service["kind"]) == ("PersistentVolumeClaim", "chat-cache", "Service")
    assert claim["metadata"]["ownerReferences"][0]["uid"] == "u1"
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    surging = make(resource(**SMALL, cache={"type": "PersistentVolumeClaim", "size": "20Gi"}, rollout={"maxSurge": 1})).changes[-1]
    assert surging["spec"]["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    grown = copy.deepcopy(claim)
    grown["spec"]["resources"]["requests"]["storage"] = "40Gi"
    assert make(mdep, Observed(deployment, service, claim=grown)).changes == ()


@pytest.mark.parametrize(("there", "asked"), [("1Gi", True), ("19.9Gi", True), ("20480Mi", False), ("20Gi", False), ("21Gi", False)])
def test_a_made_claim_that_is_smaller_than_the_spec_says_is_asked_to_grow(there: str, asked: bool):
    """The cache was taken out of the spec and came back bigger, and its claim had stayed."""
    mdep = resource(**SMALL, cache={"type": "PersistentVolumeClaim", "size": "20Gi"})
    claim, service, deployment = make(mdep).changes
    live = copy.deepcopy(claim)
    live["spec"]["resources"]["requests"]["storage"] = there
    assert make(mdep, Observed(deployment, service, claim=live)).changes == ((claim,) if asked else ())


def test_the_address_is_told_where_the_service_is_ours():
    mdep = resource(**SMALL)
    observed = running(mdep)
    assert make(mdep, observed).status(NOW)["url"] == "http://chat.team.svc/v1"
    assert "url" not in make(mdep, replace(observed, service=None)).status(NOW)


@pytest.mark.parametrize(
    ("status", "words", "stalls"),
    [
        (422, "must be less than or equal to memory limit", True),
        (400, "cannot be handled as a Deployment", True),
        (500, ".spec.template.spec.affinity.nodeAffinity.sometimes: field not declared in schema", True),
        (403, "exceeded quota: stingy", False),
        (500, 'failed calling webhook "gone.example.com"', False),
    ],
)
def test_a_refused_child_stalls_where_only_a_person_can_help(status: int, words: str, stalls: bool):
    error = ClusterError(status, words)
    assert error.final
    found = conditions(make(resource(**SMALL)).refused(Rejected("ChildRefused", words, invalid=error.invalid)).status(NOW))
    assert found["Accepted"] == ("False", "ChildRefused")
    assert found.get("Stalled") == (("True", "ChildRefused") if stalls else None)


@pytest.mark.parametrize(("kind", "name"), [("Service", "chat"), ("PersistentVolumeClaim", "chat-cache")])
async def test_an_object_of_somebody_elses_is_called_by_its_own_name(kind: str, name: str):
    mdep = resource(**SMALL, cache={"type": "PersistentVolumeClaim", "size": "20Gi"})
    (child,) = (child for child in make(mdep).changes if child["kind"] == kind)
    writer = Writer(None, None, None)  # type: ignore[arg-type]
    with pytest.raises(Rejected, match=f"A {kind} named {name} exists in this namespace and is not ours"):
        await writer.apply(child, mdep, {"metadata": {"name": name}})


@pytest.mark.parametrize(
    ("spec", "surge", "unavailable"),
    [({}, 1, 0), ({"resourceProfile": "gpu"}, 0, 1), ({"resourceProfile": "gpu", "rollout": {"maxSurge": 1}}, 1, 0)],
)
def test_how_many_pods_there_may_be_during_a_rollout(spec: dict[str, Any], surge: int, unavailable: int):
    deployment = make(resource(**SMALL, **spec)).changes[-1]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": surge, "maxUnavailable": unavailable}


@pytest.mark.parametrize(
    ("profile", "limits", "gpus", "surge"),
    [
        ("gpu", {}, 1, 0),
        ("gpu", {"nvidia.com/gpu": 4}, 4, 0),
        ("gpu", {"nvidia.com/gpu": "0"}, 0, 1),
        ("cpu", {}, 0, 1),
        ("cpu", {"nvidia.com/gpu": "1"}, 1, 0),
        ("cpu", {"nvidia.com/mig-1g.10gb": 2}, 2, 0),
        ("cpu", {"rdma/hca": 1}, 0, 1),
        # What no node has and the status has no room for.
        ("cpu", {"nvidia.com/gpu": "1e20"}, resolve.MOST_GPUS, 0),
    ],
)
def test_the_gpus_are_those_that_the_pod_holds(profile: str, limits: dict[str, Any], gpus: int, surge: int):
    wish = make(resource(**SMALL, resourceProfile=profile, resources={"requests": limits, "limits": limits}))
    assert (wish.resolved or {})["gpus"] == gpus
    assert wish.changes[-1]["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == surge


def test_an_absurd_number_of_gpus_is_not_accepted():
    status = make(resource(**SMALL, resources={"limits": {"nvidia.com/gpu": "1e999999"}})).status(NOW)
    assert conditions(status)["Accepted"] == ("False", "DoesNotFit")
    assert "resources.limits.nvidia.com/gpu" in status["conditions"][0]["message"]


def test_what_a_generation_came_to_mean_outlives_another_configuration():
    mdep = resource(**SMALL)
    seen = make(mdep, running(mdep, Ready="True")).status(NOW)
    other = Settings(
        runtime_image="jitney-runtime:9",
        default_profile="big",
        profiles={**SETTINGS.profiles, "big": Profile("big", "cpu", 64 * GI)},
    )
    again = plan.make(resource(seen, **SMALL), Observed(), other, CATALOGUE).resolved
    assert again == seen["resolved"]
    refused = [{**entry, "status": "False"} for entry in seen["conditions"]]
    assert plan.make(resource(seen | {"conditions": refused}, **SMALL), Observed(), other, CATALOGUE).resolved == again
    moved = resource(seen | {"resolved": {**seen["resolved"], "generation": 0, "asks": "something else"}}, **SMALL)
    fresh = plan.make(moved, Observed(), other, CATALOGUE).resolved or {}
    assert (fresh["image"], fresh["profile"]) == ("jitney-runtime:9", "big")


def test_a_status_of_the_first_version_is_kept_too():
    mdep = resource(**SMALL)
    seen = make(mdep, running(mdep, Ready="True")).status(NOW)
    del seen["resolved"]["generation"], seen["resolved"]["asks"]
    other = replace(SETTINGS, runtime_image="jitney-runtime:9")
    found = plan.make(resource(seen, **SMALL), Observed(), other, CATALOGUE).resolved or {}
    assert found["image"] == "jitney-runtime:0.1.0"


def test_a_version_that_counts_more_overhead_starts_nothing_anew(monkeypatch: pytest.MonkeyPatch):
    """The window was all that the memory held by then."""
    spec = {"model": "qwen2.5-instruct", "size": 7, "resourceProfile": "gpu"}
    with monkeypatch.context() as before:
        before.setattr(fit, "OVERHEAD_FLOOR", {"cpu": 2**29, "cuda": 2**29})
        first = make(resource(**spec))
    again = make(resource(first.status(NOW), **spec))
    assert (again.resolved, again.changes) == (first.resolved, first.changes)
    assert make(resource(again.status(NOW), **spec)).resolved == first.resolved
    assert (make(resource(**spec)).resolved or {})["maxModelLen"] < (first.resolved or {})["maxModelLen"]


def test_a_version_that_counts_other_weights_starts_nothing_anew(monkeypatch: pytest.MonkeyPatch):
    """Less of them, as bfloat16 where it was float32; and more, as float32 where a person's flag was not looked at."""
    large = replace(SETTINGS, profiles={**SETTINGS.profiles, "large": Profile("large", "cpu", 64 * GI)})
    for form, more in (("plain", {"resourceProfile": "large"}), ("none", {"resourceProfile": "gpu", "args": ["--dtype", "float32"]})):
        spec = {"model": "qwen2.5-instruct", "size": 7, "maxNumSeqs": 4, **more}
        with monkeypatch.context() as before:
            before.setattr(resolve, "form", lambda spec, form=form: form)
            first = plan.make(resource(**spec), Observed(), large, CATALOGUE)
        newer = replace(large, runtime_image="jitney-runtime:9")
        again = plan.make(resource(first.status(NOW), **spec), Observed(), newer, CATALOGUE)
        assert (again.resolved, again.changes) == (first.resolved, first.changes)
        later = plan.make(resource(again.status(NOW), **spec), Observed(), newer, CATALOGUE)
        assert (later.resolved, later.changes) == (again.resolved, again.changes)
        fresh = plan.make(resource(**spec), Observed(), newer, CATALOGUE)
        assert not fresh.resolved or fresh.resolved["breakdown"] != first.resolved["breakdown"]  # type: ignore[index]


@pytest.mark.parametrize(("memory", "image", "weights"), [(6, "jitney-runtime:0.1.0", "2.80Gi"), (4, "jitney-runtime:9", "1.40Gi")])
def test_a_profile_that_does_not_hold_the_weights_of_before_gets_the_image_of_today(
    memory: int, image: str, weights: str, monkeypatch: pytest.MonkeyPatch
):
    """The window is the person's own: nothing else of the pod would change."""
    spec = {"model": "qwen3", "size": "0.6", "resourceProfile": "cpu", "maxModelLen": 512}

    def settings(memory: int, image: str) -> Settings:
        return Settings(runtime_image=image, profiles={"cpu": Profile("cpu", "cpu", memory * GI)})

    with monkeypatch.context() as before:
        before.setattr(resolve, "form", lambda spec: "plain")
        first = plan.make(resource(**spec), Observed(), settings(8, "jitney-runtime:0.1.0"), CATALOGUE)
    again = plan.make(resource(first.status(NOW), **spec), Observed(), settings(memory, "jitney-runtime:9"), CATALOGUE).resolved
    assert again is not None
    assert (again["image"], again["breakdown"]["weights"]) == (image, weights)


def test_a_profile_that_was_made_smaller_is_gone_along_with_once():
    """The window follows what there is, and then stays."""
    mdep = resource(**SMALL)
    seen = make(mdep).status(NOW)
    smaller = replace(SETTINGS, profiles={"cpu": Profile("cpu", "cpu", 2 * GI, limits={"memory": "2Gi"})})
    first = plan.make(resource(seen, **SMALL), Observed(), smaller, CATALOGUE)
    again = plan.make(resource(first.status(NOW), **SMALL), Observed(), smaller, CATALOGUE)
    assert first.resolved is not None
    assert 512 <= first.resolved["maxModelLen"] < seen["resolved"]["maxModelLen"]
    assert again.resolved == first.resolved


@pytest.mark.parametrize(
    ("spec", "strategy"),
    [
        ({}, {"type": "Recreate"}),
        ({"rollout": {"maxSurge": 1}}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
    ],
)
def test_pods_that_cannot_share_a_claim_follow_one_another(spec: dict[str, Any], strategy: dict[str, Any]):
    mdep = resource(model="pvc://weights/m", **spec)
    assert make(mdep, Observed(exclusive=True)).changes[1]["spec"]["strategy"] == strategy
    assert make(mdep).changes[1]["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 1


@pytest.mark.parametrize(
    ("live", "desired"),
    [
        ({"sizeLimit": "1Gi"}, {"sizeLimit": "1024Mi"}),
        ({"requests": {"cpu": "1"}}, {"requests": {"cpu": "1."}}),
        ({"affinity": {"x": [{"key": "zone"}]}}, {"affinity": {"x": [{"key": "zone", "namespaces": [], "labelSelector": {}}], "y": {}}}),
        ({"env": [{"name": "A"}]}, {"env": [{"name": "A", "value": ""}]}),
    ],
)
def test_what_the_server_writes_in_its_own_way_is_no_drift(live: dict[str, Any], desired: dict[str, Any]):
    assert drift.holds(live, desired)


def test_what_is_there_and_shall_not_be_is_drift():
    assert not drift.holds({"replicas": 2}, {"replicas": 0})
    assert not drift.holds({"sizeLimit": "2Gi"}, {"sizeLimit": "1Gi"})
    # Absent, it is mounted.
    assert not drift.holds({}, {"automountServiceAccountToken": False})
    assert not drift.holds({"name": "tmp", "hostPath": {"path": "/"}}, {"name": "tmp", "emptyDir": {}})


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        (SMALL, 600),
        ({"model": "qwen2.5-instruct", "size": 7, "resourceProfile": "gpu"}, 7_615_616_512 * 2 // 20_000_000),
        ({"model": "qwen2.5-instruct", "size": 3, "resourceProfile": "large"}, (3_085_938_688 + 151_936 * 2048) * 4 // 20_000_000),
        (SMALL | {"startupTimeoutSeconds": 30}, 30),
    ],
)
def test_the_startup_budget_follows_the_weights(spec: dict[str, Any], seconds: int):
    large = replace(SETTINGS, profiles={**SETTINGS.profiles, "large": Profile("large", "cpu", 64 * GI)})
    spec_of = plan.make(resource(**spec), Observed(), large, CATALOGUE).changes[1]["spec"]
    probe = spec_of["template"]["spec"]["containers"][0]["startupProbe"]
    assert 0 <= probe["periodSeconds"] * probe["failureThreshold"] - seconds < 2
    assert spec_of["progressDeadlineSeconds"] > seconds


TOO_OLD = 'failed to generate container "a1" spec: failed to apply OCI options: failed to mkdir "": mkdir : no such file or directory'


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (TOO_OLD, "FeatureUnavailable"),
        (f'failed to reserve container name "runtime_p_team_0": name "runtime_p_team_0" is reserved for "{"a" * 64}"', "CrashLoop"),
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=0", "DeviceNotFound"),
        ("failed to create containerd container: mkdir /var/lib/containerd/x: no space left on device", "CrashLoop"),
        ("failed to generate spec: no command specified", "CrashLoop"),
        ("context deadline exceeded", "CrashLoop"),
    ],
)
def test_a_containerd_too_old_for_images_as_volumes_is_told_from_other_trouble(message: str, reason: str):
    spec = {"volumes": [{"name": "model", "image": {"reference": "x:1"}}]}
    status = {"containerStatuses": [{"name": "runtime", "state": {"waiting": {"reason": "CreateContainerError", "message": message}}}]}
    failure = failures.of_pod(Pod({"metadata": {"name": "p"}, "spec": spec, "status": status}))
    assert failure is not None
    assert failure.reason == reason
    assert ("containerd 2.1" in failure.message) == (reason == "FeatureUnavailable")


def test_the_status_says_which_revision_answers():
    before = resource(**SMALL)
    observed = running(before, Ready="True")
    after = make(resource(**SMALL, maxNumSeqs=8), observed).status(NOW)
    assert after["serving"] == {"current": 0, "previous": 1}
    assert next(entry for entry in after["conditions"] if entry["type"] == "Available")["message"].startswith("Pods of the revision before")
    assert make(before, observed).status(NOW)["serving"] == {"current": 1, "previous": 0}


@pytest.mark.parametrize(
    ("node", "state", "line"),
    [
        (None, {}, "waiting for a node"),
        ("n7", {"waiting": {"reason": "ContainerCreating"}}, "starting on n7"),
        ("n7", {"running": {}}, None),
    ],
)
def test_the_way_is_told_before_the_runtime_can_be_asked(node: str | None, state: dict[str, Any], line: str | None):
    mdep = resource(**SMALL)
    observed = running(mdep, {"state": state})
    (pod,) = observed.pods
    placed = Pod({**pod.body, "spec": {**pod.body["spec"], "nodeName": node}})
    assert make(mdep, replace(observed, pods=(placed,))).status(NOW).get("progress") == line


MOUNT = 'MountVolume.SetUp failed for volume "weights" : hostPath type check failed: /x is not a directory'


def test_a_volume_that_cannot_be_mounted():
    mdep = resource(**SMALL)
    waiting = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    observed = replace(running(mdep, waiting), troubles={"p1": Trouble("FailedMount", MOUNT)})
    status = make(mdep, observed).status(NOW)
    assert conditions(status)["ModelLoaded"] == ("False", "MountFailed")
    assert "is not a directory" in status["lastFailure"]["message"]
    assert conditions(make(mdep, replace(observed, troubles={})).status(NOW))["ModelLoaded"] == ("Unknown", "Pending")
    started = replace(running(mdep, {"state": {"running": {}}}), troubles=observed.troubles)
    assert conditions(make(mdep, started).status(NOW))["ModelLoaded"] == ("Unknown", "Pending")


def test_scaling_after_an_upgrade_rolls_no_pods():
    """Only what a pod is made of can bring it the newer image."""
    seen = make(resource(**SMALL)).status(NOW)
    newer = replace(SETTINGS, runtime_image="jitney-runtime:9")

    def image(**spec: Any) -> str:
        metadata = {"name": "chat", "namespace": "team", "uid": "u1", "generation": 2}
        mdep = ModelDeployment.parse({"metadata": metadata, "spec": {**SMALL, **spec}, "status": seen})
        return str((plan.make(mdep, Observed(), newer, CATALOGUE).resolved or {})["image"])

    assert image(replicas=5) == image(suspend=True) == image(rollout={"drainSeconds": 120}) == "jitney-runtime:0.1.0"
    assert image(env=[{"name": "HF_X", "value": "1"}]) == "jitney-runtime:9"


def test_a_pod_template_of_an_earlier_version_stays_until_the_spec_changes_it():
    """Version 0.1.0 did not ask for one process namespace."""
    mdep = resource(**SMALL)
    new = make(mdep).changes[-1]
    assert new["spec"]["template"]["spec"]["shareProcessNamespace"] is True
    template = {"metadata": {"labels": mdep.labels}, "spec": {**new["spec"]["template"]["spec"]}}
    del template["spec"]["shareProcessNamespace"]
    template["metadata"]["annotations"] = {TEMPLATE: builders.digest(template)}
    spec = {**new["spec"], "template": template}
    old = Observed(deployment={"metadata": {**new["metadata"], "annotations": {}}, "spec": spec})

    def made(**changed: Any) -> Any:
        (deployment,) = (child for child in make(resource(**SMALL, **changed), old).changes if child["kind"] == "Deployment")
        return deployment["spec"]

    assert made(replicas=3)["template"] == template
    assert made(env=[{"name": "HF_X", "value": "1"}])["template"]["spec"]["shareProcessNamespace"] is True
    # Somebody else's hand in it is put right, by today's template.
    del old.deployment["spec"]["template"]["metadata"]["annotations"]  # type: ignore[index]
    assert made()["template"] == new["spec"]["template"]


def test_an_image_that_cannot_be_pulled_is_put_right_by_the_administrator():
    mdep = resource(**SMALL)
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff"}}}
    seen = make(mdep, running(mdep, waiting)).status(NOW)
    newer = replace(SETTINGS, runtime_image="jitney-runtime:9")
    again = plan.make(resource(seen, **SMALL), running(mdep, waiting), newer, CATALOGUE)
    assert again.resolved is not None
    assert again.resolved["image"] == "jitney-runtime:9"
    serving = running(mdep, Ready="True")
    assert (plan.make(resource(make(mdep, serving).status(NOW), **SMALL), serving, newer, CATALOGUE).resolved or {})["image"].endswith(
        ":0.1.0"
    )


def thrown_out(mdep: ModelDeployment, reason: str, message: str, failed: str = "2026-01-01T00:00:00Z") -> Observed:
    """A pod that the node threw out, and the one made in its place."""
    observed = running(mdep, {"state": {"running": {}}})
    (pod,) = observed.pods
    fresh = {**pod.body["metadata"], "creationTimestamp": "2026-01-01T00:00:01Z"}
    gone = {**pod.body["metadata"], "name": "chat-0", "uid": "p0"}
    target = [{"type": "DisruptionTarget", "status": "True", "lastTransitionTime": failed}]
    status = {"phase": "Failed", "reason": reason, "message": message, "conditions": target}
    return replace(observed, pods=(Pod({**pod.body, "metadata": fresh}), Pod({**pod.body, "metadata": gone, "status": status})))


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        ("Evicted", 'Usage of EmptyDir volume "cache" exceeds the limit "1Gi". ', "DiskFull"),
        ("Evicted", "The node was low on resource: ephemeral-storage. Threshold quantity: 1, available: 0.", "DiskFull"),
        ("Evicted", "The node was low on resource: memory. Container runtime was using 3Gi.", "OutOfMemory"),
        ("UnexpectedAdmissionError", "Allocate failed due to no healthy devices present; cannot allocate nvidia.com/gpu", "DeviceNotFound"),
        ("NodeShutdown", "Pod was rejected as the node is shutting down.", "PodEvicted"),
        ("Terminated", "Pod was terminated in response to imminent node shutdown.", "PodEvicted"),
        ("VolumeAttachmentLimitExceeded", "Node has too many volumes attached", "PodEvicted"),
        ("OutOfnvidia.com/gpu", "Node didn't have enough resource: nvidia.com/gpu, requested: 1, used: 1, capacity: 1", "InsufficientGPU"),
        ("OutOfmemory", "Node didn't have enough resource: memory, requested: 9, used: 1, capacity: 1", "InsufficientMemory"),
        ("OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 110, capacity: 110", "Unschedulable"),
        ("Preempting", "Preempted in order to admit critical pod", "PodEvicted"),
    ],
)
def test_a_pod_that_the_node_threw_out_counts_until_the_next_is_ready(reason: str, message: str, expected: str | None):
    mdep = resource(**SMALL)
    observed = thrown_out(mdep, reason, message)
    failure = make(mdep, observed).facts.failure
    assert (failure.reason if failure else None) == expected
    long_ago = thrown_out(mdep, reason, message, failed="2025-01-01T00:00:00Z")
    assert make(mdep, long_ago).facts.failure is None
    # Before the next one is made, the same is said.
    seen = make(mdep, observed).status(NOW)
    between = replace(observed, pods=observed.pods[1:])
    assert make(resource(seen, **SMALL), between).facts.failure == failure


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        ("RunContainerError", f"failed to create {'a' * 64}: unresolvable CDI devices nvidia.com/gpu=0", "DeviceNotFound"),
        ("CreateContainerError", "context deadline exceeded", "CrashLoop"),
        ("ImageInspectError", "rpc error", "CrashLoop"),
        ("CreateContainerConfigError", 'secret "hub" not found', "SecretNotFound"),
        ("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition", None),
        ("ContainerCreating", "", None),
        ("CrashLoopBackOff", "back-off 10s restarting", None),
    ],
)
def test_a_container_that_cannot_be_made_is_named(reason: str, message: str, expected: str | None):
    status = {"containerStatuses": [{"name": "runtime", "state": {"waiting": {"reason": reason, "message": message}}}]}
    failure = failures.of_pod(Pod({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": status}))
    assert (failure.reason if failure else None) == expected
    assert failure is None or "a" * 64 not in failure.message


def test_memory_that_is_too_small_comes_with_figures_to_try():
    mdep = resource(**SMALL, maxModelLen=4096, resourceProfile="gpu")
    ended = {"state": {"terminated": {"exitCode": 15, "message": "GPUOutOfMemory: the GPU is too small"}}}
    failure = make(mdep, running(mdep, ended)).facts.failure
    assert failure is not None
    assert failure.reason == "GPUOutOfMemory"
    assert "Try maxNumSeqs 8 (now 16) or maxModelLen 2048 (now 4096)." in failure.message
    (pod,) = running(mdep, ended).pods
    pod.spec_of_container["args"] = ["--max-num-seqs=6"]
    told = failures.of_pod(pod)
    assert told is not None
    assert "Try maxNumSeqs 3 (now 6)." in told.message


def test_no_sentence_is_longer_than_its_field():
    many = {
        f"profile-{number:03}": replace(SETTINGS.profiles["cpu"], name=f"profile-{number:03}", memory=2**28 + number)
        for number in range(99)
    }
    mdep = resource(**SMALL, maxNumSeqs=64, maxModelLen=8192)
    settings = replace(SETTINGS, profiles=many | SETTINGS.profiles)
    explanation = plan.make(mdep, Observed(), settings, CATALOGUE).status(NOW)["resolved"]["explanation"]
    assert len(explanation) == 1024
    assert explanation.endswith("\N{HORIZONTAL ELLIPSIS}")


def test_a_container_that_never_ran_is_told_the_same_way_whichever_place_the_kubelet_tells_it_in():
    words = "failed to create task: OCI runtime create failed: nvidia-container-cli: initialization error"
    last = {"lastState": {"terminated": {"reason": "StartError", "exitCode": 128, "message": words}}}
    states = (
        {"waiting": {"reason": "RunContainerError", "message": words}},
        {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
    )
    found = {failures.of_pod(Pod({"metadata": {"name": "p"}, "spec": {}, "status": {"containerStatuses": [
        {"name": "runtime", "state": state, **last}]}})) for state in states}  # fmt: skip
    (failure,) = found
    assert failure is not None
    assert failure.reason == "DeviceNotFound"


def test_an_old_end_is_no_failure_of_a_pod_that_ran_since():
    """What it misses its probe for is told where it has been ready (test_silent.py)."""
    mdep = resource(**SMALL)
    last = {"lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}
    assert make(mdep, running(mdep, {"state": {"running": {}}, "started": True, **last}, Ready="False")).facts.failure is None
    starting = make(mdep, running(mdep, {"state": {"running": {}}, "started": False, **last}, Ready="False")).facts.failure
    assert starting is not None
    assert starting.reason == "OutOfMemory"


def catalogue(**sizes: dict[str, Any]) -> Catalogue:
    shape = {"parameters": 10**8, "layers": 4, "kvHeads": 2, "headDim": 64, "context": 4096}
    return Catalogue.read({"mine": {size.removeprefix("s"): {"repository": "a/b", **shape, **more} for size, more in sizes.items()}})


def test_another_edition_of_the_catalogue_touches_no_model_that_runs():
    spec = {"model": "mine"}
    seen = plan.make(resource(**spec), Observed(), SETTINGS, catalogue(s1={"revision": "aaa"}))
    status = seen.status(NOW)
    editions = [catalogue(s1={"revision": "bbb"}), catalogue(s1={}, s2={}), catalogue(s1={"repository": "c/d"}), Catalogue.read()]
    for edition in editions:
        again = plan.make(resource(status, **spec), Observed(), SETTINGS, edition)
        assert again.changes[-1]["spec"]["template"] == seen.changes[-1]["spec"]["template"]
    unknown = {"model": "c/d"}
    seen = plan.make(resource(**unknown), Observed(), SETTINGS, Catalogue.read())
    known = catalogue(s1={"repository": "c/d", "revision": "bbb"})
    again = plan.make(resource(seen.status(NOW), **unknown), Observed(), SETTINGS, known)
    assert again.changes[-1]["spec"]["template"] == seen.changes[-1]["spec"]["template"]
