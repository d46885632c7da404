"""One launched model of this machine, and how its processes stand together."""

from __future__ import annotations

from dataclasses import dataclass

from jitney_gateway.errors import GatewayError
from jitney_gateway.launch import Launch
from jitney_gateway.local.runtime import Runtime
from jitney_gateway.model import CREATING, ERROR, LOADING, READY, Model, Replica


@dataclass
class Running:
    """A model and its processes, of which there is at least one."""

    launch: Launch
    created: int
    repository: str
    context: int | None
    runtimes: tuple[Runtime, ...]

    def replica(self, uid: str, name: str, status: int) -> Runtime:
        """GatewayError of this status where there is none."""
        there = {runtime.id: runtime for runtime in self.runtimes}
        if name not in there:
            raise GatewayError(status, f"{uid} has no replica {name}; there are {', '.join(there)}", code="replica_not_found")
        return there[name]

    def model(self, uid: str) -> Model:
        """Ready when all replicas are; failed when one of them is, with its words."""
        failed = next((runtime for runtime in self.runtimes if runtime.status == ERROR), None)
        slowest = failed or min(self.runtimes, key=lambda runtime: (runtime.status == READY, runtime.progress))
        replicas = tuple(
            Replica(runtime.id, runtime.address, runtime.status, runtime.message if runtime.status == ERROR else "")
            for runtime in self.runtimes
        )
        status = slowest.status if slowest.status in (READY, ERROR, LOADING) else CREATING
        return Model(
            uid,
            self.launch,
            status,
            replicas,
            slowest.progress,
            slowest.stage,
            slowest.message,
            self.created,
            self.repository,
            self.context,
        )
