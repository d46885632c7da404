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


@pytest.mark.parametrize("name", [*permits.CODE_BRINGERS, "PATH", "LD_PRELOAD", "PYTHONPATH", "PYTHONSTARTUP", "NCCL_NET_PLUGIN"])
def test_a_variable_that_brings_code_is_refused_although_every_name_is_allowed(name: str):
    with pytest.raises(Rejected, match=f"foreign code, which {name} could bring in") as refused:
        permits.check(spec(name), STRICT)
    assert refused.value.reason == "NotAllowed"
    permits.check(spec(name), Allow(images=("*",), env=("*",), host_paths=(), trust_remote_code=True))


@pytest.mark.parametrize("name", ["HF_ENDPOINT", "OMP_NUM_THREADS", "HTTPS_PROXY", "MY_PYTHON", "PATH_TO_X"])
def test_other_variables_are_the_persons(name: str):
    permits.check(spec(name), STRICT)
