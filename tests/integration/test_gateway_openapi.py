"""What the front door's own OpenAPI document allows to be changed in a cluster is changed or refused in words, over a real API server."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.gateway import Gateway, running_gateway
from support.namespaces import Namespace
from support.openapi import CHANGING, asked

LAUNCH: dict[str, Any] = {"model_engine": "transformers", "model_name": "smollm2-instruct", "model_size_in_billions": "0_135"}
# Of a launch these may be anything that the document allows, and it is one all the same.
LAUNCHED_WITH = ("quantization", "replica", "max_num_seqs", "context_length", "torch_dtype")
SPEC = {"model_format": "pytorch", "model_size_in_billions": 1, "quantization": "none", "model_id": "org/repo"}
FAMILY = {"model_name": "mine", "model_family": "mine", "context_length": 64, "model_lang": ["en"], "model_ability": ["chat"]}
REGISTRATION = {"model": json.dumps(FAMILY | {"model_specs": [SPEC]}), "persist": True}
UID = "there"
WRITES = CHANGING | {
    "POST /v1/models",
    "POST /v1/model_registrations/{kind}",
    "DELETE /v1/model_registrations/{kind}/{name}",
    "POST /v1/models/{uid}/requests/{request_id}/abort",
}


class Changes:
    """Every second request is one that can be answered: about a model, or a registration, that is there then."""

    def __init__(self, url: str) -> None:
        self._url, self._turns = url, itertools.cycle((True, False))

    def __call__(self, case: Any) -> None:
        case.query = {**(case.query or {}), "wait_ready": "false", "follow": "false"}
        if f"{case.method.upper()} {case.operation.path}" in WRITES and next(self._turns):
            self._answerable(case)

    def _answerable(self, case: Any) -> None:
        match case.method.upper(), case.operation.path:
            case "POST", "/v1/models":
                made_up = case.body if isinstance(case.body, dict) else {}
                case.body = LAUNCH | {name: made_up[name] for name in LAUNCHED_WITH if name in made_up}
            case "POST", "/v1/model_registrations/{kind}":
                httpx.delete(f"{self._url}/v1/model_registrations/LLM/mine", timeout=30)
                case.path_parameters["kind"], case.body = "LLM", REGISTRATION
            case "DELETE", "/v1/model_registrations/{kind}/{name}":
                httpx.post(f"{self._url}/v1/model_registrations/LLM", json=REGISTRATION, timeout=30)
                case.path_parameters |= {"kind": "LLM", "name": "mine"}
            case _:
                httpx.post(f"{self._url}/v1/models?wait_ready=false", json=LAUNCH | {"model_uid": UID, "replica": 3}, timeout=30)
                case.path_parameters["uid"] = UID
                if "replica" in case.path_parameters:
                    case.path_parameters["replica"] = "0"
                if isinstance(case.body, dict) and "replica" in case.body:
                    case.body["replica"] = 1 + case.body["replica"] % 9 if isinstance(case.body["replica"], int) else 1


@pytest.fixture
def gateway(namespace: Namespace, tmp_path: Path) -> Any:
    with running_gateway(namespace, tmp_path) as gateway:
        yield gateway


def test_no_change_that_the_document_allows_is_answered_with_a_5xx(namespace: Namespace, gateway: Gateway):
    found = asked(gateway.url, 25, Changes(gateway.url))
    assert set(found.answers) >= WRITES
    assert not found.faults
    print(*(f"{label}: {dict(found.answers[label])}" for label in sorted(WRITES)), sep="\n")
    assert not {label: found.answers[label] for label in WRITES if not found.answers[label][200]}
    assert any(found.answers[label][400] + found.answers[label][422] for label in WRITES)
    made = json.loads(namespace.kubectl("get", "mdep", "-o", "json"))["items"]
    assert {item["spec"]["model"] for item in made} >= {"smollm2-instruct"}
    assert "Traceback" not in gateway.log.read_text()
