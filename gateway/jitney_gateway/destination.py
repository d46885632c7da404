"""A model as the data path needs it: what is known of it without asking anybody. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from jitney_gateway.model import ERROR, READY, Model


class Prospect(Enum):
    """What a request meets where no replica answers."""

    STARTING = "starting"
    # A request may wait for it.
    COMING = "coming"
    # A request wakes it, and may wait for it.
    ASLEEP = "asleep"
    SUSPENDED = "suspended"
    FAILED = "failed"


@dataclass(frozen=True)
class Destination:
    """`uid` is how the front door calls it, `name` how its runtimes do. `addresses` are of the replicas that are ready; `prospect` and
    `message` count where there is none."""

    uid: str
    name: str
    addresses: tuple[str, ...]
    prospect: Prospect
    message: str = ""


def of_model(model: Model) -> Destination:
    """Where everything there is to know stands in the model itself, as with processes of this machine."""
    addresses = tuple(replica.address for replica in model.replicas if replica.status == READY)
    return Destination(model.uid, model.uid, addresses, Prospect.FAILED if model.status == ERROR else Prospect.STARTING, model.message)
