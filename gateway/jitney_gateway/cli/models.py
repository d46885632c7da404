"""`jitney list`, `describe` and `terminate`: what is launched, and its end."""

from __future__ import annotations

from typing import Any

from jitney_gateway.cli.client import Failed
from jitney_gateway.cli.endpoint import connect
from jitney_gateway.cli.options import Endpoint, Key, Output, Uid
from jitney_gateway.cli.output import Form, fail, say, show, table
from jitney_gateway.model import idle

# Xinference's columns; how it stands comes after them.
COLUMNS = {
    "UID": "id",
    "Type": "model_type",
    "Name": "model_name",
    "Format": "model_format",
    "Size (in billions)": "model_size_in_billions",
    "Quantization": "quantization",
}
TOLD = {
    "UID": "uid",
    "Status": "status",
    "Message": "message",
    "Name": "model_name",
    "Size (in billions)": "model_size_in_billions",
    "Quantization": "quantization",
    "Revision": "revision",
    "Context length": "context_length",
    "Abilities": "model_ability",
    "Replicas": "replica",
    "Address": "address",
}


def list_models(endpoint: Endpoint = None, output: Output = Form.TABLE, api_key: Key = None) -> None:
    """The launched models."""
    try:
        models = connect(endpoint, api_key).models()
    except Failed as error:
        fail(str(error))
    if not models and output is Form.TABLE:
        say("No model is launched: `jitney launch -n NAME` launches one.")
        return
    rows = [[*(model.get(key) for key in COLUMNS.values()), _standing(model)] for model in models]
    show(models, output, table(*COLUMNS, "Status", rows=rows))


def describe(model_uid: Uid, endpoint: Endpoint = None, output: Output = Form.TABLE, api_key: Key = None) -> None:
    """One model: how it stands and why, and its replicas."""
    try:
        client = connect(endpoint, api_key)
        model: dict[str, Any] = {"uid": model_uid, **client.describe(model_uid), "replicas": client.replicas(model_uid)}
    except Failed as error:
        fail(str(error))
    rows = [(title, _words(model.get(key))) for title, key in TOLD.items()]
    rows += [(f"Replica {one['replica_id']}", _replica(one)) for one in model["replicas"]]
    show(model, output, table("", "", rows=[row for row in rows if row[1]]))


def terminate(model_uid: Uid, endpoint: Endpoint = None, api_key: Key = None) -> None:
    """Stop a model; answers under way are finished."""
    try:
        connect(endpoint, api_key).terminate(model_uid)
    except Failed as error:
        fail(str(error))


def _standing(model: dict[str, Any]) -> str:
    """`LOADING (loading 64 %)`, and the reason where it failed or no replica is wanted."""
    status, message = str(model.get("status", "")), str(model.get("message") or "")
    word = (idle(status, message) or status).upper()
    return f"{word} ({message})" if message else word


def _words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return "" if value is None else str(value)


def _replica(replica: dict[str, Any]) -> str:
    return "  ".join(str(replica[key]) for key in ("status", "model_address", "error_message") if replica.get(key))
