"""A Backend on the Kubernetes API. It keeps nothing but what it sees: launches and lists are the cluster's own answers, and where chats go
is known from watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Self
from urllib.parse import urlencode

from jitney_gateway.destination import Destination
from jitney_gateway.errors import LEAVING, GatewayError, unknown_model
from jitney_gateway.failure import Failure
from jitney_gateway.fit import Fit
from jitney_gateway.kubernetes import manifest
from jitney_gateway.kubernetes.cluster import AGENT, Cluster
from jitney_gateway.kubernetes.endpoints import Pod
from jitney_gateway.kubernetes.judge import Judge
from jitney_gateway.kubernetes.models import Names, served
from jitney_gateway.kubernetes.registry import ConfigMapRegistry
from jitney_gateway.kubernetes.scaling import Scaling
from jitney_gateway.kubernetes.sight import Sight
from jitney_gateway.kubernetes.waking import Waking
from jitney_gateway.launch import Launch
from jitney_gateway.machine import Machine
from jitney_gateway.model import ERROR, LOADING, READY, Json, Model, Replica

# A launch that waits looks so often even when nothing is told: a failure lasts without a word.
PERIOD = 5.0


class KubernetesBackend:
    """Launches into one namespace; lists and serves what is there and in the others that it is told of, whoever made it."""

    def __init__(self, cluster: Cluster, home: str, namespaces: tuple[str, ...] | None, operator_url: str = "") -> None:
        """`namespaces` has `home`; None: all. Without `operator_url` the operator is not asked for its verdicts."""
        self._cluster, self._home, self._namespaces, self._judge = cluster, home, namespaces, Judge(operator_url)
        self.sight = Sight(cluster, home, namespaces)
        self._waking, self._scaling = Waking(cluster, self.sight.models), Scaling(cluster, self.sight.models)
        self.registry = ConfigMapRegistry(cluster, home)
        # Why nothing is to be sent here any more, and whether nobody is kept waiting any more.
        self._leaving, self._gone = "", asyncio.Event()

    @classmethod
    async def connect(cls, home: str, namespaces: tuple[str, ...] | None, operator_url: str = "") -> Self:
        """Its watches begin, and go on until it is closed."""
        backend = cls(await Cluster.connect(), home, namespaces, operator_url)
        backend.sight.start()
        return backend

    async def leave(self, seconds: float) -> None:
        """Unready at once; requests are still taken for so long, and then those that are held are let go."""
        self._leaving = "leaving"
        await asyncio.sleep(seconds)
        self._gone.set()
        self.sight.bell.ring()

    async def close(self) -> None:
        await self.sight.stop()
        await self._cluster.close()

    # Launches

    async def fit(self, launch: Launch) -> Fit:
        """The API server tries the resource without keeping it, and the operator says what it would say of what came of that."""
        _, tried = await self._create(launch, dryRun="All")
        return await self._judge.fit(tried)

    async def launch(self, launch: Launch) -> str:
        uid, answer = await self._create(launch)
        self.sight.models.put(answer)
        return uid

    async def _create(self, launch: Launch, **query: str) -> tuple[str, Json]:
        """Its uid and what the server made of it; GatewayError (400) in the server's words where it is refused."""
        asked = urlencode({"fieldValidation": "Strict", "fieldManager": AGENT, **query})
        uids = (launch.wanted_uid(),) if launch.uid else (launch.wanted_uid(), launch.another_uid())
        for uid in uids:
            for apart in (False, True):
                # Each time: who has just taken the resource's name may have taken the uid too.
                if await self._is_served(uid):
                    break
                body = manifest.resource(launch, uid, self._home, apart)
                status, answer = await self._cluster.request("POST", f"{self._path(self._home)}?{asked}", body)
                if status < 400:
                    return uid, answer
                if status != 409:
                    raise manifest.refused(status, answer.get("message", ""))
        raise GatewayError(400, f"Model is already in the model list, uid: {uids[0]}", code="model_exists")

    async def _is_served(self, uid: str) -> bool:
        """By a model here, whoever made it and whatever its resource is called."""
        bodies, _ = await self._cluster.list(self._path(self._home))
        return any(served(body) == uid for body in bodies)

    async def ready(self, uid: str) -> None:
        """It waits for the one that is there when it begins: another launch of the same uid is not its own."""
        failure, loop = Failure(), asyncio.get_running_loop()
        body = _awaited(uid, self.sight.models.names)
        own: str = body["metadata"]["uid"]
        while True:
            model = manifest.model_of(body, uid)
            if model.status == READY:
                return
            lasting = failure.lasting(model.failing, loop.time())
            if model.status == ERROR or lasting:
                # Whoever is told so ends it, and what it ends must not be another that the watch has not told of yet.
                _awaited(uid, (await self._read())[1], own)
                if model.status != ERROR:
                    raise GatewayError(500, lasting, code="launch_failed")
                # What the operator does not accept is the request's fault, as on one machine.
                raise GatewayError(400 if manifest.refused_spec(body) else 500, model.message, code="launch_failed")
            with contextlib.suppress(TimeoutError):
                # Not wait_for, which can swallow the end of whoever waits here.
                async with asyncio.timeout(PERIOD):
                    await self.sight.bell.wait()
            body = _awaited(uid, self.sight.models.names, own)

    async def models(self) -> list[Model]:
        bodies, names = await self._read()
        return sorted((self._model(body, names) for body in bodies), key=lambda model: model.uid)

    async def find(self, uid: str) -> Model | None:
        _, names = await self._read()
        body = names.find(uid)
        return self._model(body, names) if body else None

    async def terminate(self, uid: str) -> None:
        body = await self._body(uid)
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        options |= {"preconditions": {"uid": body["metadata"]["uid"]}}
        status, answer = await self._cluster.request("DELETE", manifest.path(body), options)
        if status >= 400 and status != 404:
            raise manifest.refused(status, answer.get("message", ""))
        self.sight.models.drop(body)

    async def add_replicas(self, uid: str, count: int) -> list[int]:
        before = await self._scaling.change(await self._body(uid), count)
        return list(range(before, before + count))

    async def remove_replica(self, uid: str, replica: str) -> int:
        """They are alike: which pod goes is the cluster's choice. `replica` is one that is listed, or a number below that of all. The last
        one leaves a model at zero, which the next request wakes."""
        body = await self._body(uid)
        there = [pod.name for pod in self.sight.pods(body)]
        numbers = body["spec"].get("replicas", 1)
        if replica not in there and not (replica.isdecimal() and len(replica) < 5 and int(replica) < numbers):
            raise GatewayError(400, f"{uid} has no replica {replica}; there are {', '.join(there) or numbers}", code="replica_not_found")
        return await self._scaling.change(body, -1) - 1

    def machines(self) -> tuple[Machine, ...]:
        """The nodes are the cluster's, and not seen from here."""
        return ()

    async def log(self, uid: str, replica: str | None, lines: int, follow: bool) -> AsyncIterator[bytes]:
        """`replica` is a pod's name, or its number in the order of their names."""
        body = await self._body(uid)
        pods = f"/api/v1/namespaces/{body['metadata']['namespace']}/pods"
        found, _ = await self._cluster.list(pods, {"labelSelector": f"{manifest.LABEL}={body['metadata']['name']}"})
        there = sorted(item["metadata"]["name"] for item in found)
        pod = replica if replica in there else dict(enumerate(there)).get(int(replica or 0)) if (replica or "0").isdecimal() else None
        if pod is None:
            raise GatewayError(
                404, f"{uid} has no replica {replica or 0}; its pods are: {', '.join(there) or 'none'}", code="replica_not_found"
            )
        query = urlencode({"container": "runtime", "tailLines": lines, "follow": str(follow).lower()})
        return self._while_here(await self._cluster.text(f"{pods}/{pod}/log?{query}"))

    async def _while_here(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """They end where this front door does: a log that is followed would keep it for ever."""
        leaving = asyncio.create_task(self._gone.wait())
        coming: asyncio.Future[bytes | None] | None = None
        try:
            while not leaving.done():
                coming = asyncio.ensure_future(anext(pieces, None))
                await asyncio.wait({coming, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done() or (piece := coming.result()) is None:
                    return
                yield piece
        finally:
            leaving.cancel()
            if coming:
                # Which closes the connection to the API server.
                coming.cancel()

    async def _body(self, uid: str) -> Json:
        _, names = await self._read()
        body = names.find(uid)
        if body is None:
            raise unknown_model(uid, names.uids())
        return body

    async def _read(self) -> tuple[list[Json], Names]:
        """As it is now: a person who has just launched at another front door, or with kubectl, expects to see it here."""
        bodies: list[Json] = []
        for namespace in self._namespaces or (None,):
            bodies += (await self._cluster.list(self._path(namespace)))[0]
        return bodies, Names(bodies, self._home)

    def _path(self, namespace: str | None) -> str:
        return f"{manifest.API}/namespaces/{namespace}/{manifest.PLURAL}" if namespace else f"{manifest.API}/{manifest.PLURAL}"

    def _model(self, body: Json, names: Names) -> Model:
        model = manifest.model_of(body, names.uid_of(body))
        pods = tuple(told(pod, model) for pod in self.sight.pods(body))
        return replace(model, replicas=pods, foreign=body["metadata"]["namespace"] != self._home)

    # Where chats go

    def destination(self, uid: str) -> Destination | None:
        if not self.sight.complete:
            raise GatewayError(503, "this front door has just started and does not know its models yet", code="starting", retry_after=1)
        return self.sight.destination(uid)

    def uids(self) -> list[str]:
        return self.sight.models.names.uids()

    async def wake(self, uid: str) -> None:
        body = self.sight.models.names.find(uid)
        if body is not None:
            await self._waking.wake(body)

    async def moved(self) -> None:
        """No question is kept waiting here once it leaves."""
        if not self._gone.is_set():
            await self.sight.bell.wait()
        if self._gone.is_set():
            raise GatewayError(503, "this front door is leaving: send the request again", code=LEAVING, retry_after=1)

    def unready(self) -> str:
        return self._leaving or ("" if self.sight.complete else "starting")


def _awaited(uid: str, names: Names, own: str = "") -> Json:
    """The launch that somebody waits for; `own` is the resource's uid, once it is known. GatewayError (499) where it is not there any more
    or nothing is to come of it."""
    body = names.find(uid)
    if body is None or own not in ("", body["metadata"]["uid"]):
        raise GatewayError(499, f"the launch of {uid} was cancelled", code="cancelled")
    if words := manifest.put_to_rest(body):
        raise GatewayError(499, f"the launch of {uid} was cancelled: {words}", code="cancelled")
    return body


def told(pod: Pod, model: Model) -> Replica:
    """One that does not come is told with the reason, although the cluster may try it again."""
    reason = model.failing or (model.message if model.status == ERROR else "")
    if pod.ready or not reason:
        return Replica(pod.name, pod.address, READY if pod.ready else LOADING)
    return Replica(pod.name, pod.address, ERROR, reason)
