"""How many pods may hold the claims that a resource names: decides whether the next pod may come before the last one has left.

These claims are somebody else's and not watched. Each is read once for a generation of its resource, and until it is there.
"""

from __future__ import annotations

from jitney_operator.api import Json, Key, ModelDeployment, Spec
from jitney_operator.cluster import Cluster
from jitney_operator.errors import ClusterError

FORBIDDEN = 403

SHARED = {"ReadOnlyMany", "ReadWriteMany"}


class Claims:
    """Main loop only; `exclusive` is what was read last."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._read: dict[Key, tuple[str, int, bool]] = {}
        self._supposed: dict[Key, bool] = {}

    def exclusive(self, mdep: ModelDeployment) -> bool:
        """One of them is for one node or one pod at a time. False where that is not known: no such claim, or it may not be read."""
        held = self._read.get(mdep.key)
        if held and held[:2] == (mdep.uid, mdep.generation):
            return held[2]
        return self._supposed.get(mdep.key, False)

    def suppose(self, mdep: ModelDeployment, exclusive: bool) -> None:
        """Until they can be read."""
        self._supposed[mdep.key] = exclusive

    async def look(self, mdep: ModelDeployment) -> None:
        """Reads them unless that was done for this generation. ClusterError where the server cannot say now."""
        names = named(mdep.spec)
        held = self._read.get(mdep.key)
        if not names or (held and held[:2] == (mdep.uid, mdep.generation)):
            return
        found = [await self._modes(mdep.key.namespace, name) for name in names]
        self._supposed.pop(mdep.key, None)
        if all(modes is not None for modes in found):
            self._read[mdep.key] = (mdep.uid, mdep.generation, any(not SHARED & set(modes or ()) for modes in found))

    def forget(self, key: Key) -> None:
        self._read.pop(key, None)
        self._supposed.pop(key, None)

    async def _modes(self, namespace: str, name: str) -> list[str] | None:
        try:
            claim: Json = await self._cluster.get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}") or {}
        except ClusterError as error:
            if error.status != FORBIDDEN:
                raise
            return None
        modes: list[str] | None = claim.get("spec", {}).get("accessModes")
        return modes


def named(spec: Spec) -> tuple[str, ...]:
    """Claims that the model or the cache lies on, but for the one that we make."""
    model = spec.model.removeprefix("pvc://").partition("/")[0] if spec.model.startswith("pvc://") else None
    cache = (spec.cache or {}).get("claimName")
    return tuple(name for name in (model, cache) if name)
