"""What of the GPU's side needs none: kernels that compile for every card, the layout of narrow weights, what a recorded step reads."""

from __future__ import annotations

import pytest
import torch

from jitney_runtime.engine.model_runner import ScheduledBatch, ScheduledRow
from jitney_runtime.engine.sequence import SamplingParams
from jitney_runtime.kernels.cuda.program import CompileError, compiled
from jitney_runtime.torch_backend.cuda_attention import serves
from jitney_runtime.torch_backend.cuda_linears import pack
from jitney_runtime.torch_backend.cuda_program import TYPES
from jitney_runtime.torch_backend.graphs import numbers, widths
from jitney_runtime.torch_backend.kv_cache import LayerShape

CPU = torch.device("cpu")
# T4, A100, L4, H100 and Blackwell.
CARDS = ["sm_75", "sm_80", "sm_89", "sm_90", "sm_100", "sm_120"]
ELF = b"\x7fELF"


@pytest.mark.parametrize("card", CARDS)
def test_kernels_compile_for_every_card(card: str):
    for dtype, number in TYPES.items():
        assert compiled("elementwise.cu", {"TYPE": number}, card).startswith(ELF)
        for key, value, group in ((64, 64, 3), (192, 128, 1))[: 2 if number == 1 else 1]:
            assert serves(LayerShape(2, key, value), 2 * group, dtype)
            constants = {"TYPE": number, "KEY_DIM": key, "VALUE_DIM": value, "GROUP": group, "BLOCK_SIZE": 16}
            assert compiled("attention.cu", constants, card).startswith(ELF)
    if card != "sm_75":
        for number in (1, 2):
            for bits in (8, 4):
                assert compiled("linear.cu", {"TYPE": number, "BITS": bits}, card).startswith(ELF)


def test_a_source_that_does_not_compile_says_why():
    with pytest.raises(CompileError, match=r"(?s)attention.cu with {'TYPE': 1} for sm_80: .*KEY_DIM"):
        compiled("attention.cu", {"TYPE": 1}, "sm_80")
    with pytest.raises(CompileError, match="invalid value for --gpu-architecture"):
        compiled("elementwise.cu", {"TYPE": 1}, "sm_1")


def test_what_the_attention_kernel_cannot_do_is_known():
    assert not serves(LayerShape(2, 512, 512), 4, torch.bfloat16)
    assert not serves(LayerShape(2, 20, 20), 4, torch.bfloat16)
    assert not serves(LayerShape(3, 64, 64), 4, torch.bfloat16)
    assert not serves(LayerShape(2, 64, 64), 4, torch.float64)


@pytest.mark.parametrize(("outs", "ins"), [(16, 64), (33, 72), (5000, 96)])
def test_int8_weights_lie_as_the_kernel_reads_them(outs: int, ins: int):
    """A byte each, 128 more than what it stands for; what is added to fill up stands for nothing."""
    weight = torch.randn(outs, ins, generator=torch.Generator().manual_seed(0))
    packed = pack(weight, 8, CPU)
    assert packed.groups is None
    assert packed.scales is not None
    assert packed.data.shape[1] % 64 == 0
    assert len(packed.data) % 16 == 0
    whole = (packed.data.float() - 128) * packed.scales[:, None]
    assert (whole[:outs, :ins] - weight).abs().amax() <= 0.51 * float(packed.scales.max())
    assert not whole[outs:].any()
    assert not whole[:, ins:].any()


@pytest.mark.parametrize(("outs", "ins"), [(16, 64), (33, 72), (5000, 96)])
def test_int4_weights_lie_as_the_kernel_reads_them(outs: int, ins: int):
    """The even input in the lower half of a byte; the scale in the lower half of a group's word, the lowest value above."""
    weight = torch.randn(outs, ins, generator=torch.Generator().manual_seed(0))
    packed = pack(weight, 4, CPU)
    assert packed.groups is not None
    assert packed.scales is None
    whole = torch.stack((packed.data & 15, packed.data >> 4), dim=-1).flatten(1).float()
    scale, lowest = packed.groups.view(torch.bfloat16).view(*packed.groups.shape, 2).float().unbind(-1)
    found = (whole.view(len(whole), -1, 32) * scale[..., None] + lowest[..., None]).flatten(1)
    # A weight at the end of its group may be out of reach by what rounding the ends costs.
    assert (found[:outs, :ins] - weight).abs().amax() <= 0.6 * float(scale.max())


def test_weights_of_zeros_stay_zeros():
    for bits in (8, 4):
        packed = pack(torch.zeros(16, 64), bits, CPU)
        assert not (packed.scales if bits == 8 else packed.groups).any()  # type: ignore[union-attr]


def test_widths_are_powers_of_two_and_some_between():
    assert widths(16) == [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    assert widths(21)[4:7] == [16, 21, 24]
    assert widths(1024) == widths(16)


def test_a_recorded_step_reads_its_numbers_in_their_places():
    """A decoding row and a piece of a prompt in a graph of four tokens; what fills up goes to the spare block."""
    params = SamplingParams(max_tokens=1)
    batch = ScheduledBatch(
        (
            ScheduledRow("a", (70,), 17, (5, 3, 9), True, params, 0),
            ScheduledRow("b", (71, 72), 0, (6,), False, params, 0),
        )
    )
    found = numbers(batch, 4, 3, 16, spare=40)
    assert found[:1] == [2]
    assert found[1:5] == [70, 71, 72, 0]
    assert found[5:9] == [17, 0, 1, 0]
    assert found[9:13] == [3 * 16 + 1, 6 * 16, 6 * 16 + 1, 640]
    assert found[13:17] == [18, 1, 2, 1]
    assert found[17:21] == [0, 1, 1, 2]
    assert found[21:24] == [0, 0, 0]
    # A block that is not written yet is left out, and a short table filled up with its own.
    assert found[24:] == [5, 3, 6, 6, 40, 40]
