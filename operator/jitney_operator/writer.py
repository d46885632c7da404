"""Every write to children, status and Events. None starts unless the lease is held at that moment.

Server-side apply with one field manager for children and one for the status (KEP-555).
"""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlencode

from jitney_operator.api import API_VERSION, KIND, LABEL, MANAGER, PLURAL, STATUS_MANAGER, Json, ModelDeployment
from jitney_operator.cluster import Cluster, path
from jitney_operator.errors import ClusterError, NotLeading, Rejected
from jitney_operator.lease import Lease
from jitney_operator.metrics import Metrics

_APPLY = "application/apply-patch+yaml"
# Seconds for which a new resource waits without a word until its predecessor's children are removed.
_REMOVAL = 10.0


class Writer:
    """Answers are the objects as the server holds them now."""

    def __init__(self, cluster: Cluster, lease: Lease, metrics: Metrics) -> None:
        self._cluster, self._lease, self._metrics = cluster, lease, metrics

    async def apply(self, child: Json, owner: ModelDeployment, live: Json | None) -> Json:
        """Make the child so; Rejected: NameConflict when the name is somebody else's, FeatureUnavailable when the server is too old."""
        live = live or await self._cluster.get(path(child))
        if _image_volumes(child):
            await self._refuse_what_would_be_dropped(child)
        if live is None:
            return await self._patch(path(child), child, MANAGER, child["kind"], force=False)
        _refuse_foreign(live, child, owner)
        # uid and resourceVersion: a writer that read something older gets 409 instead of undoing newer work.
        guard = {name: live["metadata"][name] for name in ("uid", "resourceVersion")}
        return await self._patch(path(child), {**child, "metadata": child["metadata"] | guard}, MANAGER, child["kind"], force=True)

    async def _refuse_what_would_be_dropped(self, child: Json) -> None:
        """A server without image volumes takes the Deployment and makes an empty folder of the volume: asked first, without writing."""
        query = urlencode({"fieldManager": MANAGER, "force": "true", "dryRun": "All"})
        answer = await self._cluster.request("PATCH", f"{path(child)}?{query}", child, content=_APPLY)
        if _image_volumes(answer) != _image_volumes(child):
            raise Rejected(
                "FeatureUnavailable",
                "This cluster has no image volumes, which oci:// models need (Kubernetes 1.35, or its gate ImageVolume): put the model on "
                "a claim and use pvc://, or take it from the hub.",
            )

    async def report(self, mdep: ModelDeployment, status: Json) -> Json:
        """Write the status, all of it; what is not in it any more is removed."""
        # The version too: a status that was worked out from an older look must not cover a newer one.
        metadata = {"name": mdep.name, "namespace": mdep.key.namespace, "uid": mdep.uid, "resourceVersion": str(mdep.version)}
        place = f"/apis/{API_VERSION}/namespaces/{mdep.key.namespace}/{PLURAL}/{mdep.name}/status"
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "status": status}
        return await self._patch(place, body, STATUS_MANAGER, "status", force=True)

    async def record(self, event: Json) -> None:
        """Post an Event."""
        self._require_lease()
        await self._cluster.request("POST", f"/apis/events.k8s.io/v1/namespaces/{event['metadata']['namespace']}/events", event)
        self._metrics.writes.labels("Event").inc()

    async def _patch(self, place: str, body: Json, manager: str, what: str, *, force: bool) -> Json:
        self._require_lease()
        query = urlencode({"fieldManager": manager, "force": str(force).lower()})
        answer = await self._cluster.request("PATCH", f"{place}?{query}", body, content=_APPLY)
        self._metrics.writes.labels(what).inc()
        return answer

    def _require_lease(self) -> None:
        """Asked right before each request: a process that was stopped for a while wakes up in the middle of a reconcile."""
        if not self._lease.mine:
            raise NotLeading


def _image_volumes(child: Json) -> list[str]:
    volumes = child["spec"].get("template", {}).get("spec", {}).get("volumes", []) if child["kind"] == "Deployment" else []
    return [volume["name"] for volume in volumes if "image" in volume]


def _refuse_foreign(live: Json, child: Json, owner: ModelDeployment) -> None:
    """Ours by owner, or labelled ours and without an owner: then it is adopted."""
    controllers = [reference for reference in live["metadata"].get("ownerReferences", []) if reference.get("controller")]
    if any(reference["uid"] == owner.uid for reference in controllers):
        return
    if any((reference["kind"], reference["name"]) == (KIND, owner.name) for reference in controllers):
        earlier = f"the {child['kind']} of an earlier ModelDeployment of this name is still being removed"
        if _age(owner) < _REMOVAL:
            raise ClusterError(409, earlier)
        held = ", ".join(live["metadata"].get("finalizers", [])) or "none"
        raise Rejected("NameConflict", f"This waits: {earlier}. Its finalizers: {held}.")
    if not controllers and live["metadata"].get("labels", {}).get(LABEL) == owner.name:
        return
    what = f"A {child['kind']} named {child['metadata']['name']} exists in this namespace and is not ours"
    raise Rejected("NameConflict", f"{what}; remove it or give this ModelDeployment another name.")


def _age(mdep: ModelDeployment) -> float:
    """Seconds; by two clocks, which is near enough to be patient by."""
    return (datetime.now(UTC) - datetime.fromisoformat(mdep.created)).total_seconds() if mdep.created else 0.0
