"""What Xinference answers, out of tests/recordings (`make record-xinference`), and how our answers to the same calls differ in shape.

What differs is listed here, each with its reason; a difference that is gone must be struck out.
"""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from support.calls import asked, calls, launches
from support.shapes import differences, shape

RECORDINGS = Path(__file__).parents[1] / "recordings" / "xinference-4.1.0"
RECORDED = {file.stem: json.loads(file.read_text()) for file in sorted(RECORDINGS.glob("*.json"))}
# Of the models that the calls launch: they are ended, or cannot be.
UIDS = ("tiny-chat", "base", "nope", "begun", "waited", "damaged", "failed")
Answers = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Known:
    """Differences of some calls, and why they are so."""

    names: str
    why: str
    lines: tuple[str, ...]

    def of(self, name: str) -> set[str]:
        return set(self.lines) if any(fnmatch.fnmatch(name, one) for one in self.names.split()) else set()


OPENAI = "OpenAI's clients read these, which Xinference leaves out"
BAD_BODY = "a bad body is 400 with the field's name; there it is an error of the server in plain text"
TOLD = "how a model stands, and why, is told wherever it is; there only its instances and replicas tell it"
NO_WORKERS = "there are no workers that could be chosen or counted"
TEMPLATE = "the template and the end of an answer are those in the model's own repository; there the registry has copies"
COUNTS = "tokens are counted where stream_options.include_usage asks for it, in a last piece of their own, as OpenAI's"
NODES = "the nodes are the cluster's, and not seen from here: there are no workers"
PODS = "a pod has a name and no number"
LISTED = "a model is listed and described from its launch to its end, with how it stands; there only once it is ready, and 503 before"
FORGOTTEN = (
    "of a model that was cancelled, or whose launch was answered with its failure, nothing is left; there its instance stays, as ERROR"
)
KEPT = "a launch that nobody waited for is kept with the reason why it failed, until it is terminated; there only its instance is"
NO_DRAFTS = "no draft models, and no figures about a model that is not loaded"
EVERYWHERE = (
    Known("cluster-status", NO_WORKERS, ("workers[] is missing",)),
    Known("cluster-version", "a release has no other name", ("full-revisionid is text there and null here",)),
    Known("cluster-vllm", "the engine is transformers", ("chat is missing", "generate is missing")),
    Known(
        "engines engines-built-in",
        "the engine is transformers; there the others tell why they cannot be imported",
        ("vLLM is missing", "SGLang is missing", "llama_cpp is missing", "MLX is missing", "TRT-LLM is missing"),
    ),
    Known("register-nothing", BAD_BODY, ("500 there and 400 here", "it is text there and object here")),
    Known(
        "register-again register-no-json registration-unknown registrations-no-kind describe-unknown launch-* chat-unknown "
        "completion-unknown replica-unknown terminate-unknown cancel-unknown",
        "beside `detail`, which Xinference's clients read, there is `error`, which OpenAI's read",
        ("error is more",),
    ),
    Known(
        "registration registration-built-in",
        TEMPLATE,
        ("chat_template is text there and null here", "stop_token_ids is list there and null here", "stop is list there and null here"),
    ),
    Known(
        "registration registration-built-in",
        NO_DRAFTS,
        tuple(
            f"model_specs[].{key} is missing" for key in ("model_metadata", "draft_model_id", "draft_quantizations", "draft_model_revision")
        ),
    ),
    Known(
        "registration-built-in",
        "the catalogue says what is needed to serve a model, and pins a commit",
        (
            "updated_at is missing",
            "featured is missing",
            "model_type is missing",
            "model_family is null there and text here",
            "model_specs[].model_revision is null there and text here",
            "architectures is list there and null here",
            "virtualenv is object there and null here",
            "tool_parser is text there and null here",
        ),
    ),
    Known(
        "registrations-detailed",
        "as for one that is built in; and no formats but pytorch, nor other hubs",
        (
            "[].updated_at is missing",
            "[].featured is missing",
            "[].model_type is missing",
            "[].download_hubs is missing",
            "[].stop_token_ids[] is missing",
            "[].stop[] is missing",
            "[].model_family is null there and text here",
            "[].architectures is list there and null here",
            "[].virtualenv is object there and null here",
            "[].model_specs[].model_size_in_billions is number there and number or text here",
            *(
                f"[].model_specs[].{key} is missing"
                for key in (
                    "model_metadata",
                    "draft_model_id",
                    "draft_quantizations",
                    "draft_model_revision",
                    "cache_status",
                    "multimodal_projectors",
                    "model_file_name_template",
                    "model_file_name_split_template",
                    "quantization_parts",
                    "draft_model_file_name_template",
                )
            ),
        ),
    ),
    Known(
        "launch-no-json chat-no-messages chat-no-model chat-too-long",
        BAD_BODY,
        ("500 there and 400 here",),
    ),
    Known("launch-no-json chat-no-messages chat-no-model", BAD_BODY, ("it is text there and object here",)),
    Known("models", TOLD, ("data[].n_worker is more", "data[].status is more", "data[].message is more")),
    Known("describe", TOLD, ("status is more", "message is more")),
    Known("progress begun-progress failed-progress", TOLD, ("message is more", "failing is more")),
    Known(
        "instances instances-of-one begun-instances failed-instances",
        "a replica is told alike wherever it is",
        (
            "[].replica_statuses[].model_address is more",
            "[].replica_statuses[].accelerators is more",
            "[].replica_statuses[].replica_uid is null there and text here",
        ),
    ),
    Known(
        "instances instances-of-one begun-instances failed-instances",
        NO_WORKERS,
        ("[].replica_statuses[].worker_address is text there and null here",),
    ),
    Known("replicas begun-replicas failed-replicas", NO_WORKERS, ("[].worker_address is text there and null here",)),
    Known(
        "replicas begun-replicas failed-replicas", "each has a name, also the first ones", ("[].replica_uid is null there and text here",)
    ),
    Known(
        "replicas-unknown",
        "a model that is not there is told as by `describe`",
        ("200 there and 400 here", "it is list there and object here"),
    ),
    Known("chat completion", OPENAI, ("system_fingerprint is more",)),
    Known("chat", OPENAI, ("choices[].message.refusal is more",)),
    Known(
        "chat-streamed chat-streamed-counted completion-streamed",
        OPENAI,
        ("first.system_fingerprint is more", "between[].system_fingerprint is more", "last.system_fingerprint is more"),
    ),
    Known("chat-streamed chat-streamed-counted", OPENAI, ("first.choices[].delta.refusal is more", "first.choices[].logprobs is more")),
    Known("chat-streamed", "the last piece says nothing, as OpenAI's", ("last.choices[].delta.content is missing",)),
    Known("chat-streamed completion-streamed", COUNTS, ("between[].usage is missing", "last.usage is missing")),
    Known(
        "chat-streamed-counted",
        COUNTS,
        (
            "first.usage is more",
            "last.choices[] is missing",
            *(f"between[].usage.{key} is missing" for key in ("prompt_tokens", "completion_tokens", "total_tokens")),
        ),
    ),
    Known("chat-too-long", "beside `detail` there is `error`, as everywhere", ("error is more",)),
    Known("replica-added", NO_WORKERS, ("worker_address is text there and null here",)),
    Known("cancel-unknown", "as for the end of one that is not there", ("500 there and 400 here",)),
    Known(
        "unregister-again unregister-built-in",
        "what was not forgotten is told; there nothing is said",
        ("200 there and 400 here", "it is null there and object here"),
    ),
)

_DESCRIBED = ("detail is missing", *(f"{key} is more" for key in (*RECORDED["describe"]["answer"], "status", "message")))
OF_LAUNCHES = (
    Known("begun-models failed-models", LISTED, ("data[] is more",)),
    Known("begun-describe failed-describe", LISTED, _DESCRIBED),
    Known("begun-describe", LISTED, ("503 there and 200 here",)),
    Known("failed-describe", KEPT, ("400 there and 200 here",)),
    Known("failed-progress", KEPT, ("replicas[] is more",)),
    Known("failed-terminate", KEPT, ("400 there and 200 here", "it is object there and null here")),
    Known("begun-instances failed-instances", "what a model can is known from its launch", ("[].model_ability[] is more",)),
    Known(
        "begun-replicas failed-replicas",
        "the address of a process is known from its start, and so is that none is chosen by its GPU",
        ("[].model_address is null there and text here", "[].accelerators is null there and list here"),
    ),
    Known("cancelled-instances damaged-instances", FORGOTTEN, ("[] is missing",)),
    Known("cancelled-replicas damaged-replicas", FORGOTTEN, ("200 there and 400 here", "it is list there and object here")),
    Known("cancel-again", "as for the end of one that is not there", ("500 there and 400 here",)),
    Known(
        "cancelled-describe damaged-describe cancel-again",
        "beside `detail` there is `error`, as everywhere",
        ("error is more",),
    ),
)
ON_THIS_MACHINE = (
    *EVERYWHERE,
    *OF_LAUNCHES,
    Known("cluster-workers", TOLD, tuple(f"[].models[].{key} is more" for key in ("n_worker", "replica", "status", "message"))),
)
IN_A_CLUSTER = (
    *EVERYWHERE,
    *OF_LAUNCHES,
    Known("cluster-info-detailed", NODES, ("[].software_version is missing",)),
    Known("cluster-workers", NODES, ("[] is missing",)),
    Known("replicas begun-replicas failed-replicas", PODS, ("[].replica_id is number there and text here",)),
    Known("progress begun-progress", PODS, ("replicas[].replica_id is number there and text here",)),
    Known(
        "instances instances-of-one begun-instances failed-instances",
        PODS,
        ("[].replica_statuses[].replica_id is number there and text here",),
    ),
)


def answers(client: httpx.Client, uri: str) -> Answers:
    """By name: all calls, in their order, to one server that serves nothing yet. `uri` is as for `calls`."""
    return {call.name: asked(client, call) for call in calls(uri)}


def answers_of_launches(client: httpx.Client, endless: str, damaged: str) -> Answers:
    """As above, of `launches`."""
    return {call.name: asked(client, call) for call in launches(endless, damaged)}


def unlisted(here: Answers, known: tuple[Known, ...]) -> dict[str, set[str]]:
    """By name of a call: how its answer differs and should not."""
    found = {name: set(_differences(name, answer)) - _listed(name, known) for name, answer in here.items()}
    return {name: lines for name, lines in found.items() if lines}


def stale(here: Answers, known: tuple[Known, ...]) -> set[str]:
    """What is listed, and no answer differs so."""
    there = {name: _differences(name, answer) for name, answer in here.items()}
    return {line for entry in known for line in entry.lines if not any(line in there[name] for name in there if line in entry.of(name))}


def amiss(here: Answers, known: tuple[Known, ...]) -> list[str]:
    """Both of the above, a line each."""
    unknown = [f"{name}: {line}" for name, lines in unlisted(here, known).items() for line in sorted(lines)]
    return unknown + [f"no answer differs so: {line}" for line in sorted(stale(here, known))]


def _differences(name: str, here: dict[str, Any]) -> list[str]:
    there = RECORDED[name]
    status = [f"{there['status']} there and {here['status']} here"] if there["status"] != here["status"] else []
    return status + differences(shape(there["answer"]), shape(here["answer"]))


def _listed(name: str, known: tuple[Known, ...]) -> set[str]:
    return {line for entry in known for line in entry.of(name)}
