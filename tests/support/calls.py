"""What a client of Xinference asks, one call after the other, of whichever server: the same for one that is recorded and for ours."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

JSON = {"Content-Type": "application/json"}
ASKED = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}
GOING_ON = {"prompt": "Hello", "max_tokens": 8, "temperature": 0}
STREAMED = {"stream": True}
COUNTED = STREAMED | {"stream_options": {"include_usage": True}}
SIZED = {"model_engine": "transformers", "model_type": "LLM", "model_format": "pytorch", "model_size_in_billions": "0_01"}
LAUNCHED = SIZED | {"quantization": "none", "n_gpu": None, "enable_virtual_env": False}
# For a state that comes by itself.
COME_SECONDS, PERIOD = 300, 0.2


@dataclass(frozen=True)
class Call:
    """`body` is sent as JSON; a text is sent as it stands. It is asked again until its answer is as `until` wants it. `meanwhile` is asked
    while it waits for its answer, and not recorded."""

    name: str
    method: str
    path: str
    body: Any = None
    until: Callable[[Any], bool] | None = None
    meanwhile: tuple[Call, ...] = ()


def calls(uri: str) -> tuple[Call, ...]:
    """In an order in which each finds what it asks for; `uri` is a small chat model's, as in a family's model_uri."""
    chat, base = (_family(name, uri, ability) for name, ability in (("tiny-chat", "chat"), ("tiny-base", "generate")))
    return (
        *_about_the_cluster(),
        Call("models-none", "GET", "/v1/models"),
        *_about_registrations(chat),
        Call("register-base", "POST", "/v1/model_registrations/LLM", base),
        Call("launch", "POST", "/v1/models", LAUNCHED | {"model_name": "tiny-chat"}),
        Call("launch-base", "POST", "/v1/models", LAUNCHED | {"model_name": "tiny-base", "model_uid": "base"}),
        *_about_models(),
        *_about_launches_that_cannot_be(),
        *_about_answers(),
        *_about_ends(),
    )


def launches(endless: str, damaged: str) -> tuple[Call, ...]:
    """Such as are under way, cancelled, or fail; both are as `uri`, of a model that loads for a while and of one that cannot."""
    path = "/v1/model_registrations/LLM"
    return (
        Call("register-endless", "POST", path, _family("tiny-endless", endless, "chat")),
        Call("register-damaged", "POST", path, _family("tiny-damaged", damaged, "chat")),
        *_about_one_under_way(),
        *_about_one_that_fails(),
        Call("unregister-endless", "DELETE", f"{path}/tiny-endless"),
        Call("unregister-damaged", "DELETE", f"{path}/tiny-damaged"),
    )


def _about_one_under_way() -> tuple[Call, ...]:
    """Of which nobody waits for the first, and somebody for the second."""
    waited = Call("waited-progress", "GET", "/v1/models/waited/progress", until=_loading)
    cancelled = Call("waited-cancel", "POST", "/v1/models/waited/cancel")
    body = LAUNCHED | {"model_name": "tiny-endless"}
    return (
        Call("launch-begun", "POST", "/v1/models?wait_ready=false", body | {"model_uid": "begun"}),
        Call("begun-progress", "GET", "/v1/models/begun/progress", until=_loading),
        *_about_launched("begun"),
        Call("launch-begun-again", "POST", "/v1/models?wait_ready=false", body | {"model_uid": "begun"}),
        Call("cancel", "POST", "/v1/models/begun/cancel"),
        Call("cancelled-progress", "GET", "/v1/models/begun/progress"),
        *_about_launched("begun", "cancelled"),
        Call("cancel-again", "POST", "/v1/models/begun/cancel"),
        Call("launch-cancelled", "POST", "/v1/models", body | {"model_uid": "waited"}, meanwhile=(waited, cancelled)),
    )


def _about_one_that_fails() -> tuple[Call, ...]:
    """Of which somebody waits for the first, and nobody for the second."""
    body = LAUNCHED | {"model_name": "tiny-damaged"}
    return (
        Call("launch-damaged", "POST", "/v1/models", body | {"model_uid": "damaged"}),
        Call("damaged-progress", "GET", "/v1/models/damaged/progress", until=_over),
        *_about_launched("damaged"),
        Call("launch-failing", "POST", "/v1/models?wait_ready=false", body | {"model_uid": "failed"}),
        Call("failed-instances", "GET", "/v1/models/instances?model_uid=failed", until=_failed),
        Call("failed-progress", "GET", "/v1/models/failed/progress", until=_over),
        *(call for call in _about_launched("failed") if call.name != "failed-instances"),
        Call("failed-terminate", "DELETE", "/v1/models/failed"),
    )


def _about_launched(uid: str, name: str = "") -> tuple[Call, ...]:
    name = name or uid
    return (
        Call(f"{name}-models", "GET", "/v1/models"),
        Call(f"{name}-describe", "GET", f"/v1/models/{uid}"),
        Call(f"{name}-instances", "GET", f"/v1/models/instances?model_uid={uid}"),
        Call(f"{name}-replicas", "GET", f"/v1/models/{uid}/replicas"),
    )


def _loading(progress: Any) -> bool:
    return bool(progress["replicas"]) and progress["stage"] == "loading"


def _over(progress: Any) -> bool:
    """Where the model is kept it says so, or why it fails where it is tried again, as in a cluster. Where it is not, it has no replica."""
    return not progress["replicas"] or progress["stage"] == "error" or bool(progress.get("failing"))


def _failed(instances: Any) -> bool:
    """With the reason, which may come later than the state. Where it is tried again, as in a cluster, the model itself is LOADING."""
    replicas = [replica for instance in instances for replica in instance["replica_statuses"]]
    told = bool(replicas) and all(one["status"] == "ERROR" and one["error_message"] is not None for one in replicas)
    return told and all(instance["status"] in ("ERROR", "LOADING") for instance in instances)


def _about_the_cluster() -> tuple[Call, ...]:
    paths = {"auth": "cluster/auth", "version": "cluster/version", "info": "cluster/info", "info-detailed": "cluster/info?detailed=true"}
    paths |= {"devices": "cluster/devices", "supervisor": "supervisor", "address": "address", "vllm": "models/vllm-supported"}
    return (*(Call(f"cluster-{name}", "GET", f"/v1/{path}") for name, path in paths.items()), Call("cluster-status", "GET", "/status"))


def _about_registrations(chat: dict[str, Any]) -> tuple[Call, ...]:
    path = "/v1/model_registrations/LLM"
    return (
        Call("registrations", "GET", path),
        Call("registrations-detailed", "GET", f"{path}?detailed=true"),
        Call("registrations-no-kind", "GET", "/v1/model_registrations/nokind"),
        Call("registration-built-in", "GET", f"{path}/qwen1.5-chat"),
        Call("registration-unknown", "GET", f"{path}/nobody"),
        Call("register", "POST", path, chat),
        Call("register-again", "POST", path, chat),
        Call("register-no-json", "POST", path, {"model": "{", "persist": True}),
        Call("register-nothing", "POST", path, {}),
        Call("registration", "GET", f"{path}/tiny-chat"),
        Call("engines", "GET", "/v1/engines/LLM/tiny-chat"),
        Call("engines-built-in", "GET", "/v1/engines/qwen1.5-chat"),
        Call("engines-unknown", "GET", "/v1/engines/LLM/nobody"),
    )


def _about_models() -> tuple[Call, ...]:
    return (
        Call("models", "GET", "/v1/models"),
        Call("describe", "GET", "/v1/models/tiny-chat"),
        Call("describe-unknown", "GET", "/v1/models/nobody"),
        Call("progress", "GET", "/v1/models/tiny-chat/progress"),
        Call("progress-unknown", "GET", "/v1/models/nobody/progress"),
        Call("instances", "GET", "/v1/models/instances"),
        Call("instances-of-one", "GET", "/v1/models/instances?model_name=tiny-chat&model_uid=tiny-chat"),
        Call("instances-of-none", "GET", "/v1/models/instances?model_uid=nobody"),
        Call("replicas", "GET", "/v1/models/tiny-chat/replicas"),
        Call("replicas-unknown", "GET", "/v1/models/nobody/replicas"),
        Call("cluster-workers", "GET", "/v1/workers"),
    )


def _about_launches_that_cannot_be() -> tuple[Call, ...]:
    path = "/v1/models"
    return (
        Call("launch-no-engine", "POST", path, {"model_name": "tiny-chat"}),
        Call("launch-no-name", "POST", path, {"model_engine": "transformers"}),
        Call("launch-no-json", "POST", path, "{"),
        Call("launch-unknown", "POST", path, LAUNCHED | {"model_name": "nope"}),
        Call("launch-again", "POST", path, LAUNCHED | {"model_name": "tiny-chat", "model_uid": "tiny-chat"}),
        Call("launch-other-engine", "POST", path, LAUNCHED | {"model_name": "tiny-chat", "model_uid": "x", "model_engine": "nope"}),
    )


def _about_answers() -> tuple[Call, ...]:
    chat, going_on = "/v1/chat/completions", "/v1/completions"
    return (
        Call("chat", "POST", chat, {"model": "tiny-chat", **ASKED}),
        Call("chat-streamed", "POST", chat, {"model": "tiny-chat", **ASKED, **STREAMED}),
        Call("chat-streamed-counted", "POST", chat, {"model": "tiny-chat", **ASKED, **COUNTED}),
        Call("chat-unknown", "POST", chat, {"model": "nobody", **ASKED}),
        Call("chat-no-messages", "POST", chat, {"model": "tiny-chat"}),
        Call("chat-no-model", "POST", chat, ASKED),
        Call("chat-too-long", "POST", chat, {"model": "tiny-chat", **ASKED, "max_tokens": 100_000}),
        Call("completion", "POST", going_on, {"model": "base", **GOING_ON}),
        Call("completion-streamed", "POST", going_on, {"model": "base", **GOING_ON, **STREAMED}),
        # Not the one above: what is not found is remembered there for some seconds.
        Call("completion-unknown", "POST", going_on, {"model": "no-one", **GOING_ON}),
        Call("abort", "POST", "/v1/models/tiny-chat/requests/r/abort", {"block_duration": 1}),
        Call("abort-unknown", "POST", "/v1/models/nobody/requests/r/abort", {"block_duration": 1}),
    )


def _about_ends() -> tuple[Call, ...]:
    path = "/v1/model_registrations/LLM"
    return (
        Call("replica-added", "POST", "/v1/models/tiny-chat/replicas", {}),
        Call("replica-removed", "DELETE", "/v1/models/tiny-chat/replicas/0"),
        Call("replica-unknown", "DELETE", "/v1/models/tiny-chat/replicas/77"),
        Call("terminate-unknown", "DELETE", "/v1/models/nobody"),
        Call("cancel-unknown", "POST", "/v1/models/nobody/cancel"),
        Call("terminate", "DELETE", "/v1/models/tiny-chat"),
        Call("terminate-base", "DELETE", "/v1/models/base"),
        Call("unregister", "DELETE", f"{path}/tiny-chat"),
        Call("unregister-again", "DELETE", f"{path}/tiny-chat"),
        Call("unregister-built-in", "DELETE", f"{path}/qwen1.5-chat"),
        Call("unregister-base", "DELETE", f"{path}/tiny-base"),
    )


def _family(name: str, uri: str, ability: str) -> dict[str, Any]:
    """The body of a registration. Xinference copies the chat template of the family that is named."""
    spec = {"model_format": "pytorch", "model_size_in_billions": "0_01", "quantization": "none", "model_uri": uri}
    family: dict[str, Any] = {"version": 2, "context_length": 2048, "model_name": name, "model_lang": ["en"], "model_ability": [ability]}
    family |= {"model_description": "", "model_family": {"chat": "qwen2-instruct", "generate": "qwen1.5"}[ability], "model_specs": [spec]}
    return {"model": json.dumps(family), "persist": True}


def asked(client: httpx.Client, call: Call) -> dict[str, Any]:
    """`status`, and `answer`: JSON, a text, or a stream's first, last and other events and whether it ended with [DONE]."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_asked_once, client, call)
        for other in call.meanwhile:
            asked(client, other)
        found = waiting.result()
    end = time.monotonic() + COME_SECONDS
    while call.until and not call.until(found["answer"]):
        assert time.monotonic() < end, (call, found)
        time.sleep(PERIOD)
        found = _asked_once(client, call)
    return found


def _asked_once(client: httpx.Client, call: Call) -> dict[str, Any]:
    body = None if call.body is None else call.body if isinstance(call.body, str) else json.dumps(call.body)
    answer = client.request(call.method, call.path, content=body, headers=JSON if body is not None else None)
    return {"status": answer.status_code, "answer": _read(answer)}


def _read(answer: httpx.Response) -> Any:
    kind = answer.headers.get("content-type", "")
    if kind.startswith("application/json"):
        return answer.json()
    if not kind.startswith("text/event-stream"):
        return answer.text
    data = [line.removeprefix("data:").strip() for line in answer.text.splitlines() if line.startswith("data:")]
    events = [json.loads(piece) for piece in data if piece != "[DONE]"]
    return {"first": events[0], "between": events[1:-1], "last": events[-1], "done": data[-1] == "[DONE]"}
