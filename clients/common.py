"""From a client's first line to its exit code: Ctrl-C at any time, errors in one line, what may reach a terminal.

Imports nothing that takes long, so that Ctrl-C is taken care of before anything does.
"""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # as a shell reports a command that Ctrl-C ended
TERMINATED = 143
NO_READER = 141
# A server's text must not move the cursor, set the window's title or answer in the user's name.
_CONTROLS: dict[int, str | None] = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}
_CONTROLS[ord("\r")] = None


class RequestFailed(Exception):
    """A request that has no answer, or not all of it; the message is one for the user."""


class TooLong(RequestFailed):
    """The conversation does not fit into the model's context or the server's limits."""


@contextmanager
def slow_imports() -> Iterator[None]:
    """Imports during which Ctrl-C ends the process: some of them turn a KeyboardInterrupt into errors of their own."""
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def harmless(text: str) -> str:
    """Text without control characters other than line ends and tabs."""
    return text.translate(_CONTROLS)


def titles(prompts: list[str]) -> list[str]:
    """What stands over each completion; nothing where there is only one."""
    return [f"==== Prompt: {prompt} ====" for prompt in prompts] if len(prompts) > 1 else [""]


def shown(text: str) -> str:
    """Text to print: a terminal gets it without control characters, a file or a program as it is."""
    return harmless(text) if sys.stdout.isatty() else text


def print_blocks(titles: Iterable[str], texts: Iterable[str]) -> None:
    """Each text under its title."""
    for title, text in zip(titles, texts, strict=True):
        print(f"{shown(title)}\n{shown(text)}\n")


def print_error(error: RequestFailed) -> None:
    """The one line that a failed request leaves."""
    print(f"error: {harmless(' '.join(str(error).split()))}", file=sys.stderr, flush=True)


def run(main: Callable[[], None]) -> None:
    """Run a client to its exit: errors in one line with code 1; Ctrl-C, or a closed output, with
    a shell's codes for them.
    """
    if sys.stdout is None:
        sys.exit("error: the output is closed: leave it open, or send it to /dev/null")
    # A whole answer must not be lost for a character that the output's encoding does not have.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # As an exception, so that the terminal gets its cursor and echo back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        try:
            main()
        except RequestFailed as error:
            print_error(error)
            sys.exit(1)
        except KeyboardInterrupt:
            print()
            sys.exit(INTERRUPTED)
        finally:
            sys.stdout.flush()
    except OSError as error:
        # What is still to be written would fail once more when Python flushes it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(
            NO_READER if isinstance(error, BrokenPipeError) else f"error: can't write the output: {error.strerror}"
        )
