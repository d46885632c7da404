"""Which front door is asked: the one that was named, else the one of this machine, else the one in the cluster of the kubeconfig."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

import httpx

from jitney_gateway.cli.client import Client, Failed, is_loopback
from jitney_gateway.cli.output import say

HERE = "http://127.0.0.1:9997"
# In place of an address.
KUBECONFIG = "kubeconfig"


class Way(Enum):
    """How it was come by."""

    NAMED = "named"
    HERE = "here"
    CLUSTER = "cluster"


@dataclass(frozen=True)
class Place:
    """`said` is a sentence for a person."""

    url: str
    way: Way
    said: str

    @property
    def on_this_machine(self) -> bool:
        return self.way is not Way.CLUSTER and is_loopback(self.url)


def connect(given: str | None, key: str | None) -> Client:
    """Failed where there is no front door to be found. What was not named is told on standard error."""
    place = find(given)
    if place.way is not Way.NAMED:
        say(place.said)
    return Client(place.url, key)


def find(given: str | None) -> Place:
    """Failed with every place that was tried."""
    if given and given != KUBECONFIG:
        return Place(_checked(given), Way.NAMED, f"{given}, as you named it")
    if not given and answers(HERE):
        return Place(HERE, Way.HERE, f"Asking {HERE}, the front door on this machine.")
    # It takes a while to import.
    from jitney_gateway.cli.cluster import Cluster

    try:
        pod = (cluster := Cluster()).gateway()
        url = cluster.forward(pod)
    except Failed as error:
        if given:
            raise
        raise Failed(
            f"no front door was found. {HERE} does not answer, and {error}. Start one with `jitney local`, or name one with -e"
        ) from error
    return Place(url, Way.CLUSTER, f"Asking {pod.namespace}/{pod.name} in the cluster {cluster.name}, through your kubeconfig.")


def answers(url: str) -> bool:
    """Whether a front door is there, with or without a key for us."""
    try:
        return httpx.get(f"{url}/v1/cluster/auth", timeout=2, trust_env=False).status_code in (200, 401, 403)
    except httpx.HTTPError:
        return False


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound:
        raise Failed(f"--endpoint must be an address such as {HERE}, or {KUBECONFIG}, not {url!r}")
    return url
