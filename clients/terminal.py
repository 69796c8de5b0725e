"""Shows answers while they grow, on a terminal (with rich) or another output."""

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

from clients.common import for_stdout, print_blocks, without_controls

with suppress(ImportError):  # Windows, whose console does not echo typing during an answer
    import termios

FRAMES_PER_SECOND = 12
WAITING = Text("…", style="dim")


class GrowingTexts:
    """Texts that are not shown, and the base class of those that are."""

    def show(self, texts: Sequence[str]) -> None:
        """Show these texts, each of which is the same as before or longer."""


def growing_texts(titles: Sequence[str] = ("",), *, visible: bool = True) -> AbstractContextManager[GrowingTexts]:
    """Return the display for an answer's growing texts, each under its title; none is shown unless `visible`."""
    if not visible:
        return nullcontext(GrowingTexts())
    terminal = console()
    return _live_texts(terminal, titles) if terminal.is_interactive else PlainTexts(titles)


class PlainTexts(GrowingTexts):
    """Prints a single text as it grows, or several texts at the end."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._titles = titles
        self._texts: Sequence[str] = [""] * len(titles)

    def show(self, texts: Sequence[str]) -> None:
        """Print the new part, if there is only one text."""
        if len(texts) == 1:
            print(for_stdout(texts[0][len(self._texts[0]) :]), end="", flush=True)
        self._texts = texts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Finish the output, even of an answer that was cut off, so that an error is on its own line."""
        if len(self._texts) > 1:
            print_blocks(self._titles, self._texts)
        elif self._texts[0] or not failed:
            print(flush=True)


class LiveTexts(GrowingTexts, Live):
    """Texts on a terminal, each under its title: only their last lines while they grow, all of them once complete."""

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
        """Show these texts in the next frame."""
        self._texts = texts

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Rich's hook that builds a frame. Rich moves up by the last frame's lines; this adds the rows into which
        they have wrapped if the window was made narrower.
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
            section = kind(without_controls(text))
            parts += [Text(without_controls(title)), section, Text()] if title else [section]
        return Group(*parts)


class _Tail:
    """The last lines of a renderable that fit on the screen."""

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
        """Clear the extra rows into which the last lines have wrapped, now that the window has this width."""
        rows = sum(ceil(length / width) - 1 for length in self._lengths if length)
        return Control(*((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)) * rows)


class _Cell(TableDataElement):
    def __init__(self, justify: JustifyMethod) -> None:
        super().__init__(justify)
        self.content.overflow = "fold"  # a narrow window would otherwise cut off words


class _Markdown(Markdown):
    """Markdown as models write it: line breaks are kept, and tags such as <think>, images and references stay text."""

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
    """Return a console for standard output without markup, which is a terminal only if the system says so."""
    # Exported COLUMNS and LINES may be the size of another window, or of this one before it was resized.
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
    """Do not echo what is typed during an answer, where it would mix with the text; the next prompt shows it."""
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
