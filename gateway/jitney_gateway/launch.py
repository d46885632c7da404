"""A launch as Xinference's clients send it, checked field by field. Pure.

What means something here is taken; what has no meaning here is refused by its name unless it asks for nothing (null, or the value that is
true here anyway; a null `n_gpu` asks for none). The fields are those of xinference-client 4.1.0 and of Xinference's documentation.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

from jitney_gateway.errors import GatewayError, bad_field

MOST_SEQUENCES, MOST_REPLICAS = 1024, 1000
SHORTEST_WINDOW, LONGEST_WINDOW = 16, 10_000_000
# Characters of a name, as the resource of a cluster has them too.
LONGEST_NAME = 512
# Of a template: what one argument in the resource of a cluster holds, beside its flag.
PIECE = 1000
UID, UID_WORDS = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "at most 100 letters, digits, dots, dashes and underscores"
QUANTIZATIONS = {"none": "none", "int8": "int8", "8-bit": "int8", "int4": "int4", "4-bit": "int4"}
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")
# Of a model that nobody has described.
ABILITIES = ("chat", "generate")
# A field that may only say what is so anyway: what it may be, and why not more.
FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "model_type": (("LLM",), "only chat models are served: LLM"),
    "n_worker": ((1,), "a model is served by one runtime on one machine: 1"),
    "download_hub": (("huggingface",), "models come from the Hugging Face hub: huggingface"),
    "enable_virtual_env": ((False,), "models run in the runtime's own environment: leave it out"),
}
MEANINGLESS = {
    "peft_model_config": "LoRA adapters are not served yet",
    "worker_ip": "there are no workers to choose from",
    "gpu_idx": "which GPU is used is not chosen here; set CUDA_VISIBLE_DEVICES in envs",
    "replica_config": "replicas are all alike",
    "request_limits": "requests wait in the runtime's own queue, and it answers 429 when that is full",
    "virtual_env_packages": "models run in the runtime's own environment",
    "virtual_env_find_links": "models run in the runtime's own environment",
    "quantization_config": "say quantization: int8 or int4 instead",
    "enable_thinking": "send chat_template_kwargs with a request",
}


@dataclass(frozen=True)
class Launch:
    """`size` in billions, as the catalogue writes it. `uid` is None where one is to be chosen."""

    name: str
    uid: str | None = None
    size: str | None = None
    quantization: str = "none"
    replicas: int = 1
    device: str = "auto"
    max_num_seqs: int = 16
    max_model_len: int | None = None
    model_path: str | None = None
    revision: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    envs: Mapping[str, str] = field(default_factory=dict)
    # What a custom model's family says; no parameters of a launch. The last ones only describe it.
    chat_template: str | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    family: str | None = None
    abilities: Sequence[str] = ABILITIES
    languages: Sequence[str] = ("en",)
    description: str = ""

    @classmethod
    def parse(cls, body: object) -> Self:
        """GatewayError (400) with the field's name."""
        if not isinstance(body, dict):
            raise GatewayError(400, "the body must be a JSON object", code="invalid_value")
        given = {name: value for name, value in body.items() if value is not None}
        if "n_gpu" in body and "device" not in given:
            # The one null that says something there: no GPU.
            given.setdefault("n_gpu", 0)
        name = given.pop("model_name", None)
        if not isinstance(name, str) or not name:
            raise GatewayError(400, "Invalid input. Please specify the `model_name` field.", code="invalid_value")
        if len(name) > LONGEST_NAME or not _sound(name):
            raise bad_field("model_name", f"must be a text of at most {LONGEST_NAME} characters, and none of them a zero or half of one")
        _check_engine(given.pop("model_engine", None))
        _check_format(given.pop("model_format", "pytorch"))
        for key, (allowed, why) in FIXED.items():
            value = given.pop(key, allowed[0])
            # True is 1 to Python, and says nothing of a number.
            if value not in allowed or type(value) is not type(allowed[0]):
                raise bad_field(key, why)
        values: dict[str, Any] = {"size": _size(given)}
        said: dict[str, str] = {}
        for key, (target, read) in READ.items():
            # The client always sends an n_gpu, which is auto where nobody chose.
            if key not in given or ((value := read(key, given.pop(key))) == "auto" and target in said):
                continue
            if target in said and values[target] not in (value, "auto"):
                raise bad_field(key, f"{said[target]} says something else: give one of the two")
            values[target], said[target] = value, key
        for key in given:
            raise bad_field(key, MEANINGLESS.get(key, "this is no parameter of a launch"))
        return cls(name=name, **values)

    def of_answers(self) -> list[str]:
        """Flags of the runtime: how it makes a prompt of a chat, and what ends its answers."""
        words = [f"--chat-template={piece}" for piece in pieces(self.chat_template or "")]
        # As JSON any text is itself. A dollar sign could begin a variable of a pod's.
        words += [f"--stop={json.dumps([stop], ensure_ascii=False)}".replace("$", "\\u0024") for stop in self.stop]
        return [*words, f"--stop-token-ids={','.join(map(str, self.stop_token_ids))}"] if self.stop_token_ids else words

    def wanted_uid(self) -> str:
        """The one that was asked for, else the last part of the name. GatewayError (400) where that can be none."""
        if self.uid:
            return self.uid
        last = self.name.rpartition("/")[2]
        if not re.fullmatch(UID, last):
            raise bad_field("model_uid", f"without one it is the last part of model_name, {last!r}, which can be none: give {UID_WORDS}")
        return last

    def another_uid(self) -> str:
        """Where the wanted one is taken and nobody asked for it; short enough to be one still."""
        return f"{self.wanted_uid()[:90]}-{secrets.token_hex(4)}"


def pieces(template: str) -> list[str]:
    """It in parts that a resource has room for, and that no pod takes for variables: after a dollar sign none begins with what would make
    one of it."""
    parts = re.split(r"(?<=[$])(?=[$(])", template)
    return [part[start : start + PIECE] for part in parts for start in range(0, len(part), PIECE)]


def _check_engine(value: object) -> None:
    if value is None:
        raise GatewayError(400, "Invalid input. Please specify the `model_engine` field.", code="invalid_value")
    if not isinstance(value, str) or value.lower() != "transformers":
        raise bad_field("model_engine", f"the engine is transformers, not {value!r}")


def _check_format(value: object) -> None:
    if value != "pytorch":
        raise bad_field("model_format", f"checkpoints are read as pytorch, not {value!r}")


def _size(given: dict[str, Any]) -> str | None:
    """Either spelling: Xinference's documentation uses both."""
    sizes = {key: given.pop(key) for key in ("model_size_in_billions", "size_in_billions") if key in given}
    read = {key: size(key, value) for key, value in sizes.items()}
    if len(set(read.values())) > 1:
        raise bad_field("size_in_billions", "model_size_in_billions says another size: give one of the two")
    return next(iter(read.values()), None)


def size(key: str, value: object) -> str:
    """`4`, `0.5`, `"1_8"` and `"1.8"` as `4`, `0.5` and `1.8`."""
    text = str(value).replace("_", ".")
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,5}([.][0-9]{1,4})?", text) or not Decimal(text):
        raise bad_field(key, f"must be billions of parameters such as 4, 0.5 or 1_8, not {value!r}")
    number = Decimal(text)
    return str(int(number)) if number == int(number) else str(number.normalize())


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > 1024:
        raise bad_field(key, f"must be a text of at most 1024 characters, not {str(value)[:1024]!r}")
    if not _sound(value):
        raise bad_field(key, f"no character of it may be a zero or half of one: {value!r}")
    return value


def _sound(text: str) -> bool:
    """Whether it can be a word of a command, the name of a file, and a variable."""
    return "\0" not in text and not re.search("[\ud800-\udfff]", text)


def _uid(key: str, value: object) -> str:
    """It becomes a part of addresses and file names."""
    if not isinstance(value, str) or not re.fullmatch(UID, value):
        raise bad_field(key, f"must be {UID_WORDS}, not {value!r}")
    return value


def _whole(least: int, most: int) -> Callable[[str, object], int]:
    def read(key: str, value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise bad_field(key, f"must be a whole number from {least} to {most}, not {value!r}")
        return value

    return read


def _truth(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise bad_field(key, f"must be true or false, not {value!r}")
    return value


def _quantization(key: str, value: object) -> str:
    if not isinstance(value, str) or value.lower() not in QUANTIZATIONS:
        raise bad_field(key, f"must be one of {', '.join(QUANTIZATIONS)}, not {value!r}")
    return QUANTIZATIONS[value.lower()]


def _device_of(key: str, value: object) -> str:
    """`auto`, a number of GPUs, or 0 for none."""
    if value == "auto":
        return "auto"
    if value == 0 and type(value) is int:
        return "cpu"
    if value == 1 and type(value) is int:
        return "cuda"
    raise bad_field(key, f"a model is served on one GPU or on none: auto, 1 or 0, not {value!r}")


def _device(key: str, value: object) -> str:
    if value not in DEVICES:
        raise bad_field(key, f"must be auto, cpu or cuda, not {value!r}")
    return str(value)


def _dtype(key: str, value: object) -> str:
    if value not in DTYPES:
        raise bad_field(key, f"must be auto, float32, bfloat16 or float16, not {value!r}")
    return str(value)


def _envs(key: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise bad_field(key, "must map names of variables to texts")
    for name, text in value.items():
        if not name or "=" in name or not _sound(name):
            raise bad_field(key, f"{name!r} can be no variable's name: it may not be empty, and hold no equals sign and no zero character")
        if not _sound(text):
            raise bad_field(key, f"the value of {name} holds a zero character or half of one, which no variable can")
    return dict(value)


READ: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "model_uid": ("uid", _uid),
    "quantization": ("quantization", _quantization),
    "replica": ("replicas", _whole(1, MOST_REPLICAS)),
    "n_gpu": ("device", _device_of),
    "device": ("device", _device),
    "max_num_seqs": ("max_num_seqs", _whole(1, MOST_SEQUENCES)),
    "context_length": ("max_model_len", _whole(SHORTEST_WINDOW, LONGEST_WINDOW)),
    "max_model_len": ("max_model_len", _whole(SHORTEST_WINDOW, LONGEST_WINDOW)),
    "model_path": ("model_path", _text),
    "revision": ("revision", _text),
    "torch_dtype": ("dtype", _dtype),
    "trust_remote_code": ("trust_remote_code", _truth),
    "envs": ("envs", _envs),
}
