"""Greedy answers of the engine against transformers' own `generate`, run alone.

They are equal, or different only where fp32 cannot tell two tokens apart: its matrix products give other last bits for one row than for
several, so near-ties may flip legitimately. A sequence whose solo top-two gap stays above CLEAR of the logits' standard deviation must be
equal token for token; elsewhere the first difference must fall where the fp64 gap between the two tokens is under TIE of it, and of all
sequences that a session compares at most ALLOWED_TIES may differ so. One test compares too few to judge a share: TOTAL adds them up, and
tests/conftest.py judges and prints it when the session ends.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel

from jitney_runtime.engine.block_pool import BlockPool
from jitney_runtime.engine.engine import Engine
from jitney_runtime.engine.model_runner import ModelRunner
from jitney_runtime.engine.scheduler import Scheduler
from support.engine import make_sequence
from support.verdict import TOTAL, Verdict

CLEAR = 1e-3
TIE = 1e-4


@dataclass(frozen=True)
class Solo:
    """A prompt, what `generate` answers alone, and the smallest top-two gap on the way, in standard deviations of the logits.

    The answer is shorter than what was asked for where the model ends its turn.
    """

    prompt: list[int]
    tokens: list[int]
    gap: float


def solo_answers(reference: PreTrainedModel, prompts: list[list[int]], count: int) -> list[Solo]:
    config = GenerationConfig(max_new_tokens=count, do_sample=False, output_logits=True, return_dict_in_generate=True)
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = reference.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        logits = torch.stack(output.logits)[:, 0].double()
        best = logits.topk(2, dim=-1).values
        gap = ((best[:, 0] - best[:, 1]) / logits.std(dim=-1)).min().item()
        answers.append(Solo(prompt, output.sequences[0, len(prompt) :].tolist(), gap))
    return answers


def batched_answers(
    runner: ModelRunner, prompts: list[list[int]], count: int, *, blocks: int, seed: int, rows: int = 8, shortest: int | None = None
) -> tuple[list[list[int]], Engine]:
    """The same prompts through the engine, in random order and at random moments.

    Each wants a random number of tokens, `shortest` to `count`, so that rows end at any step, and strangers come in between that are
    aborted wherever they are. An answer is therefore the beginning of the one that `count` tokens would make.
    """
    shortest = count // 3 if shortest is None else shortest
    choose = random.Random(seed)
    block_size = runner.block_size  # type: ignore[attr-defined]
    longest = max(len(prompt) for prompt in prompts) + count
    engine = Engine(Scheduler(BlockPool(blocks, block_size), rows, choose.choice([17, 64, 512]), longest), runner)
    order = list(range(len(prompts)))
    choose.shuffle(order)
    answers: list[list[int]] = [[] for _ in prompts]
    wanted = [choose.randint(shortest, count) for _ in prompts]
    strangers = 0
    while order or engine.has_work:
        if order and choose.random() < 0.5:
            number = order.pop()
            engine.add(make_sequence(str(number), prompts[number], wanted[number], ignore_eos=True))
        if order and choose.random() < 0.2:
            strangers += 1
            engine.add(make_sequence(f"stranger-{strangers}", choose.choice(prompts)[::-1], count, ignore_eos=True))
        for output in engine.step().outputs:
            if output.token is not None and not output.sequence_id.startswith("stranger"):
                answers[int(output.sequence_id)].append(output.token)
        if strangers and choose.random() < 0.3:
            engine.abort(f"stranger-{choose.randint(1, strangers)}")
    assert [len(tokens) for tokens in answers] == wanted
    return answers, engine


def compare(reference: PreTrainedModel, solos: list[Solo], answers: list[list[int]]) -> Verdict:
    verdict, exact = Verdict(clear=sum(solo.gap >= CLEAR for solo in solos)), None
    for number, (solo, tokens) in enumerate(zip(solos, answers, strict=True)):
        shared = min(len(tokens), len(solo.tokens))
        if shared and tokens[:shared] == solo.tokens[:shared]:
            verdict.equal += 1
            continue
        exact = exact or copy.deepcopy(reference).double()
        first = next((place for place, pair in enumerate(zip(tokens, solo.tokens, strict=False)) if pair[0] != pair[1]), None)
        if solo.gap < CLEAR and first is not None and tokens[first] in _fp64_ties(exact, solo, first):
            verdict.ties += 1
        else:
            verdict.wrong.append(f"#{number} at token {first} (solo gap {solo.gap:.1e})")
    return verdict


def compare_texts(reference: PreTrainedModel, solos: list[Solo], texts: list[str], decode: Callable[[list[int]], str]) -> Verdict:
    """The same for answers whose tokens are not known.

    A near-tie needs a token that float64 cannot tell from `generate`'s and that, in its place, leads to the text.
    """
    verdict, exact = Verdict(clear=sum(solo.gap >= CLEAR for solo in solos)), None
    for number, (solo, text) in enumerate(zip(solos, texts, strict=True)):
        if text == decode(solo.tokens):
            verdict.equal += 1
            continue
        exact = exact or copy.deepcopy(reference).double()
        # The last token before which both say the same; a character may be spread over several tokens.
        first = max(place for place in range(len(solo.tokens)) if _leads_to(decode(solo.tokens[:place]), text))
        twins = _fp64_ties(exact, solo, first)
        if solo.gap < CLEAR and any(_leads_to(decode([*solo.tokens[:first], twin]), text) for twin in twins):
            verdict.ties += 1
        else:
            verdict.wrong.append(f"#{number} at token {first} (solo gap {solo.gap:.1e}): {text!r}")
    return verdict


def assert_as_alone(verdict: Verdict, total: Verdict = TOTAL) -> None:
    """Nothing may differ that float64 does not excuse; how much it excuses is judged over the session."""
    total.add(verdict)
    print(verdict)
    assert not verdict.wrong, str(verdict)


def _leads_to(beginning: str, text: str) -> bool:
    return text.startswith(beginning.rstrip("\N{REPLACEMENT CHARACTER}"))


@torch.inference_mode()
def _fp64_ties(exact: PreTrainedModel, solo: Solo, place: int) -> set[int]:
    """The tokens at `place` that are nearer to the one of `generate` than TIE, without itself."""
    logits = exact(torch.tensor([solo.prompt + solo.tokens[:place]]), use_cache=False).logits[0, -1]
    gaps = (logits - logits[solo.tokens[place]]).abs() / logits.std()
    return set((gaps < TIE).nonzero().flatten().tolist()) - {solo.tokens[place]}


def random_prompts(count: int, vocabulary: int, longest: int, seed: int) -> list[list[int]]:
    choose = random.Random(seed)
    return [[choose.randrange(vocabulary) for _ in range(choose.randint(1, longest))] for _ in range(count)]
