"""Who changed what in a cluster: the front door's lines of jitney.audit, over a real API server and the real operator."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from xinference_client import RESTfulClient

from cluster.control_plane import ControlPlane
from jitney_gateway.server.keys import make
from support.gateway import Gateway, running_gateway
from support.namespaces import Namespace
from support.operator import Operator

SMALL = {"model_engine": "transformers", "model_name": "smollm2-instruct", "model_size_in_billions": "0_135", "quantization": "none"}
SPEC = {"model_format": "pytorch", "model_size_in_billions": 1, "quantization": "none", "model_id": "org/repo"}
FAMILY = {"model_name": "mine", "model_family": "mine", "context_length": 64, "model_lang": ["en"], "model_ability": ["chat"]}
# What a launch may carry and no log may.
TOKEN, RUNTIME_KEY = "hf_ThisIsNobodysBusiness", "runtime-key-of-nobodys-business"


@dataclass
class Keyed:
    gateway: Gateway
    secrets: dict[str, str]
    hashes: list[str]

    def client(self, key: str) -> RESTfulClient:
        return RESTfulClient(self.gateway.url, self.secrets[key])

    def ask(self, key: str, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.secrets[key]}", "X-Runtime-Authorization": f"Bearer {RUNTIME_KEY}"}
        return httpx.request(method, f"{self.gateway.url}{path}", headers=headers, timeout=60, **more)

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in re.findall(r"INFO jitney[.]audit: (.*)$", self.gateway.log.read_text(), re.MULTILINE)]


@pytest.fixture(params=["error", "debug"])
def keyed(request: pytest.FixtureRequest, namespace: Namespace, plane: ControlPlane, tmp_path: Path) -> Iterator[Keyed]:
    """Its log is kept short, or says all that it can. `team` has models of its own."""
    secrets, entries = {"stranger": "jitney-nobody-knows-this-one"}, []
    for name, models in (("admin", None), ("team", ("team-*",))):
        secrets[name], key = make(name, models)
        entries.append(key.written())
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": entries}))
    settings = {"JITNEY_KEYS_FILE": str(tmp_path / "keys.yaml"), "JITNEY_LOG_LEVEL": request.param}
    with (
        Operator(plane.kubeconfig, namespace.name, tmp_path / "operator.log"),
        running_gateway(namespace, tmp_path, **settings) as gateway,
    ):
        yield Keyed(gateway, secrets, [entry["hash"].removeprefix("sha256:") for entry in entries])


def test_each_launch_and_end_is_a_line_with_the_id_of_its_key(keyed: Keyed, namespace: Namespace):
    admin, team = keyed.client("admin"), keyed.client("team")
    admin.launch_model(**SMALL, model_uid="chat", envs={"HF_TOKEN": TOKEN}, wait_ready=False)
    team.launch_model(**SMALL, model_uid="team-chat", wait_ready=False)
    with pytest.raises(RuntimeError, match="envs"):
        team.launch_model(**SMALL, model_uid="team-code", envs={"HF_TOKEN": TOKEN}, wait_ready=False)
    with pytest.raises(RuntimeError, match="the key team is not for chat"):
        team.terminate_model("chat")
    with pytest.raises(RuntimeError, match="SizeNotFound"):
        admin.launch_model(model_name="qwen1.5-chat", model_uid="unsized", model_engine="transformers")
    with pytest.raises(RuntimeError, match=r"spec\.env\[0\]\.name"):
        admin.launch_model(**SMALL, model_uid="odd", envs={"1A": TOKEN})
    assert keyed.ask("admin", "POST", "/v1/models", content=b"{").status_code == 400
    assert keyed.ask("stranger", "POST", "/v1/models", json=SMALL).status_code == 401
    admin.add_model_replica("chat")
    admin.terminate_model_replica("chat", 1)
    admin.register_model("LLM", json.dumps(FAMILY | {"model_specs": [SPEC]}), persist=False)
    admin.unregister_model("LLM", "mine")
    with pytest.raises(RuntimeError, match="uid: nobody"):
        admin.terminate_model("nobody")
    assert keyed.ask("team", "POST", "/v1/models/team-chat/cancel").status_code == 200
    admin.terminate_model("chat")
    assert not namespace.kubectl("get", "mdep", "-o", "name")

    told = keyed.audit()
    assert [(line["event"], line["model"], line["key"], line["outcome"], line.get("status")) for line in told] == [
        ("launch", "chat", "admin", "done", None),
        ("launch", "team-chat", "team", "done", None),
        ("launch", "team-code", "team", "refused", 403),
        ("terminate", "chat", "team", "refused", 403),
        ("launch", "unsized", "admin", "done", None),
        ("terminate", "unsized", "admin", "done", None),
        ("launch", "odd", "admin", "refused", 400),
        ("launch", "", "admin", "refused", 400),
        ("add_replicas", "chat", "admin", "done", None),
        ("remove_replica", "chat", "admin", "done", None),
        ("register", "mine", "admin", "done", None),
        ("unregister", "mine", "admin", "done", None),
        ("terminate", "nobody", "admin", "refused", 400),
        ("terminate", "team-chat", "team", "done", None),
        ("terminate", "chat", "admin", "done", None),
    ]
    assert {line["address"] for line in told} == {"127.0.0.1"}
    assert told[5]["why"] == "launch_failed"
    assert (told[0]["name"], told[0]["replicas"]) == ("smollm2-instruct", 1)
    log = keyed.gateway.log.read_text()
    assert not [secret for secret in (*keyed.secrets.values(), *keyed.hashes, TOKEN, RUNTIME_KEY) if secret in log]
