"""The only file that speaks to Kubernetes.

What the front door's role must allow in every namespace that it serves:
  serving.jitney.dev  modeldeployments        list watch, and patch  (to have one woken that scales with its load)
  serving.jitney.dev  modeldeployments/scale  get patch  (to wake a model, and for its replicas)
  discovery.k8s.io    endpointslices          list watch
In its own namespace only, also:
  serving.jitney.dev  modeldeployments        create delete
  ""                  pods                    list       (to find the one whose log is asked for)
  ""                  pods/log                get
  ""                  configmaps              create, and get patch of jitney-registrations
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config

from jitney_gateway.errors import GatewayError
from jitney_gateway.model import Json

TIMEOUT = 30
# Of a listing's items in one answer.
PAGE = 500
# Seconds without a word after which a watch is taken for dead: the server sends a bookmark every minute.
SILENCE = 70.0
AGENT = "jitney-gateway"


class Cluster:
    """Plain dicts in and out. Whatever keeps the API server from answering is a GatewayError (503)."""

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

    async def request(self, method: str, path: str, body: Json | None = None, content: str = "application/json") -> tuple[int, Json]:
        """Status and body."""
        try:
            response = await self._send(method, path, body, content, TIMEOUT)
            return response.status, json.loads(await response.read())
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise _silent(error) from error

    async def list(self, path: str, query: dict[str, str] | None = None) -> tuple[list[Json], str]:
        """Everything there, and the moment it is of; GatewayError where the server refuses."""
        items: list[Json] = []
        asked: dict[str, str | int] = {**(query or {}), "limit": PAGE}
        while True:
            status, page = await self.request("GET", f"{path}?{urlencode(asked)}")
            if status >= 400:
                raise GatewayError(503, str(page.get("message", "")), code="refused")
            items += page["items"] or ()
            if not page["metadata"].get("continue"):
                return items, page["metadata"]["resourceVersion"]
            asked["continue"] = page["metadata"]["continue"]

    async def watch(self, path: str, query: dict[str, str], seconds: int) -> AsyncIterator[Json]:
        """Events, until the server ends it after `seconds`. GatewayError where it breaks, is refused, or says nothing for too long."""
        asked = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=SILENCE)
        response = None
        try:
            response = (await self._send("GET", f"{path}?{urlencode(asked)}", None, "application/json", timeout)).response
            if response.status >= 400:
                raise GatewayError(503, (await response.read())[:500].decode(errors="replace"), code="refused")
            rest = b""
            # Not by aiohttp's readline, which has a longest line.
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)
            if rest.strip():
                raise GatewayError(503, "a watch ended in the middle of a line")
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise _silent(error) from error
        finally:
            if response is not None:
                response.close()

    async def text(self, path: str) -> AsyncIterator[bytes]:
        """What is there, as it comes; GatewayError where the server refuses."""
        try:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT)
            response = (await self._send("GET", path, None, "application/json", timeout)).response
            if response.status >= 400:
                raise GatewayError(503, str(json.loads(await response.read()).get("message", "")), code="refused")
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise _silent(error) from error
        return _pieces(response)

    async def _send(self, method: str, path: str, body: Json | None, content: str, timeout: float | aiohttp.ClientTimeout) -> Any:
        headers: dict[str, str] = {"Accept": "application/json", "Content-Type": content, "User-Agent": AGENT}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], "", "", None)
        url = self._api.configuration.host + path
        return await self._api.rest_client.request(method, url, headers=headers, body=body, _request_timeout=timeout)


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for piece in response.content.iter_any():
            yield piece
    finally:
        response.close()


def _silent(error: Exception) -> GatewayError:
    return GatewayError(503, f"the Kubernetes API does not answer: {error or type(error).__name__}", retry_after=5)
