"""Prompts whose beginning the server has already seen: a repeated system prompt, and the turns of a conversation."""

import itertools
from collections.abc import Sequence

from benchmarks.child import Child
from benchmarks.models import BenchmarkModel
from benchmarks.results import Goal, Spread
from benchmarks.subjects import ServedModel, served
from text_generation.serve.prompts import PromptEncoder

SYSTEM_TOKENS = 600
RULES = [
    "You help the readers of a town library.",
    "Answer in a friendly tone and in whole sentences.",
    "Say when a book is lent out and for how long it will be away.",
    "Never give the name or the address of another reader.",
    "The library is open from ten to six, on Saturdays until two.",
    "Children under twelve may borrow five books at a time.",
    "Where you do not know the answer, send the reader to the desk.",
    "Fees for late returns are ten cents a day for each book.",
]
TURNS = [
    "I would like to plan a week in the mountains with two children. Where should I begin?",
    "They are six and nine years old. How far can they walk in a day?",
    "What should we take with us to eat on the way?",
    "The forecast says rain on two of the days. What could we do then?",
    "Is it better to stay in one hut or to move on each night?",
    "How do I find out whether a path is too steep for them?",
    "What would you put in a small first aid kit?",
    "Thank you. Can you say in a few words what I have to book before we go?",
]
ANSWER_TOKENS = 40


def measure(model: BenchmarkModel, repeats: int, client_processes: Sequence[Child]) -> list[Goal]:
    """Measure both, through servable_chat on GenAI with default settings."""
    encoder = PromptEncoder.load(model.folder)
    with served("genai", "chat", model.folder, ANSWER_TOKENS, client_processes[:1]) as server:
        # Each repeat uses new prompts; the first one is the warm-up.
        sooner = [_second_request(server, encoder, repeat) for repeat in range(repeats + 1)][1:]
        later = [_last_turn(server, repeat) for repeat in range(repeats + 1)][1:]
    return [
        Goal(
            f"genai: first token under a system prompt of {SYSTEM_TOKENS} tokens, second request sooner than the first",
            model.title,
            5,
            False,
            "",
            Spread.of(sooner),
        ),
        Goal(
            f"genai: first token of a conversation, turn {len(TURNS)} / turn 1",
            model.title,
            1.5,
            True,
            "",
            Spread.of(later),
        ),
    ]


def _second_request(server: ServedModel, encoder: PromptEncoder, repeat: int) -> float:
    system = system_prompt(encoder, f"Branch number {repeat}.")
    first, second = (
        server.chat([{"role": "system", "content": system}, {"role": "user", "content": question}])[0]
        for question in ("Do you have books about bees?", "When do you close today?")
    )
    return first.first_token_s / second.first_token_s


def _last_turn(server: ServedModel, repeat: int) -> float:
    messages = [{"role": "system", "content": f"You are guide number {repeat} of a hiking club."}]
    first_token_s = []
    for turn in TURNS:
        messages.append({"role": "user", "content": turn})
        answer, text = server.chat(messages)
        messages.append({"role": "assistant", "content": text})
        first_token_s.append(answer.first_token_s)
    return first_token_s[-1] / first_token_s[0]


def system_prompt(encoder: PromptEncoder, beginning: str) -> str:
    """Return `beginning` followed by rules, until the system prompt has SYSTEM_TOKENS tokens."""
    text = beginning
    for rule in itertools.cycle(RULES):
        if len(encoder.encode([{"role": "system", "content": text}], {})) >= SYSTEM_TOKENS:
            return text
        text += f" {rule}"
