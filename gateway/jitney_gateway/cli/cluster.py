"""The cluster that the kubeconfig points to: where its front door is, a way to it, and what the doctor asks. The only file here that knows
Kubernetes."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.stream import portforward
from urllib3.exceptions import HTTPError

from jitney_gateway.cli.client import Failed

# The label of the front door's pods.
GATEWAY = "app.kubernetes.io/name=jitney-gateway"
PORT = 9997
# The operator's, in its own namespace.
LEASE = "jitney-operator"
DEFINITION = "modeldeployments.serving.jitney.dev"
SECONDS = 10


@dataclass(frozen=True)
class Pod:
    """One of the front door's pods. `ready` also says that it is not on its way out."""

    namespace: str
    name: str
    port: int
    ready: bool


class Cluster:
    """Failed where there is no kubeconfig."""

    def __init__(self) -> None:
        self._configuration = client.Configuration()
        try:
            config.load_kube_config(client_configuration=self._configuration)
            context = config.list_kube_config_contexts()[1]
        except (config.ConfigException, OSError, yaml.YAMLError) as error:
            raise Failed(f"there is no usable kubeconfig ({_line(error)})") from error
        self._configuration.retries = False
        # They speak of connections that the sentences here speak of.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self.name = str(context["context"]["cluster"])
        self.namespace = str(context["context"].get("namespace") or "default")
        self._api = client.ApiClient(self._configuration)

    def gateway(self) -> Pod:
        """A ready pod of the front door, of the context's own namespace where it has one; Failed where there is none, or a choice."""
        pods = self.gateways()
        if not pods:
            raise Failed(f"in the cluster {self.name} no pod is labelled {GATEWAY}")
        ready = [pod for pod in pods if pod.ready]
        if not ready:
            raise Failed(f"in the cluster {self.name} the front door's pod {pods[0].namespace}/{pods[0].name} is not ready")
        namespaces = sorted({pod.namespace for pod in ready})
        if len(namespaces) > 1 and self.namespace not in namespaces:
            raise Failed(
                f"the cluster {self.name} has a front door in each of {', '.join(namespaces)}: choose with "
                "`kubectl config set-context --current --namespace=...`"
            )
        return next((pod for pod in ready if pod.namespace == self.namespace), ready[0])

    def gateways(self) -> list[Pod]:
        """Of every namespace, or of the context's where that is all one may see."""
        core = client.CoreV1Api(self._api)
        try:
            found = _asked(lambda: core.list_pod_for_all_namespaces(label_selector=GATEWAY, _request_timeout=SECONDS))
        except Forbidden:
            found = _asked(lambda: core.list_namespaced_pod(self.namespace, label_selector=GATEWAY, _request_timeout=SECONDS))
        return [_pod(item) for item in found.items]

    def forward(self, pod: Pod) -> str:
        """The address of a listener on this machine; each connection to it leads to the pod for as long as this process lives."""
        server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, args=(server, pod), daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    def _accept(self, server: socket.socket, pod: Pod) -> None:
        while True:
            caller, _ = server.accept()
            threading.Thread(target=self._lead, args=(caller, pod), daemon=True).start()

    def _lead(self, caller: socket.socket, pod: Pod) -> None:
        """A websocket of its own: it carries one connection."""
        with caller, contextlib.suppress(OSError):
            # A client of its own too: a forward changes it while it begins.
            core = client.CoreV1Api(client.ApiClient(self._configuration))
            try:
                forwarded = portforward(core.connect_get_namespaced_pod_portforward, pod.name, pod.namespace, ports=str(pod.port))
            except client.ApiException as error:
                caller.sendall(_refusal(f"{pod.namespace}/{pod.name} cannot be reached through the API server: {_words(error)}"))
                return
            there = forwarded.socket(pod.port)
            there.setblocking(True)
            back = threading.Thread(target=_pump, args=(there, caller), daemon=True)
            back.start()
            _pump(caller, there)
            there.close()
            back.join()

    # What the doctor asks

    def version(self) -> str:
        return str(_asked(lambda: client.VersionApi(self._api).get_code(_request_timeout=SECONDS)).git_version)

    def defined(self) -> bool:
        """Whether the resource's definition is there and served."""
        api = client.ApiextensionsV1Api(self._api)
        try:
            found = _asked(lambda: api.read_custom_resource_definition(DEFINITION, _request_timeout=SECONDS))
        except Missing:
            return False
        return any(entry.type == "Established" and entry.status == "True" for entry in found.status.conditions or ())

    def operator(self) -> tuple[str, float] | None:
        """Who holds the operator's lease and how many seconds ago it said so; None where there is no lease that one may see."""
        api = client.CoordinationV1Api(self._api)
        chosen = f"metadata.name={LEASE}"
        try:
            found = _asked(lambda: api.list_lease_for_all_namespaces(field_selector=chosen, _request_timeout=SECONDS))
        except Forbidden:
            found = _asked(lambda: api.list_namespaced_lease(self.namespace, field_selector=chosen, _request_timeout=SECONDS))
        held = [item for item in found.items if item.spec.holder_identity and item.spec.renew_time]
        if not held:
            return None
        newest = max(held, key=lambda item: item.spec.renew_time)
        age = (datetime.now(UTC) - newest.spec.renew_time).total_seconds()
        return f"{newest.metadata.namespace}/{newest.spec.holder_identity}", age


class Forbidden(Failed):
    """One may not ask this."""


class Missing(Failed):
    """It is not there."""


def _asked(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except client.ApiException as error:
        kind = {403: Forbidden, 404: Missing}.get(error.status, Failed)
        raise kind(f"the Kubernetes API refuses: {_words(error)}") from error
    except (HTTPError, OSError) as error:
        raise Failed(f"the Kubernetes API of your kubeconfig does not answer ({error})") from error


def _line(error: object) -> str:
    return " ".join(str(error).split())


def _words(error: Any) -> str:
    """Of an ApiException, which carries a Status as text, or only a reason."""
    with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError):
        return str(json.loads(error.body)["message"])
    return _line(error.reason or error)


def _pod(item: Any) -> Pod:
    ports = [port for container in item.spec.containers for port in container.ports or ()]
    named = next((port for port in ports if port.name == "http"), None) or next(iter(ports), None)
    conditions = (item.status and item.status.conditions) or ()
    ready = item.metadata.deletion_timestamp is None and any(entry.type == "Ready" and entry.status == "True" for entry in conditions)
    return Pod(item.metadata.namespace, item.metadata.name, named.container_port if named else PORT, ready)


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Until either end closes."""
    with contextlib.suppress(OSError):
        for data in _pieces(source):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _pieces(source: socket.socket) -> Iterator[bytes]:
    while data := source.recv(64 * 1024):
        yield data


def _refusal(sentence: str) -> bytes:
    """As an HTTP answer, so that the sentence reaches whoever asked."""
    body = json.dumps({"detail": sentence}).encode()
    head = f"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
