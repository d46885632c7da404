"""The ModelDeployments as last seen, and what each may be called. Speaks to nobody: `Watching` fills it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jitney_gateway.kubernetes.endpoints import Key
from jitney_gateway.kubernetes.manifest import name_of
from jitney_gateway.model import Json


class Names:
    """Uids of some ModelDeployments. Those of `home` go by the name that clients send; all, and those of other namespaces only so, by
    `namespace/name`: what somebody makes elsewhere never takes over a name that was used for a model here."""

    def __init__(self, bodies: Iterable[Json], home: str) -> None:
        self._home = home
        self._bodies = {key_of(body): body for body in sorted(bodies, key=_rank)}
        self._keys: dict[str, Key] = {}
        # Whole rounds, so that no name of the later ones hides one of the earlier.
        for key, body in self._bodies.items():
            if key[0] == home:
                self._keys.setdefault(served(body), key)
        for key, body in self._bodies.items():
            self._keys.setdefault(f"{key[0]}/{served(body)}", key)
        for key in self._bodies:
            self._keys.setdefault(f"{key[0]}/{key[1]}", key)

    def find(self, uid: str) -> Json | None:
        key = self._keys.get(uid)
        return None if key is None else self._bodies[key]

    def uid_of(self, body: Json) -> str:
        """What it is listed as."""
        namespace = body["metadata"]["namespace"]
        return served(body) if namespace == self._home else f"{namespace}/{served(body)}"

    def uids(self) -> list[str]:
        return sorted({self.uid_of(body) for body in self._bodies.values()})


class Models:
    """`changed` is called whenever one is not what it was."""

    def __init__(self, home: str, changed: Callable[[], None]) -> None:
        self._home, self._changed = home, changed
        self._bodies: dict[Key, Json] = {}
        self._names: Names | None = None

    @property
    def names(self) -> Names:
        if self._names is None:
            self._names = Names(self._bodies.values(), self._home)
        return self._names

    def replace(self, namespace: str | None, items: list[Json], version: int) -> None:
        # An own write may be younger than the listing.
        kept = {key: body for key, body in self._bodies.items() if namespace not in (None, key[0]) or version_of(body) > version}
        self._set({**{key_of(body): body for body in items}, **kept})

    def put(self, body: Json) -> None:
        """Also of an own write, whose event then is no news."""
        known = self._bodies.get(key_of(body))
        if known is None or version_of(known) < version_of(body):
            self._set({**self._bodies, key_of(body): body})

    def drop(self, body: Json) -> None:
        """This very one: what was made since in its name, and may be known before its end is, stays."""
        self._set({key: known for key, known in self._bodies.items() if known["metadata"]["uid"] != body["metadata"]["uid"]})

    def _set(self, bodies: dict[Key, Json]) -> None:
        if bodies != self._bodies:
            self._bodies, self._names = bodies, None
            self._changed()


def key_of(body: Json) -> Key:
    return body["metadata"]["namespace"], body["metadata"]["name"]


def version_of(body: Json) -> int:
    return int(body["metadata"]["resourceVersion"])


def served(body: Json) -> str:
    """The name its runtimes answer to."""
    name: str = body["spec"].get("servedModelName", body["metadata"]["name"])
    return name


def _rank(body: Json) -> tuple[bool, str, str, str]:
    """Where two say the same name, the one that a launch would have made counts, and then the older one."""
    metadata, uid = body["metadata"], served(body)
    by_hand = metadata["name"] not in (name_of(uid), name_of(uid, apart=True))
    return by_hand, metadata.get("creationTimestamp", ""), metadata["namespace"], metadata["name"]
