"""Kubeconfig files: one user, one cluster, certificates inside, so that the file can be copied anywhere."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from cluster.certificates import KeyPair


def write(path: Path, *, server: str, authority: Path, user: str, pair: KeyPair) -> Path:
    """Write and return `path`. JSON is YAML, and every client reads it."""
    cluster = {"server": server, "certificate-authority-data": _encoded(authority)}
    credentials = {"client-certificate-data": _encoded(pair.certificate), "client-key-data": _encoded(pair.key)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "jitney",
        "clusters": [{"name": "jitney", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "jitney", "context": {"cluster": "jitney", "user": user}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=1))
    return path


def port(path: Path) -> int:
    """Of the server that a written kubeconfig names."""
    return int(json.loads(path.read_text())["clusters"][0]["cluster"]["server"].rpartition(":")[2])


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
