"""Who computes how many tokens in the next step.

Decodes go first, so that a long prompt never stops a running answer; what is left of the token budget, and of the time that answers can
spare, goes to prompts, in chunks.
When KV memory runs out, the youngest running sequence gives its blocks back and is computed again later (preemption by recompute).
Everything here runs on the engine's thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Rows

from jitney_runtime.engine.block_pool import BlockPool
from jitney_runtime.engine.model_runner import ScheduledBatch, ScheduledRow
from jitney_runtime.engine.pace import UNCUT, Pace
from jitney_runtime.engine.sequence import FinishReason, Sequence, SequenceStatus, TokenOutput


class Scheduler:
    """`max_num_seqs` rows at most, `token_budget` tokens a step, `eos_tokens` end a sequence, `max_model_len` bounds it.

    `pace` says how much of a prompt the running answers can bear; without one the token budget alone does.
    """

    def __init__(
        self,
        pool: BlockPool,
        max_num_seqs: int,
        token_budget: int,
        max_model_len: int,
        eos_tokens: frozenset[int] = frozenset(),
        pace: Pace | None = None,
    ) -> None:
        if pool.count < pool.blocks_for(max_model_len):
            raise ValueError(f"{pool.count} blocks of {pool.block_size} tokens cannot hold one sequence of {max_model_len} tokens")
        self.pool = pool
        self.max_num_seqs = max_num_seqs
        self.token_budget = max(token_budget, max_num_seqs)
        self.max_model_len = max_model_len
        self.eos_tokens = eos_tokens
        self.pace = pace
        self.preemptions = 0
        # Prompt tokens that another sequence had computed, since the start; and who was let in for the first time by the last schedule().
        self.shared_tokens = 0
        self.begun: list[str] = []
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._by_id: dict[str, Sequence] = {}

    @property
    def has_work(self) -> bool:
        return bool(self._by_id)

    def add(self, sequence: Sequence) -> None:
        self._by_id[sequence.id] = sequence
        self.waiting.append(sequence)

    def schedule(self) -> ScheduledBatch:
        """Reserve blocks and name the rows of the next step; empty when there is nothing to do."""
        preempted_before = self.preemptions
        self.begun = []
        chosen: list[tuple[Sequence, int]] = []
        # Each kind in order of arrival.
        decodes, prompts = ([each for each in self.running if (each.pending > 1) == several] for several in (False, True))
        wanting = len(prompts) + min(len(self.waiting), self.max_num_seqs - len(self.running))
        room = self._advance(decodes, chosen, self.token_budget)
        spare = self._spare(room, len(decodes), wanting)
        budget = self._advance(prompts, chosen, spare)
        if self.preemptions == preempted_before:
            self._admit(chosen, budget, room - (spare - budget))
        return ScheduledBatch(tuple(self._row(sequence, count) for sequence, count in chosen))

    def _spare(self, budget: int, decoding: int, prompts: int) -> int:
        """Of the budget, what prompts may take of it."""
        bound = self.pace.beside(decoding, prompts) if self.pace else None
        return budget if bound is None else min(budget, bound)

    def _advance(self, sequences: list[Sequence], chosen: list[tuple[Sequence, int]], budget: int) -> int:
        """The budget that is left."""
        for sequence in sequences:
            count = min(sequence.pending, budget)
            if count == 0 or sequence.status is not SequenceStatus.RUNNING:
                continue
            if self._make_room(sequence, count, chosen):
                chosen.append((sequence, count))
                budget -= count
        return budget

    def _make_room(self, sequence: Sequence, count: int, chosen: list[tuple[Sequence, int]]) -> bool:
        """Preempt from the youngest end until `sequence` can grow; False when it had to go itself."""
        while not self.pool.can_grow(sequence, sequence.computed + count):
            victim = self.running[-1]
            self._preempt(victim)
            chosen[:] = [pair for pair in chosen if pair[0] is not victim]
            if victim is sequence:
                return False
        self.pool.grow(sequence, sequence.computed + count)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._forget(sequence)
        self.running.remove(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(sequence)

    def _forget(self, sequence: Sequence) -> None:
        self.pool.release(sequence)
        sequence.computed = 0

    def _count_shared(self, sequence: Sequence) -> None:
        """Of a prompt, once: what a preempted sequence finds again is its own."""
        if not sequence.preemptions:
            self.shared_tokens += sequence.computed
            self.begun.append(sequence.id)

    def _admit(self, chosen: list[tuple[Sequence, int]], budget: int, room: int) -> None:
        """Let waiting sequences in, oldest first, while there is a row, budget, and memory for the whole of what they hold so far.

        `room`: what is left of the token budget, which a prompt that is not cut may take.
        """
        while self.waiting and budget > 0 and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[0]
            self.pool.share(sequence)
            if not self.pool.can_grow(sequence, len(sequence.tokens)):
                self._forget(sequence)
                return
            self.waiting.popleft()
            self._count_shared(sequence)
            self.pool.grow(sequence, len(sequence.tokens))
            sequence.status = SequenceStatus.RUNNING
            self.running.append(sequence)
            count = min(sequence.pending, max(budget, min(room, UNCUT)) if sequence.pending <= UNCUT else budget)
            chosen.append((sequence, count))
            budget, room = budget - count, room - count

    def _row(self, sequence: Sequence, count: int) -> ScheduledRow:
        end = sequence.computed + count
        return ScheduledRow(
            sequence.id,
            tuple(sequence.tokens[sequence.computed : end]),
            sequence.computed,
            tuple(sequence.blocks),
            sample=end == len(sequence.tokens),
            params=sequence.params,
            seed=sequence.seed,
            of_prompt=sequence.computed < sequence.prompt_length,
        )

    def update(self, batch: ScheduledBatch, tokens: Rows[int]) -> list[TokenOutput]:
        """Take the runner's answer in: one token per sampled row. Rows aborted meanwhile are passed over."""
        drawn = iter(tokens)
        outputs: list[TokenOutput] = []
        for row in batch.rows:
            token = next(drawn) if row.sample else None
            sequence = self._by_id.get(row.sequence_id)
            if sequence is None:
                continue
            before, sequence.computed = sequence.computed, row.end
            self.pool.keep(sequence, before)
            if token is not None:
                outputs.append(self._append(sequence, token))
        return outputs

    def _append(self, sequence: Sequence, token: int) -> TokenOutput:
        sequence.tokens.append(token)
        reason = self._finish_reason(sequence, token)
        if reason is not None:
            self._remove(sequence)
        return TokenOutput(sequence.id, token, reason)

    def _finish_reason(self, sequence: Sequence, token: int) -> FinishReason | None:
        if token in self.eos_tokens and not sequence.params.ignore_eos:
            return FinishReason.STOP
        if sequence.generated >= sequence.params.max_tokens or len(sequence.tokens) >= self.max_model_len:
            return FinishReason.LENGTH
        return None

    def abort(self, sequence_id: str) -> bool:
        """Free the sequence's row and blocks at once; False when it has ended already."""
        sequence = self._by_id.get(sequence_id)
        if sequence is None:
            return False
        self._remove(sequence)
        return True

    def _remove(self, sequence: Sequence) -> None:
        self.pool.release(sequence)
        if sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        del self._by_id[sequence.id]

    def check_integrity(self) -> None:
        self.pool.check_integrity(self._by_id.values())
