"""Answers a question on the page with messages, and a note below them."""

import time
from collections.abc import Callable
from contextlib import aclosing
from itertools import pairwise

from markup import as_typed
from server import Failed, TooLong, outputs

FRAME_S = 0.05  # updating a growing answer more often only costs time
NOTE = {"id": "note"}  # metadata of the page's own messages, which are not part of the conversation


def conversation(history: list[dict]) -> list[dict[str, str]]:
    """Return the conversation for the model: the answered questions, with their answers."""
    said = [
        {"role": message["role"], "content": message["content"][0]["text"]}
        for message in history
        if message["metadata"] != NOTE
    ]
    return [message for turn in pairwise(said) if turn[0]["role"] == "user" != turn[1]["role"] for message in turn]


def answering(url: str) -> Callable:
    """Return the function that ChatInterface calls with each question."""

    async def answer(question, history, system, temperature, top_p, max_tokens, stop):
        first = [{"role": "system", "content": system}] if system.strip() else []
        said, asked = conversation(history), {"role": "user", "content": as_typed(question)}
        text, tokens, left_out, cut_off = "", 0, "", ""
        started, first_s, shown_s = time.monotonic(), 0.0, 0.0
        while True:
            try:
                request = {
                    "messages": [*first, *said, asked],
                    "temperature": number(temperature, float),
                    "top_p": number(top_p, float),
                    "max_tokens": number(max_tokens, int),
                    "stop": stop.splitlines(),
                }
                async with aclosing(outputs(url, request)) as pieces:
                    async for name, value in pieces:
                        now_s = time.monotonic() - started
                        if name == "completion" and value[0]:
                            text += value[0].decode(errors="replace")
                            first_s = first_s or now_s
                            if now_s - shown_s > FRAME_S:
                                shown_s = now_s
                                yield [spoken(text)]
                        elif name == "completion_tokens":
                            tokens = int(value[0])
                        elif name == "finish_reason" and value[0] == b"length":
                            cut_off = ", cut off at the maximum length"
                note = f"{tokens} tokens, {tokens / now_s:.1f} tokens/s, first after {first_s:.2f} s{cut_off}{left_out}"
            except TooLong as error:
                if said:
                    said, left_out = said[2:], ", without the oldest questions, which no longer fit"
                    continue
                note = f"{error} ↻ asks again."
            except Failed as error:
                note = f"{error} {'The partial answer is kept. ' if text else ''}↻ asks again."
            yield [*([spoken(text)] if text else []), {**spoken(f"*{note}*"), "metadata": NOTE}]
            return

    return answer


def number(text: str, kind: type) -> float | None:
    try:
        return kind(text) if text.strip() else None
    except ValueError:
        raise Failed(f"Under Settings, {text} is not a valid number.") from None


def spoken(text: str) -> dict:
    """Return a message by the model, or by the page in its place."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}
