"""What the administrator set: the environment, read once at the start."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from jitney_gateway.catalogue import Catalogue
from jitney_gateway.routing.bounds import Bounds

PORT = 9997
LEVELS = ("debug", "info", "warning", "error")


class SettingsError(Exception):
    """A variable is wrong; the sentence names it."""


@dataclass(frozen=True)
class Settings:
    """`namespace` gets what is launched. `namespaces` are those whose models are served, itself among them; None: all."""

    host: str = "0.0.0.0"
    port: int = PORT
    log_level: str = "info"
    namespace: str = "default"
    namespaces: tuple[str, ...] | None = ("default",)
    # Where the operator says beforehand whether a launch fits; empty: it is not asked.
    operator_url: str = ""
    # host:port that leads to every front door beside this one; empty: there is none.
    peers: str = ""
    bounds: Bounds = field(default_factory=Bounds)
    # The administrator's models, as the operator's configuration has them.
    catalogue: Mapping[str, Any] = field(default_factory=dict)
    # Who may call; without it everybody.
    keys_file: Path | None = None
    # Of a request's body, and of all that are not answered yet: each may need three times its length, which the chart's limit of memory has
    # room for. And how long a client may take to send its head, and then its body, and may leave an answer unread.
    body_mebibytes: int = 8
    all_bodies_mebibytes: int = 128
    client_seconds: int = 60
    # After SIGTERM requests are taken for so long, because the removal of the endpoint races the signal.
    linger: int = 5
    # And answers under way may go on for so long; then each is ended with the reason. Without it as long as they take.
    drain: int | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        level = (environ.get("JITNEY_LOG_LEVEL") or "info").lower()
        if level not in LEVELS:
            raise SettingsError(f"JITNEY_LOG_LEVEL must be one of {', '.join(LEVELS)}, not {level}")
        home = environ.get("JITNEY_NAMESPACE") or "default"
        usual = Bounds()
        return cls(
            host=environ.get("JITNEY_HOST") or "0.0.0.0",
            port=_whole(environ, "JITNEY_HTTP_PORT", PORT, 1, 65535),
            log_level=level,
            namespace=home,
            namespaces=_namespaces(environ.get("JITNEY_NAMESPACES") or "", home),
            operator_url=_url(environ, "JITNEY_OPERATOR_URL"),
            peers=_host_port(environ, "JITNEY_PEERS"),
            bounds=Bounds(
                per_replica=_whole(environ, "JITNEY_MAX_REQUESTS_PER_REPLICA", usual.per_replica, 1, 1_000_000),
                in_all=_whole(environ, "JITNEY_MAX_REQUESTS", usual.in_all, 1, 1_000_000),
                held=_whole(environ, "JITNEY_MAX_HELD_REQUESTS", usual.held, 0, 1_000_000),
                hold_seconds=_whole(environ, "JITNEY_HOLD_SECONDS", int(usual.hold_seconds), 0, 86_400),
            ),
            catalogue=_catalogue(environ.get("JITNEY_CONFIG") or ""),
            keys_file=Path(environ["JITNEY_KEYS_FILE"]) if environ.get("JITNEY_KEYS_FILE") else None,
            body_mebibytes=_whole(environ, "JITNEY_MAX_BODY_MEBIBYTES", cls.body_mebibytes, 1, 1024),
            all_bodies_mebibytes=_whole(environ, "JITNEY_MAX_ALL_BODIES_MEBIBYTES", cls.all_bodies_mebibytes, 1, 1_000_000),
            client_seconds=_whole(environ, "JITNEY_CLIENT_SECONDS", cls.client_seconds, 1, 3600),
            linger=_whole(environ, "JITNEY_LINGER_SECONDS", cls.linger, 0, 3600),
            drain=_whole(environ, "JITNEY_DRAIN_SECONDS", 0, 0, 1_000_000) if environ.get("JITNEY_DRAIN_SECONDS") else None,
        )


def _catalogue(path: str) -> Mapping[str, Any]:
    """From the operator's configuration file, of which nothing else is the front door's business."""
    if not path:
        return {}
    try:
        found = yaml.safe_load(Path(path).read_text())
        families: Mapping[str, Any] = (found or {}).get("catalogue") or {}
        Catalogue.read(families)
    except (OSError, AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"JITNEY_CONFIG: the catalogue in {path} cannot be read: {error!r}") from error
    return families


def _namespaces(text: str, home: str) -> tuple[str, ...] | None:
    """`a, b` besides the own one, or `*`."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    return None if "*" in names else tuple(dict.fromkeys([home, *names]))


def _url(environ: Mapping[str, str], name: str) -> str:
    text = environ.get(name) or ""
    if text and not re.fullmatch(r"https?://[^/?#\s]+/?", text):
        raise SettingsError(f"{name} must be a URL without a path, such as http://jitney-operator.jitney-system.svc:8080, not {text}")
    return text


def _host_port(environ: Mapping[str, str], name: str) -> str:
    text = environ.get(name) or ""
    if text and not re.fullmatch(r"[A-Za-z0-9.-]+:[0-9]{1,5}", text):
        raise SettingsError(f"{name} must be host:port, such as jitney-gateway-peers.jitney-system.svc:9997, not {text}")
    return text


def _whole(environ: Mapping[str, str], name: str, usual: int, least: int, most: int) -> int:
    text = environ.get(name) or str(usual)
    # Eight digits: int() refuses very long ones with another error.
    if not text.isascii() or not text.isdigit() or len(text) > 8 or not least <= int(text) <= most:
        raise SettingsError(f"{name} must be a whole number from {least} to {most}, not {text}")
    return int(text)
