"""One user of a server: a process with tritonclient that asks when told to and reports when the pieces came.

Each line on its input is {"url": "host:port", "requests": [[prompt, ...], ...], "stream": true or false}: the requests
are sent one after another, and answered by one line {"answers": [Answer, ...], "token_counts": [...]}. With no requests
it only connects, so that connecting is not part of what is measured.
"""

import functools
import json
import sys
import time
from dataclasses import asdict
from queue import SimpleQueue

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

from benchmarks.workload import Answer

MODEL_NAME = "python_model"


def pre_prompt(prompts: list[str]) -> list[InferInput]:
    """The request's inputs: one BYTES tensor with a prompt per element."""
    tensor = InferInput("pre_prompt", [len(prompts)], "BYTES")
    tensor.set_data_from_numpy(np.array([prompt.encode() for prompt in prompts], dtype=np.object_))
    return [tensor]


@functools.cache
def connect(url: str) -> InferenceServerClient:
    """One connection per server, kept."""
    client = InferenceServerClient(url)
    if not client.is_model_ready(MODEL_NAME):
        raise SystemExit(f"{MODEL_NAME} at {url} is not ready")
    return client


def stream(client: InferenceServerClient, prompts: list[str]) -> tuple[Answer, int]:
    """One streaming request; the clock starts before its stream is opened."""
    arrived = SimpleQueue()
    answer = Answer(time.monotonic())
    client.start_stream(lambda result, error: arrived.put((time.monotonic(), result, error)))
    client.async_stream_infer(MODEL_NAME, pre_prompt(prompts))
    token_count = 0
    while True:
        now, result, error = arrived.get()
        if error is not None:
            raise error
        if (message := result.as_numpy("error_message")) is not None:
            raise RuntimeError(message[0].decode())
        if (pieces := result.as_numpy("completion")) is not None:
            texts = [piece.decode() for piece in pieces]
            if any(texts):
                answer.arrivals.append(now)
            answer.ended = now
        elif (counts := result.as_numpy("token_count")) is not None:
            token_count = int(counts[0])
        else:
            client.stop_stream()
            return answer, token_count


def call(client: InferenceServerClient, prompts: list[str]) -> tuple[Answer, int]:
    """One unary request."""
    answer = Answer(time.monotonic())
    result = client.infer(MODEL_NAME, pre_prompt(prompts))
    answer.ended = time.monotonic()
    return answer, int(result.as_numpy("token_count")[0])


def main() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        client = connect(command["url"])
        ask = stream if command["stream"] else call
        done = [ask(client, prompts) for prompts in command["requests"]]
        reply = {"answers": [asdict(answer) for answer, _ in done], "token_counts": [count for _, count in done]}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
