"""The newest known object of every kind that is watched. Lives on the main event loop; nothing else writes here."""

from __future__ import annotations

from jitney_operator.api import KIND, LABEL, Json, Key, ModelDeployment
from jitney_operator.observed import Listing, Observed, Pod

# Of how many objects that are gone the version is remembered: enough for what may still be on its way.
REMEMBERED = 4096


class Store:
    """Objects by kind, parent key and name; older versions than what is held, or is known to be gone, are refused."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[Key, dict[str, Json]]] = {}
        # uid and last version.
        self._gone: dict[str, int] = {}

    def put(self, body: Json) -> Key | None:
        """Keep the object; the key to reconcile, or None when nothing changed or it belongs to nobody."""
        key = parent(body)
        if key is None or _version(body) <= self._gone.get(body["metadata"]["uid"], -1):
            return None
        names = self._objects.setdefault(body["kind"], {}).setdefault(key, {})
        name, before = body["metadata"]["name"], None
        before = names.get(name)
        if before and before["metadata"]["uid"] == body["metadata"]["uid"] and _version(before) >= _version(body):
            return None
        names[name] = _pruned(body)
        return key

    def bury(self, body: Json) -> Key | None:
        """The server says that it is gone, at this version: an answer or event from before must not bring it back."""
        self._gone[body["metadata"]["uid"]] = _version(body)
        if len(self._gone) > REMEMBERED:
            del self._gone[next(iter(self._gone))]
        return self.drop(body)

    def drop(self, body: Json) -> Key | None:
        """Forget the object, unless a newer one took its name."""
        key = parent(body)
        names = self._objects.get(body["kind"], {}).get(key, {}) if key else {}
        held = names.get(body["metadata"]["name"])
        if held and held["metadata"]["uid"] == body["metadata"]["uid"]:
            del names[body["metadata"]["name"]]
        return key

    def prune(self, listing: Listing) -> set[Key]:
        """Forget objects that were gone when the listing was made; the keys they belonged to. What is newer than it stays."""
        # By owner too: a child that was given to another resource is no longer this one's.
        there = {(parent(item), item["metadata"]["uid"]) for item in listing.items}
        emptied: set[Key] = set()
        for key, names in self._objects.get(listing.kind, {}).items():
            if listing.namespace not in (None, key.namespace):
                continue
            gone = [
                name for name, body in names.items() if (key, body["metadata"]["uid"]) not in there and _version(body) <= listing.version
            ]
            for name in gone:
                del names[name]
            emptied |= {key} if gone else set()
        return emptied

    def behind(self, listing: Listing) -> list[Json]:
        """Items that the server has, or has newer than what is held here: their events were lost, or are still on their way."""
        return [item for item in listing.items if self._lacks(item)]

    def _lacks(self, item: Json) -> bool:
        key = parent(item)
        if key is None or _version(item) <= self._gone.get(item["metadata"]["uid"], -1):
            return False
        held = self.find(item["kind"], key, item["metadata"]["name"])
        return held is None or _version(held) < _version(item)

    def clear(self) -> None:
        """Before a new listing: what vanished while nobody watched must not live on as a ghost."""
        self._objects.clear()
        self._gone.clear()

    def all_keys(self) -> list[Key]:
        """Of all ModelDeployments."""
        return [key for key, names in self._objects.get(KIND, {}).items() if names]

    def model_deployment(self, key: Key) -> ModelDeployment | None:
        body = self.find(KIND, key, key.name)
        return ModelDeployment.parse(body) if body else None

    def model_deployments(self) -> list[ModelDeployment]:
        return [ModelDeployment.parse(body) for names in self._objects.get(KIND, {}).values() for body in names.values()]

    def loading(self) -> dict[Key, Pod]:
        """Of each resource the first pod whose runtime is up and not ready yet."""
        found = {}
        for key, names in self._objects.get("Pod", {}).items():
            starting = [pod for pod in map(Pod, names.values()) if pod.starting]
            if starting:
                found[key] = min(starting, key=lambda pod: pod.name)
        return found

    def stuck(self) -> dict[Key, list[Pod]]:
        """Pods that have a node and wait there for something that their status does not name."""
        found = {key: [pod for pod in map(Pod, names.values()) if pod.stuck] for key, names in self._objects.get("Pod", {}).items()}
        return {key: pods for key, pods in found.items() if pods}

    def find(self, kind: str, key: Key, name: str) -> Json | None:
        return self._objects.get(kind, {}).get(key, {}).get(name)

    def observed(self, mdep: ModelDeployment) -> Observed:
        """Children of this very object: what an earlier one of the same name left behind does not count."""
        pods = self._objects.get("Pod", {}).get(mdep.key, {}).values()
        return Observed(
            self._owned("Deployment", mdep, mdep.name),
            self._owned("Service", mdep, mdep.name),
            tuple(Pod(body) for body in pods),
            self._owned("PersistentVolumeClaim", mdep, mdep.claim_name),
        )

    def _owned(self, kind: str, mdep: ModelDeployment, name: str) -> Json | None:
        body = self.find(kind, mdep.key, name)
        owners = body["metadata"].get("ownerReferences", []) if body else []
        return body if any(owner.get("uid") == mdep.uid for owner in owners) else None


def parent(body: Json) -> Key | None:
    """The ModelDeployment an object is, or is labelled to belong to."""
    metadata = body["metadata"]
    name = metadata["name"] if body["kind"] == KIND else metadata.get("labels", {}).get(LABEL)
    return Key(metadata["namespace"], name) if name else None


def _version(body: Json) -> int:
    return int(body["metadata"].get("resourceVersion") or 0)


def _pruned(body: Json) -> Json:
    """Managed fields are most of an object's size, and answer no question here."""
    return {**body, "metadata": {name: value for name, value in body["metadata"].items() if name != "managedFields"}}
