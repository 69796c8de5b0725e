"""Runs a client: handles Ctrl-C at any time, prints errors in one line, and filters what reaches a terminal.

This module imports nothing slow, so that Ctrl-C is handled before slow imports start.
"""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # a shell's exit code for a command ended by Ctrl-C
TERMINATED = 143
NO_READER = 141
# A server's text must not move the cursor, set the window's title, or inject input.
_CONTROLS: dict[int, str | None] = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}
_CONTROLS[ord("\r")] = None


class RequestFailed(Exception):
    """A request got no complete answer; the message is for the user."""


class TooLong(RequestFailed):
    """The conversation exceeds the model's context or the server's limits."""


@contextmanager
def slow_imports() -> Iterator[None]:
    """Let Ctrl-C end the process during imports, some of which turn a KeyboardInterrupt into errors of their own."""
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def without_controls(text: str) -> str:
    """Remove control characters other than line ends and tabs."""
    return text.translate(_CONTROLS)


def titles(prompts: list[str]) -> list[str]:
    """Return the title above each completion; empty if there is only one."""
    return [f"==== Prompt: {prompt} ====" for prompt in prompts] if len(prompts) > 1 else [""]


def for_stdout(text: str) -> str:
    """Return text to print: without control characters on a terminal, unchanged for a file or a program."""
    return without_controls(text) if sys.stdout.isatty() else text


def print_blocks(titles: Iterable[str], texts: Iterable[str]) -> None:
    """Print each text under its title."""
    for title, text in zip(titles, texts, strict=True):
        print(f"{for_stdout(title)}\n{for_stdout(text)}\n")


def print_error(error: RequestFailed) -> None:
    """Print a failed request's error in one line."""
    print(f"error: {without_controls(' '.join(str(error).split()))}", file=sys.stderr, flush=True)


def run(main: Callable[[], None]) -> None:
    """Run a client and exit: after an error with one line and code 1, after Ctrl-C or a closed output with the shell's
    codes for them.
    """
    if sys.stdout is None:
        sys.exit("error: the output is closed: leave it open, or send it to /dev/null")
    # An answer must not be lost because of a character that the output's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Exit with an exception, so that the terminal's cursor and echo are restored.
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
        # Otherwise Python's flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(
            NO_READER if isinstance(error, BrokenPipeError) else f"error: can't write the output: {error.strerror}"
        )
