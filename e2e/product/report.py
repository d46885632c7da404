"""What a person is shown of chats: a line for each, and all together."""

from __future__ import annotations

from product.client import Chat


def table(chats: list[Chat]) -> str:
    lines = [f"{'':>2}  {'prompt':<36} {'answer':<60} {'tokens':>6} {'first token':>11} {'tokens/s':>8}"]
    return "\n".join([*lines, *map(_line, chats), f"    {summary(chats)}"])


def _line(chat: Chat) -> str:
    first = f"{chat.first_token:.2f} s" if chat.first_token is not None else "-"
    prompt, answer = _short(chat.prompt, 36), _short(chat.error or chat.answer, 60)
    return f"{chat.number:>2}  {prompt:<36} {answer:<60} {chat.tokens:>6} {first:>11} {chat.tokens / chat.seconds:>8.1f}"


def summary(chats: list[Chat]) -> str:
    answered = [chat for chat in chats if not chat.error]
    if not answered:
        return "no chat was answered"
    wall = max(chat.ended for chat in answered) - min(chat.started for chat in answered)
    tokens = sum(chat.tokens for chat in answered)
    first = sorted(chat.first_token or chat.seconds for chat in answered)
    middle, last = first[len(first) // 2], first[-1]
    speed = f"{tokens} tokens in {wall:.1f} s = {tokens / wall:.0f} tokens/s together"
    return f"{len(answered)} of {len(chats)} chats answered; {speed}; first token after {middle:.2f} s (median), {last:.2f} s (slowest)"


def _short(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."
