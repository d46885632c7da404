"""A launched model as both backends tell of it, and its shape on the wire (Xinference 4.1.0's and OpenAI's in one)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from jitney_gateway.launch import Launch

Json = dict[str, Any]

CREATING, LOADING, READY, ERROR, UPDATING = "CREATING", "LOADING", "READY", "ERROR", "UPDATING"
# Xinference's words for one replica.
STATES = {CREATING: "registering", LOADING: "loading", READY: "ready", ERROR: "error", UPDATING: "loading"}
# The operator's reasons for Ready where no replica is wanted, for which Xinference has no word.
IDLE = {"ScaledToZero": "asleep", "Suspended": "suspended"}


@dataclass(frozen=True)
class Replica:
    """One runtime. `address` is where it is asked, such as http://127.0.0.1:41234."""

    id: str
    address: str
    status: str
    message: str = ""


@dataclass(frozen=True)
class Model:
    """`progress` from 0 to 1 while it starts, `stage` in the words of the runtime, `message` the reason where it failed. `created` in Unix
    time. `failing` is why the present start fails, although it may be tried again; empty where it does not. A `foreign` one is of another
    namespace: it is served here, and looked after where it was made."""

    uid: str
    launch: Launch
    status: str
    replicas: tuple[Replica, ...] = ()
    progress: float = 0.0
    stage: str = "pending"
    message: str = ""
    created: int = 0
    repository: str = ""
    context: int | None = None
    failing: str = ""
    foreign: bool = False

    def describe(self) -> Json:
        launch = self.launch
        return {
            "model_type": "LLM",
            "address": self.replicas[0].address if self.replicas else None,
            "accelerators": [],
            "model_name": launch.name,
            "model_lang": list(launch.languages),
            "model_ability": list(launch.abilities),
            "model_description": launch.description,
            "model_format": "pytorch",
            "model_size_in_billions": written_size(launch.size),
            "model_family": launch.family or launch.name,
            "quantization": launch.quantization,
            "multimodal_projector": None,
            "model_hub": "huggingface",
            "revision": launch.revision,
            "context_length": self.context,
            "strict_system_first": False,
            "model_engine": "transformers",
            "n_worker": 1,
            "replica": launch.replicas,
            "status": self.status,
            "message": self.message,
        }

    def listed(self) -> Json:
        """An entry of GET /v1/models, for either kind of client."""
        return {"id": self.uid, "object": "model", "created": self.created, "owned_by": "jitney", **self.describe()}

    def instance(self) -> Json:
        return {
            "model_name": self.launch.name,
            "model_uid": self.uid,
            "model_version": None,
            "model_ability": list(self.launch.abilities),
            "replica": self.launch.replicas,
            "status": self.status,
            "instance_created_ts": self.created,
            "n_worker": 1,
            "replica_statuses": [{**replica_status(self, replica), "model_state": STATES[replica.status]} for replica in self.replicas],
        }

    def progressed(self) -> Json:
        """How far the slowest replica is; of another it is only known whether it is ready."""
        replicas = [self._replica_progressed(replica) for replica in self.replicas]
        told = {"progress": self.progress, "stage": self.stage, "download_files": [], "replicas": replicas}
        return {**told, "message": self.message, "failing": self.failing}

    def _replica_progressed(self, replica: Replica) -> Json:
        ready = replica.status == READY
        progress, stage = (1.0, READY.lower()) if ready else (self.progress, self.stage)
        told = {
            **named(self, replica),
            "progress": progress,
            "stage": stage,
            "info": replica.message or ("" if ready else self.message),
            "updated_at": time.time(),
        }
        nothing = ("completed", "total", "plan", "status")
        return {**told, "download_files": [], **{f"dependency_install_{part}": None for part in nothing}}


def idle(status: str, message: str) -> str | None:
    """In one word, where nothing is on its way because no replica is wanted; None where it starts, answers or failed. The reason is the
    first word of `message`, and with these two the operator says that all is as it should be."""
    return IDLE.get(message.partition(":")[0]) if status == LOADING else None


def named(model: Model, replica: Replica) -> Json:
    """By its number, or by its pod's name."""
    number = int(replica.id) if replica.id.isdecimal() else replica.id
    return {"replica_id": number, "replica_model_uid": f"{model.uid}-{replica.id}"}


def replica_status(model: Model, replica: Replica) -> Json:
    return {
        **named(model, replica),
        "worker_address": None,
        "model_address": replica.address,
        "accelerators": [],
        "status": replica.status,
        "created_ts": model.created,
        "error_message": replica.message or None,
        "replica_uid": replica.id,
        "gpu_idx": None,
    }


def written_size(size: str | None) -> int | str | None:
    """As Xinference writes it: whole numbers as numbers, others with an underscore."""
    if size is None:
        return None
    return int(size) if size.isdigit() else size.replace(".", "_")
