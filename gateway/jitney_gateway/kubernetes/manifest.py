"""From a launch to a ModelDeployment and back to a model. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Any

from jitney_gateway.destination import Prospect
from jitney_gateway.errors import GatewayError, bad_field
from jitney_gateway.launch import Launch
from jitney_gateway.model import ERROR, LOADING, READY, Json, Model
from jitney_gateway.progress import share

GROUP, VERSION, PLURAL, KIND = "serving.jitney.dev", "v1alpha1", "modeldeployments", "ModelDeployment"
API = f"/apis/{GROUP}/{VERSION}"
LABEL = f"{GROUP}/model-deployment"
# What a launch called it, where the spec says only where the weights are, and the size it gave, where the spec has no room for one.
NAME, SIZE = f"{GROUP}/model-name", f"{GROUP}/model-size"
# How a custom model's family describes it, as JSON: by these names of the launch's fields.
DESCRIBED = f"{GROUP}/model-described"
DESCRIBING = {"model_family": "family", "model_ability": "abilities", "model_lang": "languages", "model_description": "description"}
# Read by the operator where a model scales with its load: each new value is a new call for a replica.
WANTED = f"{GROUP}/wanted-at"
# A Service gets this name, and needs room for a pod's suffix.
LONGEST_NAME = 52


def name_of(uid: str, apart: bool = False) -> str:
    """A uid as a DNS-1035 label: `qwen1.5-chat` becomes `qwen1-5-chat`, and so does `Qwen1_5-chat`. Long ones end in a digest, and all do
    with `apart`, so that no two become the same."""
    plain = re.sub(r"[^a-z0-9]+", "-", uid.lower()).strip("-")
    name = plain if re.match(r"[a-z]", plain) else f"m-{plain}".rstrip("-")
    if len(name) <= LONGEST_NAME and not apart:
        return name
    digest = hashlib.sha256(uid.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9].rstrip('-')}-{digest}"


def resource(launch: Launch, uid: str, namespace: str, apart: bool = False) -> Json:
    """`apart` where the usual name is another uid's. GatewayError (400) where the launch means a folder that no pod sees."""
    spec: Json = {
        "model": _reference(launch),
        "servedModelName": uid,
        "quantization": launch.quantization,
        "maxNumSeqs": launch.max_num_seqs,
        "device": launch.device,
        "replicas": launch.replicas,
        "size": launch.size if "/" not in _reference(launch) else None,
        "maxModelLen": launch.max_model_len,
        "revision": launch.revision,
        "env": [{"name": name, "value": value} for name, value in launch.envs.items()] or None,
        "args": _arguments(launch) or None,
    }
    metadata: Json = {"name": name_of(uid, apart), "namespace": namespace}
    called = ({NAME: launch.name} | _described(launch)) if launch.model_path else {}
    if launch.size and spec["size"] is None:
        called[SIZE] = launch.size
    if called:
        metadata["annotations"] = called
    body = {name: value for name, value in spec.items() if value is not None}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "metadata": metadata, "spec": body}


def _described(launch: Launch) -> dict[str, str]:
    """Kept with the model: its family may be forgotten while it is served."""
    usual = Launch(launch.name)
    said = {key: getattr(launch, name) for key, name in DESCRIBING.items() if getattr(launch, name) != getattr(usual, name)}
    return {DESCRIBED: json.dumps(said, ensure_ascii=False)} if said else {}


def _description(text: str) -> Json:
    """Fields of a launch. A person may have written anything there, and only what can be one is taken."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    found: Json = {}
    for key, name in DESCRIBING.items() if isinstance(said, dict) else ():
        value, several = said.get(key), name in ("abilities", "languages")
        if several and isinstance(value, list) and value and all(isinstance(word, str) for word in value):
            found[name] = tuple(value)
        elif not several and isinstance(value, str):
            found[name] = value
    return found


def _reference(launch: Launch) -> str:
    path = launch.model_path
    if path is None:
        return launch.name
    if not path.startswith(("pvc://", "hf://", "oci://", "file:///")):
        raise bad_field("model_path", f"a pod does not see this machine's folders: write pvc://claim/path or hf://org/repo, not {path}")
    return path


def _arguments(launch: Launch) -> list[str]:
    flags = [*(("--dtype", launch.dtype) if launch.dtype else ()), *(("--trust-remote-code",) if launch.trust_remote_code else ())]
    return flags + launch.of_answers()


def path(body: Json) -> str:
    """Of a ModelDeployment at the API server."""
    return f"{API}/namespaces/{body['metadata']['namespace']}/{PLURAL}/{body['metadata']['name']}"


def refused_spec(body: Json) -> bool:
    """Whether the operator has looked at the newest spec and does not accept it."""
    status = body.get("status", {})
    current = status.get("observedGeneration") == body["metadata"].get("generation")
    return current and any(entry["type"] == "Accepted" and entry["status"] == "False" for entry in status.get("conditions", ()))


def put_to_rest(body: Json) -> str:
    """Its own words where somebody wants no pod of it now; empty where one is wanted, or its load may want one any time."""
    status = body.get("status", {})
    ready: Json = next((entry for entry in status.get("conditions", ()) if entry["type"] == "Ready"), {})
    current = status.get("observedGeneration") == body["metadata"].get("generation")
    reasons = ("Suspended",) if "autoscaling" in body["spec"] else ("Suspended", "ScaledToZero")
    rests = current and ready.get("status") == "True" and ready["reason"] in reasons
    return f"{ready['reason']}: {ready['message']}" if rests else ""


def model_of(body: Json, uid: str) -> Model:
    """A ModelDeployment, whoever made it, without its pods."""
    spec, status, metadata = body["spec"], body.get("status", {}), body["metadata"]
    resolved = status.get("resolved") or {}
    found = {entry["type"]: entry for entry in status.get("conditions", ())}
    current = status.get("observedGeneration") == metadata.get("generation")
    called = metadata.get("annotations") or {}
    # Until the operator has looked, what was asked for.
    known = {name: resolved.get(name) or spec.get(name) for name in ("size", "device", "maxModelLen", "revision")}
    size = known["size"] or called.get(SIZE)
    launch = Launch(
        name=called.get(NAME, spec["model"]),
        uid=spec.get("servedModelName", metadata["name"]),
        size=str(size) if size else None,
        quantization=spec.get("quantization", "none"),
        replicas=spec.get("replicas", 1),
        device=known["device"] or "auto",
        max_num_seqs=spec.get("maxNumSeqs", 16),
        max_model_len=known["maxModelLen"],
        revision=known["revision"],
        **_description(called.get(DESCRIBED, "{}")),
    )
    ready, answers = found.get("Ready", {}), found.get("Available", {}).get("status") == "True"
    words = status.get("progress", "")
    state = _state(ready if current else {}, found.get("Stalled") if current else None, answers)
    told = f"{ready['reason']}: {ready['message']}" if ready and state != READY else ""
    return Model(
        uid=uid,
        launch=launch,
        status=state,
        progress=1.0 if state == READY else share(words),
        stage=_stage(state, words),
        message=told,
        failing=told if current and _fails(found, status) else "",
        created=int(datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()),
        repository=resolved.get("repository", ""),
        context=resolved.get("maxModelLen"),
    )


def _state(ready: dict[str, Any], stalled: dict[str, Any] | None, answers: bool) -> str:
    if ready.get("status") == "True" and answers:
        return READY
    return ERROR if stalled and stalled.get("status") == "True" else LOADING


def _stage(state: str, words: str) -> str:
    if state in (READY, ERROR):
        return state.lower()
    return "downloading" if words.startswith("downloading") else "loading"


def _fails(found: dict[str, Any], status: Json) -> bool:
    """Now: lastFailure stays when what it tells of is over, and a start that goes on has another reason."""
    ready = found.get("Ready", {})
    refused = found.get("Accepted", {}).get("status") == "False"
    failed = (status.get("lastFailure") or {}).get("reason") == ready.get("reason")
    return ready.get("status") == "False" and bool(refused or failed)


def without_pods(body: Json) -> tuple[Prospect, str]:
    """What a request meets while no pod of it is ready, and the resource's own words for it."""
    spec, status, metadata = body["spec"], body.get("status", {}), body["metadata"]
    found = {entry["type"]: entry for entry in status.get("conditions", ())}
    current = status.get("observedGeneration") == metadata.get("generation")
    ready = found.get("Ready", {}) if current else {}
    words = f"{ready['reason']}: {ready['message']}" if ready else "the operator has not seen its newest spec yet"
    if "deletionTimestamp" in metadata:
        return Prospect.FAILED, "it is being deleted"
    if spec.get("suspend"):
        return Prospect.SUSPENDED, "set spec.suspend to false to serve it again"
    if current and found.get("Stalled", {}).get("status") == "True":
        return Prospect.FAILED, words
    return (Prospect.ASLEEP if _asleep(spec, status) else Prospect.COMING), words


def _asleep(spec: Json, status: Json) -> bool:
    """With autoscaling spec.replicas is only where it begins, and the status says what was decided. What a HorizontalPodAutoscaler sent to
    sleep it wakes itself."""
    if "autoscaling" in spec:
        return bool(status.get("autoscaling") == {"replicas": 0, "decidedBy": "Load"})
    return bool(spec.get("replicas", 1) == 0)


def refused(status: int, message: str) -> GatewayError:
    """The API server's own words: the schema names the field and the way out."""
    words = re.sub(r'^ModelDeployment\.[^"]*"[^"]*" is invalid: ', "", message)
    return GatewayError(400 if status in (400, 422) else 503, words, code="refused")
