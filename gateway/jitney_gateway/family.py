"""A custom model as Xinference's clients register it: a family in JSON, checked field by field. Pure.

What says where the weights are and how they are served is used; what only describes the model is kept and told again; what cannot be
served is refused by its name unless it asks for nothing (null, false, or empty).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from jitney_gateway.errors import GatewayError, bad_field
from jitney_gateway.launch import ABILITIES, QUANTIZATIONS, Launch, pieces, size

MOST_SPECS = 100
# Characters of a template, and arguments that it takes in the resource of a cluster, which holds 64 in all.
LONGEST_TEMPLATE, MOST_PIECES = 32_000, 40
MOST_STOPS, LONGEST_STOP, MOST_STOP_IDS = 16, 128, 32
DESCRIBING = {"version", "model_lang", "model_ability", "model_description", "model_family", "architectures"}
REFUSED = {
    "prompt_style": "the template in the model's own folder or repository is used",
    "reasoning_start_tag": "thoughts are not told apart from the answer yet",
    "reasoning_end_tag": "thoughts are not told apart from the answer yet",
    "tool_parser": "tools are not served yet",
    "virtualenv": "models run in the runtime's own environment",
    "cache_config": "downloads are kept as the Hugging Face hub's own client keeps them",
    "is_builtin": "what is registered is not built in",
}
REFUSED_OF_SPEC = {
    "model_file_name_template": "it belongs to GGUF files, which are not served",
    "model_file_name_split_template": "it belongs to GGUF files, which are not served",
    "quantization_parts": "it belongs to GGUF files, which are not served",
}
REPOSITORY = r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+"
REFERENCE = re.compile(rf"file:///.+|hf://{REPOSITORY}|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?|oci://.+")


@dataclass(frozen=True)
class Spec:
    """One size of it. `reference` is hf://org/repo, file:///path, pvc://claim/path or oci://image; `field` says where it was given."""

    size: str
    reference: str
    revision: str | None
    quantizations: tuple[str, ...]
    field: str


@dataclass(frozen=True)
class Family:
    """`document` is what was registered, as it is told again."""

    name: str
    context: int | None
    specs: tuple[Spec, ...]
    document: Mapping[str, Any]
    chat_template: str | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()

    @classmethod
    def read(cls, text: object) -> Self:
        """GatewayError (400) with the field's name."""
        if not isinstance(text, str):
            raise bad_field("model", "must be the family as a JSON text")
        try:
            document = json.loads(text)
            # Half a character can be written in JSON, and nowhere else.
            json.dumps(document, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise bad_field("model", f"is no JSON: {error}") from error
        return cls.parse(document)

    @classmethod
    def parse(cls, document: object) -> Self:
        """GatewayError (400) with the field's name."""
        if not isinstance(document, dict):
            raise bad_field("model", "must be a JSON object")
        given = {name: value for name, value in document.items() if value is not None}
        name = given.pop("model_name", None)
        # The default uid, and so part of addresses and names of files.
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise bad_field("model_name", f"must be at most 100 letters, digits, dots, dashes and underscores, not {name!r}")
        context = given.pop("context_length", None)
        if context is not None and (type(context) is not int or not 16 <= context <= 10_000_000):
            raise bad_field("context_length", f"must be a whole number from 16 to 10000000, not {context!r}")
        specs = given.pop("model_specs", None)
        if not isinstance(specs, list) or not 0 < len(specs) <= MOST_SPECS:
            raise bad_field("model_specs", f"must be a list of 1 to {MOST_SPECS} specs")
        template, stop = _chat_template(given.pop("chat_template", None)), _stop(given.pop("stop", None))
        stop_ids = _stop_token_ids(given.pop("stop_token_ids", None))
        _check_described(given)
        _refuse(given, REFUSED, "", "a family")
        return cls(
            name,
            context,
            tuple(_spec(f"model_specs[{number}]", spec) for number, spec in enumerate(specs)),
            document,
            template,
            stop,
            stop_ids,
        )

    def told(self) -> dict[str, Any]:
        return {**self.document, "is_builtin": False}

    def sizes(self) -> list[str]:
        """Each once, as they were given."""
        return list(dict.fromkeys(spec.size for spec in self.specs))

    def applied(self, launch: Launch) -> Launch:
        """The launch with what the family says and it leaves open, and how it is described; a model_path of its own stays. GatewayError
        (400) where the family has no such size or quantization."""
        spec = self._chosen(launch)
        given = launch.model_path is not None
        return dataclasses.replace(
            launch,
            size=spec.size,
            model_path=launch.model_path if given else spec.reference,
            revision=launch.revision if given else launch.revision or spec.revision,
            max_model_len=launch.max_model_len or self.context,
            chat_template=self.chat_template,
            stop=self.stop,
            stop_token_ids=self.stop_token_ids,
            family=self.document.get("model_family"),
            abilities=tuple(self.document.get("model_ability") or launch.abilities),
            languages=tuple(self.document.get("model_lang") or launch.languages),
            description=self.document.get("model_description") or "",
        )

    def _chosen(self, launch: Launch) -> Spec:
        sizes = ", ".join(self.sizes())
        if launch.size is None and len(self.sizes()) > 1:
            raise bad_field("model_size_in_billions", f"{self.name} comes in several sizes; give one of {sizes}")
        of_size = [spec for spec in self.specs if launch.size in (None, spec.size)]
        if not of_size:
            raise bad_field("model_size_in_billions", f"{self.name} has no size {launch.size}; there are {sizes}")
        for spec in of_size:
            if launch.quantization in spec.quantizations:
                return spec
        offered = ", ".join(dict.fromkeys(word for spec in of_size for word in spec.quantizations))
        raise bad_field("quantization", f"{self.name} {of_size[0].size} is registered as {offered}, not {launch.quantization}")


def _spec(place: str, spec: object) -> Spec:
    if not isinstance(spec, dict):
        raise bad_field(place, "must be a JSON object")
    given = {name: value for name, value in spec.items() if value is not None}
    if (form := given.pop("model_format", None)) != "pytorch":
        raise bad_field(f"{place}.model_format", f"checkpoints are read as pytorch, not {form!r}: leave this spec out")
    billions = size(f"{place}.model_size_in_billions", given.pop("model_size_in_billions", None))
    if "activated_size_in_billions" in given:
        size(f"{place}.activated_size_in_billions", given.pop("activated_size_in_billions"))
    if (hub := given.pop("model_hub", "huggingface")) != "huggingface":
        raise bad_field(f"{place}.model_hub", f"models come from the Hugging Face hub: huggingface, not {hub!r}")
    quantizations = _quantizations(place, given.pop("quantization", None), given.pop("quantizations", None))
    field, reference = _reference(place, given.pop("model_id", None), given.pop("model_uri", None))
    revision = given.pop("model_revision", None)
    if revision is not None and (not isinstance(revision, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}", revision)):
        raise bad_field(f"{place}.model_revision", f"must be a branch, tag or commit, not {revision!r}")
    if revision and not reference.startswith("hf://"):
        raise bad_field(f"{place}.model_revision", "pins a commit on the hub and means nothing beside model_uri: leave it out")
    _refuse(given, REFUSED_OF_SPEC, f"{place}.", "a spec")
    return Spec(billions, reference, revision, quantizations, field)


def _reference(place: str, repository: object, uri: object) -> tuple[str, str]:
    """The field and what it means; model_uri wins, as there."""
    if repository is not None and (not isinstance(repository, str) or not re.fullmatch(REPOSITORY, repository)):
        raise bad_field(f"{place}.model_id", f"must be a repository of the hub, org/repo, not {repository!r}")
    if uri is None:
        if repository is None:
            raise bad_field(f"{place}.model_uri", "give model_uri or model_id, or nothing says where the weights are")
        return f"{place}.model_id", f"hf://{repository}"
    reference = f"file://{uri}" if isinstance(uri, str) and uri.startswith("/") else uri
    if not isinstance(reference, str) or len(reference) > 512 or not REFERENCE.fullmatch(reference) or ".." in reference.split("/"):
        raise bad_field(f"{place}.model_uri", f"must be file:///path, hf://org/repo, pvc://claim/path or oci://image, not {uri!r}")
    return f"{place}.model_uri", reference


def _quantizations(place: str, one: object, several: object) -> tuple[str, ...]:
    """Version 2 has one in each spec, version 1 a list."""
    if one is not None and several is not None:
        raise bad_field(f"{place}.quantizations", "quantization says it already: give one of the two")
    field, words = ("quantizations", several) if several is not None else ("quantization", ["none"] if one is None else [one])
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word.lower() in QUANTIZATIONS for word in words):
        raise bad_field(f"{place}.{field}", f"must be of {', '.join(QUANTIZATIONS)}, not {several if one is None else one!r}")
    return tuple(dict.fromkeys(QUANTIZATIONS[word.lower()] for word in words))


def _chat_template(template: object) -> str | None:
    """None where the model's own is to be used. Xinference takes a built-in family's name too, whose template is not known here."""
    if not template:
        return None
    own = "leave it out, and the template in the model's own folder or repository is used"
    if not isinstance(template, str) or not any(sign in template for sign in ("{{", "{%")):
        raise bad_field("chat_template", f"must be the template's own text, in Jinja, and no other family's name; or {own}")
    if "\0" in template or len(template) > LONGEST_TEMPLATE or len(pieces(template)) > MOST_PIECES:
        raise bad_field(
            "chat_template", f"must be at most {LONGEST_TEMPLATE} characters, few dollar signs and no zero among them; or {own}"
        )
    return template


def _stop(stop: object) -> tuple[str, ...]:
    texts = [stop] if isinstance(stop, str) and stop else stop or []
    if (
        not isinstance(texts, list)
        or len(texts) > MOST_STOPS
        or not all(isinstance(text, str) and 0 < len(text) <= LONGEST_STOP for text in texts)
    ):
        raise bad_field("stop", f"must be a list of at most {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters")
    return tuple(texts)


def _stop_token_ids(ids: object) -> tuple[int, ...]:
    numbers = ids or []
    if not isinstance(numbers, list) or len(numbers) > MOST_STOP_IDS or not all(type(one) is int and 0 <= one < 10**8 for one in numbers):
        raise bad_field("stop_token_ids", f"must be a list of at most {MOST_STOP_IDS} token ids, which are whole numbers from 0")
    return tuple(numbers)


def _check_described(given: dict[str, Any]) -> None:
    """Takes out what only describes the model."""
    if (version := given.get("version", 2)) not in (1, 2):
        raise bad_field("version", f"families are of version 1 or 2, not {version!r}")
    for key in ("model_lang", "model_ability", "architectures"):
        if not isinstance(words := given.get(key, []), list) or not all(isinstance(word, str) for word in words):
            raise bad_field(key, "must be a list of texts")
    for key in ("model_description", "model_family"):
        if not isinstance(given.get(key, ""), str):
            raise bad_field(key, "must be a text")
    if other := [word for word in given.get("model_ability", []) if word not in ABILITIES]:
        raise bad_field("model_ability", f"only {' and '.join(ABILITIES)} are served, not {', '.join(other)}")
    for key in DESCRIBING:
        given.pop(key, None)


def _refuse(given: Mapping[str, Any], known: Mapping[str, str], place: str, what: str) -> None:
    for key, value in given.items():
        if key not in known:
            raise bad_field(f"{place}{key}", f"this is no field of {what}")
        if not _is_nothing(value):
            raise bad_field(f"{place}{key}", f"{known[key]}: leave it out")


def _is_nothing(value: object) -> bool:
    """Also a virtualenv that asks for no package, as the documented example has it."""
    if isinstance(value, dict):
        return not any(part for key, part in value.items() if key != "inherit_pip_config")
    return not value


def taken(name: str) -> GatewayError:
    return GatewayError(400, f"Model name conflicts with existing model {name}", code="model_exists")


def unknown(name: str) -> GatewayError:
    return GatewayError(400, f"Model {name} not found: no custom model of this name is registered", code="model_not_found")
