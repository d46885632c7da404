"""A Backend on the Kubernetes API. It keeps nothing: every answer is read from the cluster."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config

from jitney_gateway.errors import GatewayError, unknown_model
from jitney_gateway.kubernetes import manifest
from jitney_gateway.launch import Launch
from jitney_gateway.model import ERROR, READY, Json, Model

PERIOD = 0.5
TIMEOUT = 30
# A cause that may pass by itself is waited for so long before the caller is told of it.
PATIENCE = 60.0


class KubernetesBackend:
    """Launches into one namespace; lists and serves what is there, whoever made it."""

    def __init__(self, api: Any, namespace: str) -> None:
        self._api, self._namespace = api, namespace
        self._path = f"/apis/{manifest.GROUP}/{manifest.VERSION}/namespaces/{namespace}/{manifest.PLURAL}"

    @classmethod
    async def connect(cls, namespace: str) -> Self:
        """From KUBECONFIG when it is set, else with the pod's service account."""
        if os.environ.get("KUBECONFIG"):
            await config.load_kube_config()
        else:
            config.load_incluster_config()
        return cls(client.ApiClient(), namespace)

    async def close(self) -> None:
        await self._api.close()

    async def launch(self, launch: Launch) -> str:
        uid = launch.uid or launch.name.rpartition("/")[2]
        body = manifest.resource(launch, uid, self._namespace)
        query = urlencode({"fieldValidation": "Strict", "fieldManager": "jitney-gateway"})
        status, answer = await self._request("POST", f"{self._path}?{query}", body)
        if status == 409:
            raise GatewayError(400, f"Model is already in the model list, uid: {uid}", code="model_exists")
        if status >= 400:
            raise manifest.refused(status, answer.get("message", ""))
        return uid

    async def ready(self, uid: str) -> None:
        failing_since: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            body = await self._find(uid)
            if body is None:
                raise GatewayError(499, f"the launch of {uid} was cancelled", code="cancelled")
            model = manifest.model_of(body)
            if model.status == READY:
                return
            failing = bool((body.get("status") or {}).get("lastFailure"))
            failing_since = (failing_since or loop.time()) if failing else None
            if model.status == ERROR or (failing_since is not None and loop.time() - failing_since > PATIENCE):
                raise GatewayError(500, model.message, code="launch_failed")
            await asyncio.sleep(PERIOD)

    async def models(self) -> list[Model]:
        status, answer = await self._request("GET", self._path)
        if status >= 400:
            raise manifest.refused(status, answer.get("message", ""))
        return sorted((manifest.model_of(body) for body in answer["items"]), key=lambda model: model.uid)

    async def find(self, uid: str) -> Model | None:
        body = await self._find(uid)
        return manifest.model_of(body) if body else None

    async def _find(self, uid: str) -> Json | None:
        """By the name that launches give; what kubectl made may have any."""
        status, body = await self._request("GET", f"{self._path}/{manifest.name_of(uid)}")
        if status == 200 and body["spec"].get("servedModelName", body["metadata"]["name"]) == uid:
            return body
        status, answer = await self._request("GET", self._path)
        if status >= 400:
            raise manifest.refused(status, answer.get("message", ""))
        named = (body for body in answer["items"] if body["spec"].get("servedModelName", body["metadata"]["name"]) == uid)
        return next(named, None)

    async def terminate(self, uid: str) -> None:
        body = await self._find(uid)
        if body is None:
            raise unknown_model(uid, [model.uid for model in await self.models()])
        name, own = body["metadata"]["name"], body["metadata"]["uid"]
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", "preconditions": {"uid": own}}
        status, answer = await self._request("DELETE", f"{self._path}/{name}", options)
        if status >= 400 and status != 404:
            raise manifest.refused(status, answer.get("message", ""))

    async def _request(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        """Status and body; GatewayError (503) where the API server does not answer."""
        headers: dict[str, str] = {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "jitney-gateway"}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], "", "", None)
        try:
            url = self._api.configuration.host + path
            response = await self._api.rest_client.request(method, url, headers=headers, body=body, _request_timeout=TIMEOUT)
            return response.status, json.loads(await response.read())
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise GatewayError(503, f"the Kubernetes API does not answer: {error}", retry_after=5) from error
