"""Custom models in one ConfigMap of the front door's namespace: every front door has the same, and none keeps them itself.

Each model is one key, its JSON the value, so that a person can keep them in git. The operator knows nothing of them: a launch by such a
name becomes a ModelDeployment that says where the weights are.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Mapping

from jitney_gateway.errors import GatewayError
from jitney_gateway.family import Family, taken, unknown
from jitney_gateway.kubernetes.cluster import AGENT, Cluster
from jitney_gateway.model import Json

logger = logging.getLogger(__name__)

NAME = "jitney-registrations"
# The server takes 1 MiB, with the object's own names in it.
MOST_BYTES = 900_000
ATTEMPTS = 20
LABELS = {"app.kubernetes.io/name": "jitney", "app.kubernetes.io/managed-by": AGENT}

# From what is there to what is to change: texts by name, None where one is to go.
Change = Callable[[Mapping[str, str]], dict[str, str | None]]


class ConfigMapRegistry:
    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"

    async def families(self) -> list[Family]:
        """One that a person broke by hand is left out, and the log says why."""
        found = []
        for name, text in _data(await self._read()).items():
            try:
                found.append(_family(name, text))
            except GatewayError as error:
                logger.warning("%s", error.detail)
        return found

    async def find(self, name: str) -> Family | None:
        text = _data(await self._read()).get(name)
        return None if text is None else _family(name, text)

    async def add(self, family: Family, persist: bool) -> None:
        """It persists in any case: the front door keeps nothing itself. Not refused without `persist`, which is what `register` sends where
        nobody says it."""
        text = json.dumps(family.document, indent=1, ensure_ascii=False)

        def added(there: Mapping[str, str]) -> dict[str, str | None]:
            if family.name in there:
                raise taken(family.name)
            whole = sum(len(key) + len(value.encode()) for key, value in {**there, family.name: text}.items())
            if whole > MOST_BYTES:
                words = f"the ConfigMap {NAME} holds at most {MOST_BYTES} bytes and would have {whole}: unregister what is not used"
                raise GatewayError(400, words, code="too_large")
            return {family.name: text}

        await self._change(added)

    async def remove(self, name: str) -> None:
        def removed(there: Mapping[str, str]) -> dict[str, str | None]:
            if name not in there:
                raise unknown(name)
            return {name: None}

        await self._change(removed)

    async def _read(self) -> Json | None:
        status, answer = await self._cluster.request("GET", f"{self._path}/{NAME}")
        if status == 404:
            return None
        return _checked(status, answer)

    async def _change(self, change: Change) -> None:
        """Written only over what was read: what another front door writes at the same moment is seen, and not lost."""
        for attempt in range(ATTEMPTS):
            body = await self._read()
            data = change(_data(body))
            if body is None:
                made: Json = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "labels": LABELS}, "data": data}
                status, answer = await self._cluster.request("POST", f"{self._path}?fieldManager={AGENT}", made)
            else:
                changed = {"metadata": {"resourceVersion": body["metadata"]["resourceVersion"]}, "data": data}
                path = f"{self._path}/{NAME}?fieldManager={AGENT}"
                status, answer = await self._cluster.request("PATCH", path, changed, "application/merge-patch+json")
            # Another was faster, or took the ConfigMap away.
            if status in (404, 409):
                await asyncio.sleep(random.uniform(0, 0.05 * (attempt + 1)))
                continue
            _checked(status, answer)
            return
        raise GatewayError(503, f"the ConfigMap {NAME} is changed by others all the time", code="busy", retry_after=1)


def _data(body: Json | None) -> dict[str, str]:
    return (body or {}).get("data") or {}


def _family(name: str, text: str) -> Family:
    """GatewayError (400) where it is none, with its place."""
    try:
        family = Family.read(text)
    except GatewayError as error:
        raise GatewayError(400, f"{name} in the ConfigMap {NAME} is no family: {error.detail}", code="invalid_value") from error
    if family.name != name:
        words = f"{name} in the ConfigMap {NAME} calls itself {family.name}: the key is its model_name"
        raise GatewayError(400, words, code="invalid_value")
    return family


def _checked(status: int, answer: Json) -> Json:
    if status >= 400:
        raise GatewayError(503, f"custom models are not reached: {answer.get('message', '')}", code="refused")
    return answer
