"""What the overview tells of models of other namespaces. A name with a slash is no sign of one."""

from __future__ import annotations

from jitney_gateway.kubernetes.backend import KubernetesBackend
from jitney_gateway.kubernetes.cluster import Cluster
from jitney_gateway.model import Json
from jitney_gateway.server.overview import entry


class Listing(Cluster):
    """A cluster that only lists."""

    def __init__(self, *items: Json) -> None:
        self._items = list(items)

    async def list(self, path: str, query: dict[str, str] | None = None) -> tuple[list[Json], str]:
        return self._items, "1"


def model(namespace: str, served: str) -> Json:
    metadata = {"name": "a", "namespace": namespace, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": metadata, "spec": {"model": "org/repo", "servedModelName": served}}


async def test_a_model_is_foreign_where_its_namespace_is_not_home():
    backend = KubernetesBackend(Listing(model("home", "team/chat"), model("other", "chat")), "home", None)
    told = {seen["uid"]: seen["foreign"] for seen in (entry(found, {}) for found in await backend.models())}
    assert told == {"team/chat": False, "other/chat": True}
