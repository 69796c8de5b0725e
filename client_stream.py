"""Ask a served model and print its answer as it comes."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from tritonclient.grpc import InferenceServerClient, InferResult
from tritonclient.utils import InferenceServerException

import client_common


def main() -> None:
    """Send one request with all prompts; print the completions piece by piece, then how long it took."""
    arguments = client_common.parse_arguments(__doc__)
    prompts = arguments.prompts
    client = client_common.connect(arguments.url, streaming=True)
    single = len(prompts) == 1
    redraw = not single and sys.stdout.isatty()
    if single:
        print(f"Question:\n{prompts[0]}\n")

    completions = [""] * len(prompts)
    tokens = responses = 0
    first_s = 0.0
    start = time.monotonic()
    try:
        with alternate_screen(redraw):
            for result in results(client, prompts, arguments.timeout):
                if (token_count := result.as_numpy("token_count")) is not None:
                    tokens = int(token_count[0])
                    continue
                pieces = [piece.decode() for piece in result.as_numpy("completion")]
                if any(pieces):
                    responses += 1
                    first_s = first_s or time.monotonic() - start
                completions = [completion + piece for completion, piece in zip(completions, pieces, strict=True)]
                if single:
                    print(pieces[0], end="", flush=True)
                elif redraw:
                    draw(prompts, completions)
        total_s = time.monotonic() - start
    finally:
        # Also where the answer broke off, so that what came of it is kept and the error stands on a line of its own.
        if single:
            print()
        else:
            client_common.print_completions(prompts, completions)

    print("END\n\n")
    print(f"Number of tokens  {tokens}")
    print(f"Generated tokens per second  {tokens / total_s:.2f}")
    print(f"Time per generated token {1000 * total_s / max(tokens, 1):.2f} ms")
    print(f"Total time {1000 * total_s:.0f} ms")
    print(f"Number of responses {responses}")
    print(f"First response time {1000 * first_s:.0f} ms")
    print(f"Average response time: {1000 * total_s / max(responses, 1):.2f} ms")


def results(client: InferenceServerClient, prompts: list[str], timeout_s: float | None) -> Iterator[InferResult]:
    """The responses to one request up to its end signal; InferenceServerException where the server reports an error.

    Leaving it early cancels the stream, which ends the generation on the server.
    """
    arrived: SimpleQueue[InferResult | InferenceServerException] = SimpleQueue()
    client.start_stream(lambda result, error: arrived.put(error or result), stream_timeout=timeout_s)
    try:
        client.async_stream_infer(client_common.MODEL_NAME, client_common.pre_prompt(prompts))
        while True:
            result = arrived.get()
            if isinstance(result, InferenceServerException):
                raise result
            if (message := result.as_numpy("error_message")) is not None:
                raise InferenceServerException(message[0].decode())
            if result.as_numpy("end_signal") is not None:
                return
            yield result
    finally:
        client.stop_stream(cancel_requests=True)


@contextmanager
def alternate_screen(wanted: bool) -> Iterator[None]:
    """The terminal's second screen, so that redrawing leaves what the user had in the window alone."""
    if wanted:
        print("\x1b[?1049h", end="")
    try:
        yield
    finally:
        if wanted:
            print("\x1b[?1049l", end="", flush=True)


def draw(prompts: list[str], completions: list[str]) -> None:
    """Redraw the completions from the top of the screen; their ends where the screen is too small for all."""
    columns, rows = shutil.get_terminal_size()
    lines = []
    for prompt, completion in zip(prompts, completions, strict=True):
        for line in (f"==== Prompt: {prompt} ====", *completion.split("\n"), ""):
            lines += [line[i : i + columns] for i in range(0, len(line), columns)] or [""]
    print("\x1b[H" + "\n".join(f"{line}\x1b[K" for line in lines[-rows:]) + "\x1b[J", end="", flush=True)


if __name__ == "__main__":
    client_common.run(main)
