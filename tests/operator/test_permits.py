"""Foreign code stays out where the administrator says so, however it is asked for."""

from __future__ import annotations

import pytest

from jitney_operator import permits
from jitney_operator.api import Spec
from jitney_operator.errors import Rejected
from jitney_operator.settings import Allow

STRICT = Allow(images=("*",), env=("*",), host_paths=(), trust_remote_code=False)


def spec(name: str) -> Spec:
    return Spec.parse({"model": "org/repo", "env": [{"name": name, "value": "/mnt/model/bin"}]}, "chat")


NAMES = [
    "LD_PRELOAD", "PYTHONPATH", "PYTHONSTARTUP", "NCCL_NET_PLUGIN", "INTEL_LIBITTNOTIFY64", "INTEL_JIT_PROFILER64",
    "NVTX_INJECTION64_PATH", "ACC_PROFLIB", "OMP_TOOL_LIBRARIES", "NVSHMEM_BOOTSTRAP_PLUGIN", "TORCH_ADDR2LINE_BINARY",
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCHINDUCTOR_CACHE_DIR", "PYTORCH_NVCC", "PYTORCH_KERNEL_CACHE_PATH", "TRITON_CACHE_DIR",
    "XDG_CACHE_HOME", "OPENSSL_CONF", "CUDA_HOME", "HF_MODULES_CACHE", "BASH_ENV",
]  # fmt: skip


@pytest.mark.parametrize("name", [*permits.CODE_BRINGERS, *sorted(permits.CODE_BRINGING_NAMES), *NAMES])
def test_a_variable_that_brings_code_is_refused_although_every_name_is_allowed(name: str):
    with pytest.raises(Rejected, match=f"foreign code, which {name} could bring in") as refused:
        permits.check(spec(name), STRICT)
    assert refused.value.reason == "NotAllowed"
    permits.check(spec(name), Allow(images=("*",), env=("*",), host_paths=(), trust_remote_code=True))


HARMLESS = [
    "HF_ENDPOINT", "HF_HOME", "OMP_NUM_THREADS", "HTTPS_PROXY", "MY_PYTHON", "PATH_TO_X", "HOMEPAGE", "CUDA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF",
]  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_other_variables_are_the_persons(name: str):
    permits.check(spec(name), STRICT)
