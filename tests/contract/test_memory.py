"""How much of what is free keys and values may take, and that it is what the operator's estimate promised."""

from __future__ import annotations

import itertools
from importlib import resources

import pytest
import torch
import yaml

from jitney_operator import fit
from jitney_operator.catalogue import Catalogue
from jitney_runtime.torch_backend import memory

ENTRIES = yaml.safe_load(resources.files("jitney_operator").joinpath("catalogue.yaml").read_text())
MIB, GIB = 1024**2, 1024**3
# What the process has taken by the time that the weights are loaded, without them; seen on SmolLM2.
IN_USE = {"cpu": 410 * 10**6, "cuda": 400 * 10**6}


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    def have(machine: int, cgroup: int | None, taken: int = 0, device: str = "cpu", share: float | None = None) -> int:
        monkeypatch.setattr(memory, "_machine_free", lambda: machine)
        monkeypatch.setattr(memory, "_cgroup", lambda: None if cgroup is None else memory.Memory(cgroup, taken))
        monkeypatch.setattr(memory, "_of_gpu", lambda device: memory.Memory(cgroup, taken))
        return memory.for_keys_and_values(torch.device(device), share)

    return have


def test_of_its_own_it_takes_nearly_all_and_of_what_others_use_less(free):
    assert free(32 * GIB, 10 * GIB) == 10 * GIB - 128 * MIB
    assert free(32 * GIB, 10 * GIB, 20 * GIB) == 9 * GIB
    assert free(32 * GIB, 10 * GIB, 20 * GIB, "cuda") == 9 * GIB
    assert free(32 * GIB, 10 * GIB, 20 * GIB, "cuda", share=0.5) == 5 * GIB
    assert free(10 * GIB, None, share=0.5) == 5 * GIB
    assert free(10 * GIB, None) == int(0.7 * 10 * GIB)
    assert free(10 * GIB, 32 * GIB) == int(0.7 * 10 * GIB), "a limit that the machine has no room for is none"
    assert free(32 * GIB, 500 * MIB) == 372 * MIB
    assert free(32 * GIB, 100 * MIB) == 0


@pytest.mark.parametrize("seqs", [1, 4, 16])
@pytest.mark.parametrize("quantization", ["none", *fit.QUANTIZED])
@pytest.mark.parametrize("device", IN_USE)
def test_one_window_of_what_the_operator_accepts_always_fits(free, device: str, quantization: str, seqs: int):
    """Else a resource says Fits and its pods end with OutOfMemory."""
    catalogue, seen = Catalogue.read(), 0
    models = [catalogue.find(name, size) for name, sizes in ENTRIES.items() for size in sizes]
    for model, gib in itertools.product(models, range(1, 97)):
        accepted = fit.within(fit.Request(model, seqs, None, quantization), device, gib * GIB)
        if accepted is None:
            continue
        seen += 1
        taken = accepted.weights + IN_USE[device]
        budget = free(640 * GIB, gib * GIB - taken, taken, device)
        assert budget >= accepted.max_model_len * fit.kv_bytes_per_token(model, device, quantization), (model, gib)
    assert seen
