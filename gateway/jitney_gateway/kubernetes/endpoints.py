"""The pods that answer for each model, from the EndpointSlices of its Service. Speaks to nobody: `Watching` fills it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jitney_gateway.kubernetes.manifest import LABEL
from jitney_gateway.model import Json

SERVICE = "kubernetes.io/service-name"
PORT_NAME = "http"

# Namespace and name of a ModelDeployment; its Service has the same.
Key = tuple[str, str]


@dataclass(frozen=True)
class Pod:
    """One that is not leaving. `address` is where its runtime is asked."""

    name: str
    address: str
    ready: bool


class Endpoints:
    """`changed` is called whenever a model's pods are not what they were."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        # By model, then by slice: a Service with many pods has several.
        self._slices: dict[Key, dict[str, tuple[Pod, ...]]] = {}

    def of(self, key: Key) -> tuple[Pod, ...]:
        """By name, each once: with two families of addresses, or on its way from one slice to another, a pod stands in two."""
        found: dict[str, Pod] = {}
        for pods in self._slices.get(key, {}).values():
            for pod in pods:
                if pod.name not in found or (pod.ready, found[pod.name].address) > (found[pod.name].ready, pod.address):
                    found[pod.name] = pod
        return tuple(found[name] for name in sorted(found))

    def replace(self, namespace: str | None, items: list[Json], version: int) -> None:
        before = self._slices
        self._slices = {key: slices for key, slices in before.items() if namespace not in (None, key[0])}
        for body in items:
            self._put(body)
        if self._slices != before:
            self._changed()

    def put(self, body: Json) -> None:
        self._put(body)
        self._changed()

    def drop(self, body: Json) -> None:
        if key := key_of(body):
            slices = self._slices.get(key, {})
            slices.pop(body["metadata"]["name"], None)
            if not slices:
                self._slices.pop(key, None)
            self._changed()

    def _put(self, body: Json) -> None:
        if key := key_of(body):
            self._slices.setdefault(key, {})[body["metadata"]["name"]] = tuple(pods_of(body))


def key_of(body: Json) -> Key | None:
    """Whose pods these are; None where the label is on a slice of another Service than the model's own."""
    labels = body["metadata"].get("labels") or {}
    name = labels.get(LABEL)
    return (body["metadata"]["namespace"], name) if name and labels.get(SERVICE) == name else None


def pods_of(body: Json) -> Iterator[Pod]:
    """Those of a slice that are not terminating. What a condition leaves open counts as the API says: ready, and not terminating."""
    port = _port(body)
    if body.get("addressType") not in ("IPv4", "IPv6") or port is None:
        return
    for endpoint in body.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        if conditions.get("terminating"):
            continue
        host = endpoint["addresses"][0]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        yield Pod((endpoint.get("targetRef") or {}).get("name") or host, address, conditions.get("ready") is not False)


def _port(body: Json) -> int | None:
    ports = body.get("ports") or ()
    named = [port for port in ports if port.get("name") == PORT_NAME] or [port for port in ports if port.get("port")]
    return named[0].get("port") if named else None
