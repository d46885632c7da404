"""Who asks now: the key, the address, and the model that it is about. Set by the guard for each request."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from jitney_gateway.server.keys import Key


@dataclass
class Visit:
    """`key` is None where the front door has no keys; `model` is the uid, once it is known that there is such a model."""

    address: str
    key: Key | None = None
    model: str = ""

    @property
    def key_id(self) -> str:
        return self.key.id if self.key else ""

    @property
    def restricted(self) -> bool:
        """Whether there may be models that are not for it."""
        return self.key is not None and self.key.models is not None

    @property
    def may_run_code(self) -> bool:
        return self.key is None or self.key.may_run_code

    def may_use(self, name: str) -> bool:
        return self.key is None or self.key.may_use(name)


# Without a default: what does not come through the guard may do nothing.
current: ContextVar[Visit] = ContextVar("visit")
