"""Keys of the front door in a cluster: from a folder as the kubelet mounts a Secret, and by the uids that models are listed by."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import yaml

from jitney_gateway.server.keys import Key, make
from support.gateway import Gateway, running_gateway
from support.namespaces import Namespace

SMALL = {"model": "smollm2-instruct", "size": "0.135"}


def mount(folder: Path, *keys: Key) -> Path:
    """As the kubelet does it, and exchanges it: the file is a link into a folder that is a link."""
    number = len(list(folder.glob("..*")))
    (there := folder / f"..{number}").mkdir(parents=True)
    (there / "keys.yaml").write_text(yaml.safe_dump({"keys": [key.written() for key in keys]}))
    (folder / "..new").symlink_to(there.name)
    (folder / "..new").rename(folder / "..data")
    if not (folder / "keys.yaml").is_symlink():
        (folder / "keys.yaml").symlink_to("..data/keys.yaml")
    return folder / "keys.yaml"


def test_a_mounted_secret_and_names_of_models(namespace: Namespace, tmp_path: Path):
    (all_secret, everything), (one_secret, one), (new_secret, new) = make("all"), make("one", ("one",)), make("new")
    file = mount(tmp_path / "secret", everything, one)
    for name in ("one", "two"):
        namespace.create(name, **SMALL)

    def ask(gateway: Gateway, secret: str, path: str, method: str = "GET", **more: Any) -> httpx.Response:
        return httpx.request(method, f"{gateway.url}{path}", headers={"Authorization": f"Bearer {secret}"}, **more)

    with running_gateway(namespace, tmp_path, JITNEY_KEYS_FILE=str(file)) as gateway:
        assert httpx.get(f"{gateway.url}/v1/models").status_code == 401
        listed = [[model["id"] for model in ask(gateway, secret, "/v1/models").json()["data"]] for secret in (all_secret, one_secret)]
        assert listed == [["one", "two"], ["one"]]
        full = f"{namespace.name}/two"
        for name in ("two", full, f"{namespace.name}/none"):
            chat = ask(gateway, one_secret, "/v1/chat/completions", "POST", json={"model": name, "messages": []})
            assert chat.status_code == 403, chat.text
            assert ask(gateway, one_secret, f"/v1/models/{name.replace('/', '%2F')}").status_code == 403
        assert ask(gateway, one_secret, "/v1/models/two", "DELETE").status_code == 403
        assert ask(gateway, one_secret, f"/v1/models/{namespace.name}%2Fone").json()["model_name"] == "smollm2-instruct"
        assert ask(gateway, one_secret, "/v1/models/one", "DELETE").status_code == 200
        assert '"event": "terminate", "model": "one", "key": "one"' in gateway.log.read_text()
        mount(tmp_path / "secret", new)
        gateway.until(lambda: ask(gateway, new_secret, "/v1/models").status_code == 200)
        assert ask(gateway, all_secret, "/v1/models").status_code == 401


def test_keys_that_cannot_be_read_end_the_front_door(tmp_path: Path):
    """Nobody finds it open."""
    for file, said in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        command = [sys.executable, "-m", "jitney_gateway.kubernetes"]
        done = subprocess.run(command, env=os.environ | {"JITNEY_KEYS_FILE": str(file)}, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert said in done.stderr
