"""One launched model of this machine, and how its processes stand together."""

from __future__ import annotations

from dataclasses import dataclass

from jitney_gateway.errors import GatewayError
from jitney_gateway.launch import Launch
from jitney_gateway.local import memory
from jitney_gateway.local.runtime import Runtime
from jitney_gateway.model import CREATING, ERROR, LOADING, READY, Model, Replica


@dataclass
class Running:
    """A model and its processes, of which there is at least one, but for one that could not be started: `failure` says why. `needs` is the
    memory of one process in bytes, 0 where it is not known."""

    launch: Launch
    created: int
    repository: str = ""
    context: int | None = None
    runtimes: tuple[Runtime, ...] = ()
    needs: int = 0
    failure: str = ""

    def replica(self, uid: str, name: str | None, status: int) -> Runtime:
        """By default the first. GatewayError of this status where there is none."""
        if self.failure:
            raise GatewayError(status, f"{uid} was not started: {self.failure}", code="replica_not_found")
        if name is None:
            return self.runtimes[0]
        there = {runtime.id: runtime for runtime in self.runtimes}
        if name not in there:
            raise GatewayError(status, f"{uid} has no replica {name}; there are {', '.join(there)}", code="replica_not_found")
        return there[name]

    def promised(self) -> int:
        """Bytes that its processes have yet to take while they load."""
        loading = [runtime for runtime in self.runtimes if runtime.status == LOADING]
        return sum(max(0, self.needs - memory.taken(runtime.pid)) for runtime in loading)

    def failing(self) -> str:
        """The reason of a replica that fails again and again; empty where each comes on."""
        return next((runtime.failure for runtime in self.runtimes if runtime.failure), "")

    def model(self, uid: str) -> Model:
        """Ready when all replicas are; failed when one of them is, with its words."""
        if self.failure:
            return Model(uid, self.launch, ERROR, stage="error", message=self.failure, created=self.created, failing=self.failure)
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
            failing=self.failing(),
        )
