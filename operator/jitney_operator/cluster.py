"""The only file that speaks to Kubernetes, apart from the watches that are kopf's (`handlers`).

What the operator's role must allow, cluster-wide or per watched namespace:
  serving.jitney.dev  modeldeployments             list watch
  serving.jitney.dev  modeldeployments/status      patch
  serving.jitney.dev  modeldeployments/finalizers  update  (owner references with blockOwnerDeletion)
  apps                deployments                  get list watch create patch
  core                services                     get list watch create patch
  core                persistentvolumeclaims       get list watch create patch
  core                pods                         list watch
  core                events                       list    (why a pod is not made)
  autoscaling         horizontalpodautoscalers     list watch  (who scales a resource that has spec.autoscaling)
  keda.sh             scaledobjects                list watch  (the same, where KEDA is)
  events.k8s.io       events                       create
and in its own namespace:
  coordination.k8s.io leases                       get create update
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
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
        settings = client.Configuration.get_default_copy()
        # Without a limit, which its default of 100 is not: each watch holds a connection, and each watched namespace has some.
        settings.connection_pool_maxsize = 0
        return cls(client.ApiClient(settings))

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
        return await self.defines(f"/apis/{API_VERSION}", PLURAL)

    async def defines(self, group: str, plural: str) -> bool:
        """Whether the server knows this kind, by the group's path and the plural."""
        known = await self.get(group) or {}
        return any(resource["name"] == plural for resource in known.get("resources") or ())

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

    async def everything(self, path: str) -> tuple[tuple[Json, ...], int]:
        """All objects below this path, and the moment it is of."""
        return await self._pages(path, {}, "application/json")

    @asynccontextmanager
    async def watch(self, path: str, version: int, seconds: int) -> AsyncIterator[AsyncIterator[Json]]:
        """Events from `version` on, until the server ends it after `seconds`. Entered once the server has taken it. ClusterError where it
        is refused, breaks, or does not end."""
        asked = {"watch": "true", "resourceVersion": str(version), "timeoutSeconds": str(seconds)}
        # Silence is no sign of death: a server that has seen no event of the kind sends no bookmark either.
        response = await self._send("GET", f"{path}?{urlencode(asked)}", timeout=seconds + 10)
        try:
            async with aclosing(_events(response.response)) as events:
                yield events
        finally:
            response.response.close()

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
        response = await self._send(method, path, body, content=content, accept=accept)
        try:
            answer: Json = json.loads(await response.read())
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise _no_answer(error) from error
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        content: str = "application/json",
        accept: str = "application/json",
        timeout: float = _TIMEOUT,
    ) -> Any:
        """The server's answer, of which the body is not read yet."""
        headers: dict[str, str] = {"Accept": accept, "Content-Type": content, "User-Agent": MANAGER}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], "", "", None)
        url = self._api.configuration.host + path
        try:
            response = await self._api.rest_client.request(method, url, headers=headers, body=body, _request_timeout=timeout)
            if response.status >= 400:
                raise ClusterError(response.status, _message(await response.read()), _seconds(response.headers.get("Retry-After")))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _no_answer(error) from error
        return response


def path(item: Json) -> str:
    """Of an object of a kind that is watched."""
    group, plural = WATCHED[item["kind"]]
    return f"{group}/namespaces/{item['metadata']['namespace']}/{plural}/{item['metadata']['name']}"


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[Json]:
    rest = b""
    try:
        # Not by aiohttp's readline, which has a longest line.
        async for piece in response.content.iter_any():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.strip():
                    yield json.loads(line)
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        raise _no_answer(error) from error
    if rest.strip():
        raise ClusterError(0, "a watch ended in the middle of a line")


def _no_answer(error: Exception) -> ClusterError:
    what = "something else than the API server answers" if isinstance(error, ValueError) else "the API server does not answer"
    return ClusterError(0, f"{what}: {error or type(error).__name__}")


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
