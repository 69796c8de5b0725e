"""The measured subjects: servers with their clients, and engines without a server."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmarks.child import Child, family, peak_memory, reset_peak_memory
from benchmarks.workload import Answer, Run, Workload
from ovms_local.testing import serve
from text_generation.serve.prompts import PromptEncoder

ROOT = Path(__file__).parent.parent
# Every request generates all its tokens and computes its whole prompt, although the questions repeat.
ALL_TOKENS = {"IGNORE_EOS": "true", "PREFIX_CACHING": "false"}


class Subject(Protocol):
    """Something that can run a workload."""

    def measure(self, workload: Workload) -> Run:
        """Run the workload; RuntimeError if the results are not as expected."""


class ServedModel:
    """ovms_local with one of our servables, called over gRPC by tritonclient with one process per client."""

    def __init__(self, url: str, server_pid: int, clients: Sequence[Child], new_tokens: int, servable: str):
        self.url = url
        self._server_pid, self._clients, self._servable = server_pid, clients, servable
        self._new_tokens = new_tokens
        for client in clients:
            client.send({"url": url, "kind": servable, "requests": []})
        for client in clients:
            client.receive()

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Return the running processes by kind."""
        server, *pipeline = family(self._server_pid)
        clients = [psutil.Process(client.pid) for client in self._clients]
        return {"pipeline": pipeline, "server": [server], "clients": clients}

    def measure(self, workload: Workload) -> Run:
        """Run the workload with one question per request."""
        return self.ask(workload, [[[question] for question in own] for own in workload.questions()])

    def ask(self, workload: Workload, requests: list[list[list[str]]]) -> Run:
        """Send requests of one or more prompts, listed for each client."""
        if workload.new_tokens != self._new_tokens:
            raise ValueError(f"the server was started for {self._new_tokens} tokens, not {workload.new_tokens}")
        reset_peak_memory(self._server_pid)
        asked = list(zip(self._clients, requests, strict=False))
        for client, own in asked:
            client.send({"url": self.url, "kind": self._servable, "requests": own})
        replies = [client.receive() for client, _ in asked]
        check_counts(workload, replies)
        answers = [Answer(**answer) for reply in replies for answer in reply["answers"]]
        return Run(workload, answers, peak_memory(self._server_pid))

    def chat(self, messages: list[dict[str, str]]) -> tuple[Answer, str]:
        """Send one request of the first client to servable_chat, greedy and to its end; return timeline and text."""
        client = self._clients[0]
        request = {"messages": messages, "temperature": 0}
        client.send({"url": self.url, "kind": self._servable, "requests": [request]})
        reply = client.receive()
        return Answer(**reply["answers"][0]), reply["texts"][0]


class InProcess:
    """A child process that loads a model and generates from token ids without a server."""

    def __init__(self, child: Child, encoder: PromptEncoder):
        self._child, self._encoder = child, encoder

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Return the running process by its kind."""
        return {"pipeline": family(self._child.pid)}

    def measure(self, workload: Workload) -> Run:
        """Run the workload's questions."""
        return self.ask(workload, workload.questions())

    def ask(self, workload: Workload, questions: list[list[str]]) -> Run:
        """Ask the questions, listed for each client."""
        reset_peak_memory(self._child.pid)
        prompts = [[question_ids(self._encoder, question) for question in own] for own in questions]
        self._child.send({"prompts": prompts, "new_tokens": workload.new_tokens})
        answers = [Answer(**answer) for answer in self._child.receive()["answers"]]
        return Run(workload, answers, peak_memory(self._child.pid))


def check_counts(workload: Workload, replies: Sequence[Mapping[str, Any]]) -> None:
    """Raise RuntimeError if the number of tokens in the clients' replies does not match the workload."""
    counted = sum(sum(reply["token_counts"]) for reply in replies)
    # The count excludes special tokens, which a model that may not stop generates now and then.
    if not 0.5 * workload.tokens <= counted <= workload.tokens:
        raise RuntimeError(f"the server counted {counted} tokens, but {workload.tokens} were requested")


def question_ids(encoder: PromptEncoder, question: str) -> list[int]:
    """Return the token ids of a question's prompt."""
    return encoder.encode([{"role": "user", "content": question}], {})


@contextmanager
def clients(count: int) -> Iterator[list[Child]]:
    """Start client processes, which have loaded tritonclient but are idle and not connected."""
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            child = Child([sys.executable, "-m", "benchmarks.stream_client"])
            stack.callback(child.close)
            started.append(child)
        yield started


@contextmanager
def served(
    engine: str, servable: str, model: Path, new_tokens: int, client_processes: Sequence[Child], **settings: str
) -> Iterator[ServedModel]:
    """Run a server with one of our engines and servables ("unary", "stream" or "chat"), and additional settings."""
    env = {
        "ENGINE": engine,
        "MODEL_PATH": str(model),
        "MAX_NEW_TOKENS": str(new_tokens),
        # The same as for subjects without a server; a model folder may recommend other values.
        "TEMPERATURE": "1",
        "TOP_P": "1",
        "TOP_K": "50",
        "REPETITION_PENALTY": "1.1",
        "MAX_CONCURRENT_REQUESTS": "64",
        "LOG_LEVEL": "WARNING",
    }
    with serve(ROOT / f"servable_{servable}", env=env | settings) as server:
        yield ServedModel(server.grpc_url, server.process.pid, client_processes, new_tokens, servable)


@contextmanager
def in_process(command: Sequence[str], encoder: PromptEncoder) -> Iterator[InProcess]:
    """Run a process with the protocol of benchmarks/in_process.py."""
    child = Child(command)
    try:
        child.receive()
        yield InProcess(child, encoder)
    finally:
        child.close()
