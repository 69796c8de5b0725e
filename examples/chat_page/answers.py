"""Answers a question on the page with messages, and a note below them."""

import math
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from markup import as_typed
from server import Failed, TooLong, outputs

FRAME_S = 0.05  # updating a growing answer more often only costs time
NOTE = "note"  # id of the page's own messages, which are not part of the conversation


def is_note(message: dict) -> bool:
    return (message["metadata"] or {}).get("id") == NOTE


def conversation(history: list[dict]) -> list[dict[str, str]]:
    """Return the conversation for the model: the answered questions, with their answers."""
    messages = [
        {"role": message["role"], "content": message["content"][0]["text"]}
        for message in history
        if not is_note(message)
    ]
    return [message for turn in pairwise(messages) if turn[0]["role"] == "user" != turn[1]["role"] for message in turn]


def left_out_so_far(history: list[dict]) -> int:
    """Return how many of the conversation's messages no longer fit, as found out by the last question."""
    return next((int(message["metadata"]["log"]) for message in reversed(history) if is_note(message)), 0)


@dataclass
class Answer:
    """The answer received so far; its times are in seconds from the question."""

    text: str = ""
    tokens: int = 0
    cut_off: bool = False
    started: float = field(default_factory=time.monotonic)
    first_s: float = 0.0
    last_s: float = 0.0
    frame_s: float = 0.0

    def add_output(self, name: str, value: np.ndarray) -> bool:
        """Add one of the server's outputs, and return whether the page is due to show the answer."""
        self.last_s = time.monotonic() - self.started
        if name == "completion" and value[0]:
            self.text += value[0].decode(errors="replace")
            self.first_s = self.first_s or self.last_s
            if self.last_s - self.frame_s > FRAME_S:
                self.frame_s = self.last_s
                return True
        elif name == "completion_tokens":
            self.tokens = int(value[0])
        elif name == "finish_reason":
            self.cut_off = value[0] == b"length"
        return False

    def statistics(self) -> str:
        """Format the counts and times of the complete answer."""
        tokens = f"{self.tokens} token{'s' * (self.tokens != 1)}"
        speed = f"{tokens}, {self.tokens / self.last_s:.1f} tokens/s, first after {self.first_s:.2f} s"
        return speed + (", cut off at the maximum length" if self.cut_off else "")


def answering(url: str) -> Callable:
    """Return the function that ChatInterface calls with each question."""

    async def answer(question, history, system, temperature, top_p, max_tokens, stop):
        first = [{"role": "system", "content": system}] if system.strip() else []
        earlier, new_message = conversation(history), {"role": "user", "content": as_typed(question)}
        reply, left_out, note = Answer(), left_out_so_far(history), None
        while note is None:
            try:
                request = {
                    "messages": [*first, *earlier[left_out:], new_message],
                    "temperature": number(temperature, float),
                    "top_p": number(top_p, float),
                    "max_tokens": number(max_tokens, int),
                    "stop": [line for line in stop.splitlines() if line],
                }
                async with aclosing(outputs(url, request)) as received:
                    async for name, value in received:
                        if reply.add_output(name, value):
                            yield [assistant_message(reply.text)]
                note = reply.statistics() + ", without the oldest questions, which no longer fit" * (left_out > 0)
            except TooLong as error:
                if left_out < len(earlier):
                    left_out += 2  # a question and its answer
                else:
                    note, left_out = f"{error} ↻ asks again.", left_out_so_far(history)
            except Failed as error:
                note = f"{error} {'The partial answer is kept. ' if reply.text else ''}↻ asks again."
        messages = [assistant_message(reply.text)] if reply.text else []
        # Without a title, the page does not show a message's log.
        yield [*messages, {**assistant_message(f"*{note}*"), "metadata": {"id": NOTE, "log": str(left_out)}}]

    return answer


def number(text: str, kind: type) -> float | None:
    if not text.strip():
        return None
    try:
        value = kind(text)
        if not math.isfinite(value):
            raise ValueError
        return value
    except (ValueError, OverflowError):
        raise Failed(f"Under Settings, {text} is not a valid number.") from None


def assistant_message(text: str) -> dict:
    """Return a message by the model, or by the page in its place."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}
