"""A program in a real terminal, provided by tmux: sends keys and reads screens."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import watch

needs_tmux = pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed (apt-get install tmux)")
OPTIONS = "set -g remain-on-exit on\nset -g remain-on-exit-format ''\nset -g history-limit 10000\nset -g status off\n"


class Terminal:
    """The terminal of one program."""

    def __init__(self, folder: Path, command: Sequence[str], columns: int, rows: int) -> None:
        self._socket = folder / "socket"
        self._output = folder / "output"
        self._code = folder / "code"
        (folder / "options").write_text(OPTIONS)
        size = ["-x", str(columns), "-y", str(rows)]
        # The program starts on command, so that no output is lost. tmux does not always know the exit code.
        script = f'trap : INT; read -r _; "$@"; echo $? >{folder}/new && mv {folder}/new {self._code}'
        program = ["sh", "-c", script, "sh", *command]
        self._tmux("-f", str(folder / "options"), "new-session", "-d", *size, *program)
        self._tmux("pipe-pane", f"cat >{self._output}")
        self.send("Enter")

    def send(self, *keys: str) -> None:
        """Press keys, with tmux's names: C-c, Up."""
        self._tmux("send-keys", *keys)

    def type(self, line: str) -> None:
        """Type a line and press Enter."""
        self._tmux("send-keys", "-l", line)
        self.send("Enter")

    def paste(self, text: str) -> None:
        """Paste text, bracketed if the program has enabled that."""
        self._tmux("set-buffer", text)
        self._tmux("paste-buffer", "-p")

    def resize(self, columns: int, rows: int) -> None:
        """Resize the window."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    @property
    def screen(self) -> str:
        """The content of the window."""
        return self._tmux("capture-pane", "-p")

    @property
    def scrolled(self) -> str:
        """The content of the window, including what has scrolled out of it."""
        return self._tmux("capture-pane", "-p", "-S", "-")

    @property
    def output(self) -> bytes:
        """All bytes that the program has written."""
        return self._output.read_bytes()

    def until(self, *texts: str, timeout_s: float = 20) -> None:
        """Wait until all of these have appeared on the terminal."""
        try:
            watch.until(lambda: all(text in self.scrolled for text in texts), timeout_s)
        except TimeoutError:
            raise AssertionError(f"{texts} not in:\n{self.scrolled}") from None

    def until_ended(self) -> int:
        """Wait for the program to end; return its exit code."""
        watch.until(self._code.exists)
        return int(self._code.read_text())

    def close(self) -> None:
        """End the program and the terminal."""
        self._tmux("kill-server")

    def _tmux(self, *arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "TMUX"} | {"LC_ALL": "C.UTF-8"}
        command = ["tmux", "-S", str(self._socket), *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@contextmanager
def terminal(command: Sequence[str], columns: int = 80, rows: int = 24) -> Iterator[Terminal]:
    """Run a program in its own terminal."""
    with TemporaryDirectory() as folder:  # short, since a socket's path may have at most 108 characters
        window = Terminal(Path(folder), command, columns, rows)
        try:
            yield window
        finally:
            window.close()
