"""Who changed what: a line of JSON in the log for each launch and end of a model, each custom model, and each change of replicas."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from typing import Any

from jitney_gateway.errors import GatewayError
from jitney_gateway.server.visit import current

logger = logging.getLogger("jitney.audit")
# A log that is kept short still says who did what.
logger.setLevel(logging.INFO)


@contextlib.contextmanager
def line(event: str, model: str, **more: Any) -> Iterator[dict[str, Any]]:
    """Around the work, and written when that is over, however it ended. What is put into it stands in the line."""
    visit = current.get()
    told: dict[str, Any] = {"event": event, "model": model, "key": visit.key_id or None, "address": visit.address, **more}
    try:
        yield told
        told |= {"outcome": "done"}
    except GatewayError as error:
        told |= {"outcome": "refused", "status": error.status, "reason": error.detail}
        raise
    except Exception:
        told |= {"outcome": "failed"}
        raise
    except BaseException:
        # The caller went away, or the front door ends.
        told |= {"outcome": "cancelled"}
        raise
    finally:
        logger.info("%s", json.dumps(told))
