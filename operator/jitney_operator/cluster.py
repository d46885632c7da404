"""The only file that speaks to Kubernetes (the watches are kopf's, in `handlers`).

What the operator's role must allow, cluster-wide or per watched namespace:
  serving.jitney.dev  modeldeployments             get list watch
  serving.jitney.dev  modeldeployments/status      patch
  serving.jitney.dev  modeldeployments/finalizers  update  (owner references with blockOwnerDeletion)
  apps                deployments                  get list watch create patch
  core                services                     get list watch create patch
  core                pods                         list watch
and in its own namespace:
  coordination.k8s.io leases                       get create update
"""

from __future__ import annotations

import json
import os
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config

from jitney_operator.api import API_VERSION, KIND, LABEL, MANAGER, PLURAL, STATUS_MANAGER, Json, ModelDeployment
from jitney_operator.errors import ClusterError, Rejected

_PLURALS = {"Deployment": "deployments", "Service": "services"}
_LISTED = {"Deployment": "/apis/apps/v1", "Service": "/api/v1", "Pod": "/api/v1"}
_APPLY = "application/apply-patch+yaml"
_TIMEOUT = 30


class Cluster:
    """Plain dicts in and out; every failure is a ClusterError."""

    def __init__(self, api: Any) -> None:
        self._api = api

    @classmethod
    async def connect(cls) -> Self:
        """From KUBECONFIG when it is set, else with the pod's service account."""
        if os.environ.get("KUBECONFIG"):
            await config.load_kube_config()
        else:
            config.load_incluster_config()
        return cls(client.ApiClient())

    async def close(self) -> None:
        await self._api.close()

    async def apply(self, child: Json, owner: ModelDeployment, live: Json | None) -> Json:
        """Make the child so; Rejected with NameConflict when the name is somebody else's."""
        live = live or await self.get(_path(child))
        if live is None:
            return await self._patch(_path(child), child, MANAGER, force=False)
        _refuse_foreign(live, child, owner)
        # uid and resourceVersion: a writer that read something older gets 409 instead of undoing newer work.
        guard = {name: live["metadata"][name] for name in ("uid", "resourceVersion")}
        body = {**child, "metadata": child["metadata"] | guard}
        return await self._patch(_path(child), body, MANAGER, force=True)

    async def report(self, mdep: ModelDeployment, status: Json) -> Json:
        """Write the status, all of it; what is not in it any more is removed."""
        metadata = {"name": mdep.name, "namespace": mdep.key.namespace, "uid": mdep.uid}
        path = f"/apis/{API_VERSION}/namespaces/{mdep.key.namespace}/{PLURAL}/{mdep.name}/status"
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "status": status}
        return await self._patch(path, body, STATUS_MANAGER, force=True)

    async def get(self, path: str) -> Json | None:
        """None when there is no such object."""
        try:
            return await self.request("GET", path)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    async def children(self, namespaces: tuple[str, ...]) -> list[Json]:
        """Every object with our label; of all namespaces when none is named."""
        found: list[Json] = []
        for kind, prefix in _LISTED.items():
            for place in [f"/namespaces/{name}" for name in namespaces] or [""]:
                path = f"{prefix}{place}/{kind.lower()}s?{urlencode({'labelSelector': LABEL})}"
                # Listings leave out the kind of their items.
                found += [{**item, "kind": kind} for item in (await self.request("GET", path))["items"]]
        return found

    async def request(self, method: str, path: str, body: Json | None = None, content: str = "application/json") -> Json:
        """One request; the answer's body."""
        url = self._api.configuration.host + path
        headers = {"Accept": "application/json", "Content-Type": content, "User-Agent": MANAGER} | await self._authorization()
        try:
            response = await self._api.rest_client.request(method, url, headers=headers, body=body, _request_timeout=_TIMEOUT)
            text = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ClusterError(0, f"the API server does not answer: {error}") from error
        if response.status >= 400:
            raise ClusterError(response.status, _message(text), float(response.headers.get("Retry-After") or 0))
        answer: Json = json.loads(text)
        return answer

    async def _patch(self, path: str, body: Json, manager: str, *, force: bool) -> Json:
        query = urlencode({"fieldManager": manager, "force": str(force).lower()})
        return await self.request("PATCH", f"{path}?{query}", body, _APPLY)

    async def _authorization(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], "", "", None)
        return headers


def _path(child: Json) -> str:
    group = "/api/v1" if child["apiVersion"] == "v1" else f"/apis/{child['apiVersion']}"
    metadata = child["metadata"]
    return f"{group}/namespaces/{metadata['namespace']}/{_PLURALS[child['kind']]}/{metadata['name']}"


def _refuse_foreign(live: Json, child: Json, owner: ModelDeployment) -> None:
    """Ours by owner, or labelled ours and without an owner: then it is adopted."""
    controllers = [reference["uid"] for reference in live["metadata"].get("ownerReferences", []) if reference.get("controller")]
    if owner.uid in controllers:
        return
    if not controllers and live["metadata"].get("labels", {}).get(LABEL) == owner.name:
        return
    what = f"A {child['kind']} named {owner.name} exists in this namespace and is not ours"
    raise Rejected("NameConflict", f"{what}; remove it or give this ModelDeployment another name.")


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text).get("message", ""))
    except (ValueError, AttributeError):
        return text[:500].decode(errors="replace")
