"""The report of the stress tests: what they did, how often, and what was lost."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Row:
    """One line of the report: an action, how often it was done, what was lost, and what was measured."""

    what: str
    done: int = 0
    lost: list[str] = field(default_factory=list)
    measured: str = ""


class Report:
    """The rows of a test run, in order."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    @contextmanager
    def row(self, what: str) -> Iterator[Row]:
        """Yield a row to fill in; at the end, the test fails if something was lost. A failed test has no row."""
        row = Row(what)
        self.rows.append(row)
        try:
            yield row
        except BaseException as error:
            row.lost.append(f"{type(error).__name__}: {error}".splitlines()[0][:200])
            raise
        assert not row.lost, row.lost[:10]

    def lines(self) -> list[str]:
        """Format the report as a table."""
        lines = [f"{'done':>7}  {'lost':>5}  what"]
        for row in self.rows:
            measured = f" ({row.measured})" if row.measured else ""
            lines.append(f"{row.done:>7,}  {len(row.lost):>5,}  {row.what}{measured}")
            lines += [f"{'':>16}{lost}" for lost in row.lost[:10]]
        return lines
