"""Answers that grow: on a terminal (rich's), and where the output goes elsewhere."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from math import ceil
from typing import ClassVar, Self

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, JustifyMethod, RenderResult
from rich.control import Control
from rich.live import Live
from rich.markdown import Markdown, TableDataElement
from rich.segment import ControlType, Segment
from rich.text import Text

from clients.common import harmless, print_blocks, shown

with suppress(ImportError):  # Windows, whose console does not show what is typed meanwhile
    import termios

FRAMES_PER_SECOND = 12
WAITING = Text("…", style="dim")


class GrowingTexts:
    """Texts that are not shown."""

    def show(self, texts: Sequence[str]) -> None:
        """Show these texts from now on: each is what it was, or longer."""


def growing_texts(titles: Sequence[str] = ("",), *, hidden: bool = False) -> AbstractContextManager[GrowingTexts]:
    """Where the texts of an answer are shown while they come, each under its title; `hidden` shows none."""
    if hidden:
        return nullcontext(GrowingTexts())
    terminal = console()
    return _live_texts(terminal, titles) if terminal.is_interactive else PlainTexts(titles)


class PlainTexts(GrowingTexts):
    """One text, printed as it comes; or several, printed at the end."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._titles = titles
        self._texts: Sequence[str] = [""] * len(titles)

    def show(self, texts: Sequence[str]) -> None:
        """Print what is new, where there is one text."""
        if len(texts) == 1:
            print(shown(texts[0][len(self._texts[0]) :]), end="", flush=True)
        self._texts = texts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Complete what is printed, also where the answer broke off: the error stands on a line of its own."""
        if len(self._texts) > 1:
            print_blocks(self._titles, self._texts)
        elif self._texts[0] or not failed:
            print(flush=True)


class LiveTexts(GrowingTexts, Live):
    """Texts on a terminal, each under its title: their end while they grow, all of them once complete."""

    def __init__(self, console: Console, titles: Sequence[str]) -> None:
        self._titles = titles
        self._texts: Sequence[str] = [""] * len(titles)
        self._tail = _Tail()
        super().__init__(
            console=console,
            get_renderable=self._frame,
            refresh_per_second=FRAMES_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def show(self, texts: Sequence[str]) -> None:
        """Show these texts from the next frame on."""
        self._texts = texts

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Rich's hook: what makes a frame. It goes up by the last frame's lines, and here by what a window that was
        made narrower has wrapped of them.
        """
        return [self._tail.wrapped_rows(self.console.width), *super().process_renderables(renderables)]

    def _frame(self) -> ConsoleRenderable:
        if not self.is_started:
            return self._sections(_Markdown) if any(self._texts) else Group()
        self._tail.renderable = self._sections(Text) if any(self._texts) else WAITING
        return self._tail

    def _sections(self, kind: Callable[[str], ConsoleRenderable]) -> Group:
        parts: list[ConsoleRenderable] = []
        for title, text in zip(self._titles, self._texts, strict=True):
            parts += [Text(harmless(title)), kind(harmless(text)), Text()] if title else [kind(harmless(text))]
        return Group(*parts)


class _Tail:
    """The last lines of a renderable, as many as the screen has room for."""

    def __init__(self) -> None:
        self.renderable: ConsoleRenderable = Group()
        self._lengths: list[int] = []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(options.size.height - 1, 1)
        lines = console.render_lines(self.renderable, options, pad=False)[-room:]
        self._lengths = [Segment.get_line_length(line) for line in lines]
        for line in lines:
            yield from line
            yield Segment.line()

    def wrapped_rows(self, width: int) -> Control:
        """Clear the rows that the lines shown last take up beyond one each, now that the window is this wide."""
        rows = sum(ceil(length / width) - 1 for length in self._lengths if length)
        return Control(*((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)) * rows)


class _Cell(TableDataElement):
    def __init__(self, justify: JustifyMethod) -> None:
        super().__init__(justify)
        self.content.overflow = "fold"  # where a narrow window would cut words off


class _Markdown(Markdown):
    """Markdown as models write it: a line ends where it ends, and tags such as <think>, images and sources are text."""

    elements: ClassVar[dict] = Markdown.elements | {"td_open": _Cell, "th_open": _Cell}

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark", justify="default", hyperlinks=False)
        parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
        self.parsed = parser.disable(["image", "reference"]).parse(text)
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"


@contextmanager
def _live_texts(terminal: Console, titles: Sequence[str]) -> Iterator[LiveTexts]:
    with _echo_off(), LiveTexts(terminal, titles) as texts:
        yield texts


def console() -> Console:
    """The output, on which text is text and no markup; a terminal is what the system says is one."""
    # An exported COLUMNS or LINES is the size of some other window, or of this one before it was resized.
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return Console(
        markup=False,
        emoji=False,
        highlight=False,
        force_terminal=sys.stdout.isatty(),
        _environ=environment,
    )


@contextmanager
def _echo_off() -> Iterator[None]:
    """What is typed meanwhile does not get between the lines of an answer; it is there at the next prompt."""
    if not sys.stdin or not sys.stdin.isatty() or "termios" not in globals():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
