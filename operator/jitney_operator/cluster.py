"""The only file that speaks to Kubernetes (the watches are kopf's, in `handlers`).

What the operator's role must allow, cluster-wide or per watched namespace:
  serving.jitney.dev  modeldeployments             list watch
  serving.jitney.dev  modeldeployments/status      patch
  serving.jitney.dev  modeldeployments/finalizers  update  (owner references with blockOwnerDeletion)
  apps                deployments                  get list watch create patch
  core                services                     get list watch create patch
  core                persistentvolumeclaims       get list watch create patch
  core                pods                         list watch
  core                events                       list    (why a pod is not made)
  autoscaling         horizontalpodautoscalers     list    (who scales a resource that has spec.autoscaling)
  events.k8s.io       events                       create
and in its own namespace:
  coordination.k8s.io leases                       get create update
"""

from __future__ import annotations

import json
import os
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
import yaml
from kubernetes.aio import client, config

from jitney_operator.api import API_VERSION, KIND, LABEL, MANAGER, PLURAL, Json
from jitney_operator.errors import ClusterError, SettingsError
from jitney_operator.observed import Listing

# Where the objects that are watched live, by kind: the group's path and the plural.
WATCHED = {
    KIND: (f"/apis/{API_VERSION}", PLURAL),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "Service": ("/api/v1", "services"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "Pod": ("/api/v1", "pods"),
}
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_PAGE = 500
_TIMEOUT = 30


class Cluster:
    """Plain dicts in and out; every failure is a ClusterError."""

    def __init__(self, api: Any) -> None:
        self._api = api

    @classmethod
    async def connect(cls) -> Self:
        """From KUBECONFIG when it is set, else with the pod's service account; SettingsError when neither can be used."""
        file = os.environ.get("KUBECONFIG")
        try:
            if file:
                await config.load_kube_config()
            else:
                config.load_incluster_config()
        except (config.ConfigException, yaml.YAMLError, OSError, TypeError) as error:
            said = " ".join(str(error).split())
            if file:
                raise SettingsError(f"KUBECONFIG {file} cannot be used: {said}") from error
            raise SettingsError(f"this is no pod with a service account ({said}): set KUBECONFIG to the path of a kubeconfig") from error
        return cls(client.ApiClient())

    async def close(self) -> None:
        await self._api.close()

    async def get(self, path: str) -> Json | None:
        """None when there is no such object."""
        try:
            return await self.request("GET", path)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    async def is_defined(self) -> bool:
        """Whether the server knows ModelDeployments: their definition may be deleted, and made again later."""
        known = await self.get(f"/apis/{API_VERSION}") or {}
        return any(resource["name"] == PLURAL for resource in known.get("resources") or ())

    async def read(self, item: Json) -> Json | None:
        """The whole of a watched object, of which kind, namespace and name are known. A listing of one: the role may list more than get."""
        group, plural = WATCHED[item["kind"]]
        query = urlencode({"fieldSelector": f"metadata.name={item['metadata']['name']}"})
        found = await self.request("GET", f"{group}/namespaces/{item['metadata']['namespace']}/{plural}?{query}")
        return next(({**body, "kind": item["kind"]} for body in found["items"] or ()), None)

    async def warnings(self, namespace: str) -> tuple[Json, ...]:
        """The Events (core/v1) of this namespace that warn of a pod."""
        query = {"fieldSelector": "involvedObject.kind=Pod,type=Warning"}
        return (await self._pages(f"/api/v1/namespaces/{namespace}/events", query, "application/json"))[0]

    async def autoscalers(self, namespaces: tuple[str, ...]) -> tuple[Json, ...]:
        """All HorizontalPodAutoscalers where ModelDeployments are looked after."""
        found: tuple[Json, ...] = ()
        for place in [f"/namespaces/{namespace}" for namespace in namespaces] or [""]:
            found += (await self._pages(f"/apis/autoscaling/v2{place}/horizontalpodautoscalers", {}, "application/json"))[0]
        return found

    async def list(self, kind: str, namespaces: tuple[str, ...], *, metadata_only: bool = False) -> list[Listing]:
        """Everything of a watched kind that concerns us, page by page: one listing per namespace, one in all when none is named."""
        return [await self._list_in(kind, namespace, metadata_only) for namespace in namespaces or (None,)]

    async def _list_in(self, kind: str, namespace: str | None, metadata_only: bool) -> Listing:
        group, plural = WATCHED[kind]
        place = f"/namespaces/{namespace}" if namespace else ""
        query = {} if kind == KIND else {"labelSelector": LABEL}
        accept = _METADATA_ONLY if metadata_only else "application/json"
        items, version = await self._pages(f"{group}{place}/{plural}", query, accept)
        # Listings leave out the kind of their items.
        return Listing(kind, namespace, version, tuple({**item, "kind": kind} for item in items))

    async def _pages(self, path: str, query: dict[str, str], accept: str) -> tuple[tuple[Json, ...], int]:
        """All items of a listing, and the moment it is of."""
        items: tuple[Json, ...] = ()
        asked: dict[str, str | int] = {**query, "limit": _PAGE}
        while True:
            page = await self.request("GET", f"{path}?{urlencode(asked)}", accept=accept)
            items += tuple(page["items"] or ())
            if not page["metadata"].get("continue"):
                return items, int(page["metadata"]["resourceVersion"])
            asked["continue"] = page["metadata"]["continue"]

    async def request(
        self, method: str, path: str, body: Json | None = None, *, content: str = "application/json", accept: str = "application/json"
    ) -> Json:
        """One request; the answer's body."""
        url = self._api.configuration.host + path
        headers = {"Accept": accept, "Content-Type": content, "User-Agent": MANAGER} | await self._authorization()
        try:
            response = await self._api.rest_client.request(method, url, headers=headers, body=body, _request_timeout=_TIMEOUT)
            text = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ClusterError(0, f"the API server does not answer: {error}") from error
        if response.status >= 400:
            raise ClusterError(response.status, _message(text), _seconds(response.headers.get("Retry-After")))
        try:
            answer: Json = json.loads(text)
        except ValueError as error:
            raise ClusterError(0, f"something else than the API server answers: {error}") from error
        return answer

    async def _authorization(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], "", "", None)
        return headers


def path(item: Json) -> str:
    """Of an object of a kind that is watched."""
    group, plural = WATCHED[item["kind"]]
    return f"{group}/namespaces/{item['metadata']['namespace']}/{plural}/{item['metadata']['name']}"


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text).get("message", ""))
    except (ValueError, AttributeError):
        return text[:500].decode(errors="replace")


def _seconds(retry_after: str | None) -> float:
    """Retry-After may also be a date (RFC 9110, 10.2.3), which Kubernetes never sends: then our own backoff is good enough."""
    try:
        return float(retry_after or 0)
    except ValueError:
        return 0.0
