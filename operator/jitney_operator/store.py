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
        # What was read out of bodies already: some look at all of them every few seconds.
        self._parsed: dict[Key, ModelDeployment] = {}

    def put(self, body: Json) -> Key | None:
        """Keep the object; the key to reconcile, or None when nothing changed or it belongs to nobody."""
        key = parent(body)
        if key is None or _version(body) <= self._gone.get(body["metadata"]["uid"], -1):
            return None
        name = body["metadata"]["name"]
        before = self.find(body["kind"], key, name)
        # Whatever their uids: what was made later under a name has the higher version.
        if before and _version(before) >= _version(body):
            return None
        self._objects.setdefault(body["kind"], {}).setdefault(key, {})[name] = _pruned(body)
        self._reread(body["kind"], key)
        return key

    def _reread(self, kind: str, key: Key) -> None:
        if kind == KIND:
            self._parsed.pop(key, None)

    def bury(self, body: Json) -> Key | None:
        """The server says that it is gone, at this version: an answer or event from before must not bring it back."""
        self._gone[body["metadata"]["uid"]] = _version(body)
        if len(self._gone) > REMEMBERED:
            del self._gone[next(iter(self._gone))]
        return self.drop(body)

    def drop(self, body: Json) -> Key | None:
        """Forget the object, unless a newer one took its name."""
        key, name = parent(body), body["metadata"]["name"]
        held = self.find(body["kind"], key, name) if key else None
        if key and held and held["metadata"]["uid"] == body["metadata"]["uid"]:
            self._remove(body["kind"], key, name)
        return key

    def _remove(self, kind: str, key: Key, name: str) -> None:
        """With it what held nothing else: names come and go for as long as this process lives."""
        del self._objects[kind][key][name]
        if not self._objects[kind][key]:
            del self._objects[kind][key]
        self._reread(kind, key)

    def prune(self, listing: Listing) -> set[Key]:
        """Forget objects that were gone when the listing was made; the keys they belonged to. What is newer than it stays."""
        # By owner too: a child that was given to another resource is no longer this one's.
        there = {(parent(item), item["metadata"]["uid"]) for item in listing.items}
        gone = [
            (key, name)
            for key, names in self._objects.get(listing.kind, {}).items()
            if listing.namespace in (None, key.namespace)
            for name, body in names.items()
            if (key, body["metadata"]["uid"]) not in there and _version(body) <= listing.version
        ]
        for key, name in gone:
            self._remove(listing.kind, key, name)
        return {key for key, _ in gone}

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
        self._parsed.clear()

    def all_keys(self) -> list[Key]:
        """Of all ModelDeployments."""
        return list(self._objects.get(KIND, {}))

    def model_deployment(self, key: Key) -> ModelDeployment | None:
        body = self.find(KIND, key, key.name)
        if body and key not in self._parsed:
            self._parsed[key] = ModelDeployment.parse(body)
        return self._parsed.get(key)

    def model_deployments(self) -> list[ModelDeployment]:
        return [mdep for key in self.all_keys() if (mdep := self.model_deployment(key))]

    def loading(self) -> dict[Key, Pod]:
        """Of each resource the first pod whose runtime is up and not ready."""
        return {key: pod for key in self._objects.get("Pod", {}) if (pod := self.starting(key))}

    def starting(self, key: Key) -> Pod | None:
        """The first pod of this resource whose runtime is up and not ready; one that served before only where no other is on its way."""
        pods = map(Pod, self._objects.get("Pod", {}).get(key, {}).values())
        return min((pod for pod in pods if pod.starting), key=lambda pod: (pod.silent, pod.name), default=None)

    def stuck(self) -> dict[Key, list[Pod]]:
        """Pods that have a node and wait there for something that their status does not name."""
        found = {key: [pod for pod in map(Pod, names.values()) if pod.stuck] for key, names in self._objects.get("Pod", {}).items()}
        return {key: pods for key, pods in found.items() if pods}

    def find(self, kind: str, key: Key, name: str) -> Json | None:
        return self._objects.get(kind, {}).get(key, {}).get(name)

    def observed(self, mdep: ModelDeployment) -> Observed:
        """Children of this very object: what an earlier one of the same name left behind does not count, but for its pods, which the
        Service leads to as long as they are there."""
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
