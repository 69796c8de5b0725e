"""A client process that sends requests on command and reports when the pieces arrived.

Each line on its input is {"url": "host:port", "kind": one of ASK, "requests": [...]}. The requests are sent in sequence
or, if "at" lists times of the monotonic clock, each at its own time. The reply is one line
{"answers": [Answer, ...], "token_counts": [...], "texts": [...]}. Without requests it only connects, so that connecting
is not part of the measurement.
"""

import functools
import http.client
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

from benchmarks.workload import Answer

GRAPHS = {"stream": "python_model", "unary": "python_model", "chat": "chat_stream"}
MOST_AT_ONCE = 512  # limit of simultaneous requests that are sent at given times

Connection = InferenceServerClient | http.client.HTTPConnection
Asked = tuple[Answer, int, str]  # timeline, number of tokens, text


def connect(url: str, kind: str) -> Connection:
    """Connect to a server; SystemExit if the servable is not available."""
    if kind == "completion":
        return http.client.HTTPConnection(url)
    client = InferenceServerClient(url)
    if not client.is_model_ready(GRAPHS[kind]):
        raise SystemExit(f"{GRAPHS[kind]} at {url} is not ready")
    return client


def texts_input(name: str, texts: list[str]) -> list[InferInput]:
    """Return a request's inputs: one BYTES tensor with a text per element."""
    tensor = InferInput(name, [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_))
    return [tensor]


def stream(client: InferenceServerClient, prompts: list[str]) -> Asked:
    """Send a request to servable_stream."""
    return _read_stream(client, "stream", texts_input("pre_prompt", prompts), "token_count")


def chat(client: InferenceServerClient, request: dict[str, Any]) -> Asked:
    """Send a request to servable_chat's stream."""
    return _read_stream(client, "chat", texts_input("request", [json.dumps(request)]), "completion_tokens")


def _read_stream(client: InferenceServerClient, kind: str, inputs: list[InferInput], count_name: str) -> Asked:
    """Send a request and read the stream; the clock starts before the stream is opened."""
    arrived = SimpleQueue()
    answer = Answer(time.monotonic())
    client.start_stream(lambda result, error: arrived.put((time.monotonic(), result, error)))
    client.async_stream_infer(GRAPHS[kind], inputs)
    token_count, whole = 0, ""
    while True:
        now, result, error = arrived.get()
        if error is not None:
            raise error
        if (message := result.as_numpy("error_message")) is not None:
            raise RuntimeError(message[0].decode())
        if (pieces := result.as_numpy("completion")) is not None:
            text = "".join(piece.decode() for piece in pieces)
            if text:
                answer.arrivals.append(now)
            whole += text
            answer.ended = now
        elif (counts := result.as_numpy(count_name)) is not None:
            token_count = int(counts[0])
        else:
            client.stop_stream()
            return answer, token_count, whole


def call(client: InferenceServerClient, prompts: list[str]) -> Asked:
    """Send a request to servable_unary."""
    answer = Answer(time.monotonic())
    result = client.infer(GRAPHS["unary"], texts_input("pre_prompt", prompts))
    answer.ended = time.monotonic()
    return answer, int(result.as_numpy("token_count")[0]), ""


def completion(connection: http.client.HTTPConnection, body: dict[str, Any]) -> Asked:
    """Send a request to /completion of llama-server, which answers with server-sent events."""
    answer, whole = Answer(time.monotonic()), ""
    connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        raise RuntimeError(response.read().decode())
    token_count = 0
    for line in response:
        if not line.startswith(b"data: "):
            continue
        now, event = time.monotonic(), json.loads(line.removeprefix(b"data: "))
        if "content" not in event:
            raise RuntimeError(line.decode())
        if event["content"]:
            answer.arrivals.append(now)
            whole += event["content"]
        answer.ended = now
        token_count = event.get("tokens_predicted", token_count)
    connection.close()  # the server closes idle connections after a few seconds; a new one is cheap
    return answer, token_count, whole


ASK: dict[str, Callable[[Any, Any], Asked]] = {
    "stream": stream,
    "unary": call,
    "chat": chat,
    "completion": completion,
}


def ask_at_times(url: str, kind: str, requests: list[Any], times: list[float]) -> list[Asked]:
    """Send requests at their times; a request is timed from then, even if it could only be sent later."""
    idle: SimpleQueue[Connection] = SimpleQueue()

    def ask(request: Any, at: float) -> Asked:
        try:
            connection = idle.get_nowait()
        except Empty:
            connection = connect(url, kind)
        asked = ASK[kind](connection, request)
        idle.put(connection)
        asked[0].sent = at
        return asked

    with ThreadPoolExecutor(MOST_AT_ONCE) as threads:
        futures = []
        for request, at in zip(requests, times, strict=True):
            time.sleep(max(0.0, at - time.monotonic()))
            futures.append(threads.submit(ask, request, at))
        return [future.result() for future in futures]


def main() -> None:
    kept = functools.cache(connect)  # one connection per server
    for line in sys.stdin:
        command = json.loads(line)
        url, kind, requests = command["url"], command["kind"], command["requests"]
        if "at" in command:
            done = ask_at_times(url, kind, requests, command["at"])
        else:
            connection = kept(url, kind)
            done = [ASK[kind](connection, request) for request in requests]
        reply = {
            "answers": [asdict(answer) for answer, _, _ in done],
            "token_counts": [count for _, count, _ in done],
            "texts": [text for _, _, text in done],
        }
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
