"""Why a runtime's process ended, from its exit code, its last words and its time. Pure; the texts are stable across restarts."""

from __future__ import annotations

import itertools
import re
from datetime import datetime

from jitney_operator.api import Json
from jitney_operator.containers import cannot_be_made, never_ran
from jitney_operator.failure import ADVICE, Failure
from jitney_operator.observed import Pod

EXIT_CODES = {
    1: "CrashLoop",
    2: "CrashLoop",
    10: "ModelNotFound",
    11: "Unauthorized",
    12: "HubUnreachable",
    13: "DiskFull",
    14: "OutOfMemory",
    15: "GPUOutOfMemory",
    16: "DeviceNotFound",
    17: "NotSupportedYet",
    18: "CacheNotWritable",
    19: "ModelDamaged",
}
# Told to stop (the runtime then ends with 0), or killed.
STOPPED = {0, 137, 143}
LOG_PREFIX = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+ (?:[A-Z]+ [\w.]+: )?"


def of_pod(pod: Pod) -> Failure | None:
    """From the newest exit. While the container runs again the old cause stays, until it is ready: a reason must not flicker."""
    status = pod.container
    ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")
    if not ended or (status.get("started") and "running" in status.get("state", {})):
        # It has passed its startup probe since: its old end says nothing of why it is not ready now.
        return None
    if words := never_ran(pod):
        return cannot_be_made(pod, words)
    code = int(ended.get("exitCode", 1))
    reason = _reason(code, ended.get("reason", ""), _lasted_as_long_as_a_start(pod, ended))
    return Failure(reason, _sentence(reason, code, ended, pod), pod.name, code, contained=True)


def _reason(code: int, word: str, timed_out: bool) -> str:
    if word == "OOMKilled":
        return "OutOfMemory"
    if code in STOPPED:
        return "StartupTimeout" if timed_out else "CrashLoop"
    return EXIT_CODES.get(code, "CrashLoop")


def _lasted_as_long_as_a_start(pod: Pod, ended: Json) -> bool:
    """Stopped when the startup probe's patience ended. Earlier or later somebody else did it: a liveness probe, the node, a person."""
    try:
        lived = (datetime.fromisoformat(ended["finishedAt"]) - datetime.fromisoformat(ended["startedAt"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        # Kubernetes leaves them out, or null, where nobody saw the process begin.
        return False
    probe = pod.spec_of_container.get("startupProbe", {})
    patience = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
    grace = pod.body.get("spec", {}).get("terminationGracePeriodSeconds", 30)
    return bool(patience <= lived + 5 and lived <= patience + grace + 30)


def _sentence(reason: str, code: int, ended: Json, pod: Pod) -> str:
    if reason == "StartupTimeout":
        return f"The model was not ready in time and was stopped. {ADVICE[reason]}"
    lines = ended.get("message", "").strip().splitlines()
    # A last line of the log begins with its time, which would make each repetition look like something new.
    words = re.sub(LOG_PREFIX, "", lines[-1]).removeprefix(f"{reason}: ")[:1000] if lines else f"The runtime ended with exit code {code}."
    if code == 0 and lines:
        words = f"The runtime ended with exit code 0, of itself or because it was asked to. Its last words: {words}"
    elif code in STOPPED:
        words = f"The runtime was stopped or killed from outside (exit code {code})."
    if ended.get("reason") == "OOMKilled":
        words = "The pod used more memory than its limit and was killed."
    return f"{words} {_figures(reason, pod)}{ADVICE.get(reason, '')}".strip()


def _figures(reason: str, pod: Pod) -> str:
    """What the pod was told, and half of it: a first thing to try."""
    if reason not in ("OutOfMemory", "GPUOutOfMemory"):
        return ""
    # Both spellings: --flag 4 and --flag=4.
    args = [part for arg in pod.spec_of_container.get("args", []) for part in arg.split("=", 1)]
    told = dict(itertools.pairwise(args))
    ways = [
        f"{name} {max(least, int(told[flag]) // 2)} (now {told[flag]})"
        for flag, name, least in (("--max-num-seqs", "maxNumSeqs", 1), ("--max-model-len", "maxModelLen", 16))
        if told.get(flag, "").isdigit() and int(told[flag]) > least
    ]
    return f"Try {' or '.join(ways)}. " if ways else ""
