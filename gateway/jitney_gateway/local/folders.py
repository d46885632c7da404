"""Folders of this machine that a person names."""

from __future__ import annotations

from pathlib import Path

from jitney_gateway.errors import GatewayError


def found(field: str, reference: str) -> Path:
    """The folder that `reference` means, /path or file:///path. GatewayError (400) with the field's name where it is none, or nobody may
    look."""
    folder = Path(reference.removeprefix("file://"))
    try:
        if folder.is_dir():
            return folder.resolve()
        words = f"there is no folder {folder}"
    # A name that is too long, a folder before it that is closed to us, a ring of links.
    except (OSError, ValueError, RuntimeError) as error:
        words = f"{folder} cannot be looked at: {getattr(error, 'strerror', None) or error}"
    raise GatewayError(400, f"{field}: {words}", code="model_not_found")
