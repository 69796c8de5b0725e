"""Formats results as Markdown tables, for the terminal and for README files."""

from collections.abc import Iterable, Sequence

from benchmarks.results import Goal, Results, Row

ROW_HEADER = (
    "subject",
    "clients",
    "tokens/s",
    "(low to high)",
    "first token ms",
    "p99",
    "between ms",
    "p99",
    "peak MB",
    "of limit",
)
GOAL_HEADER = ("goal", "model", "wanted", "measured", "(low to high)", "reached")


def render(results: Results) -> str:
    """Format a table of measurements per model, and one of the goals."""
    parts = []
    for model in dict.fromkeys(row.model for row in results.rows):
        bandwidth, weights = results.bandwidth_gb_s[model], results.weight_mb_per_token[model]
        rows = [row for row in results.rows if row.model == model]
        new_tokens = rows[0].workload.new_tokens
        parts.append(
            f"**{model}**, {new_tokens} tokens per request; each token reads {weights:.0f} MB of weights at "
            f"{bandwidth.median:.1f} GB/s, so one request at a time can reach {1000 * bandwidth.median / weights:.0f} "
            "tokens/s\n"
        )
        parts.append(table(ROW_HEADER, map(_row_cells, rows)))
    parts.append(table(GOAL_HEADER, map(_goal_cells, results.goals)))
    return "\n".join(parts)


def _row_cells(row: Row) -> Sequence[str]:
    return (
        row.subject,
        str(row.workload.clients),
        f"{row.tokens_per_s.median:.1f}",
        f"{row.tokens_per_s.low:.1f} to {row.tokens_per_s.high:.1f}",
        f"{row.first_token_ms:.0f}",
        f"{row.first_token_p99_ms:.0f}",
        f"{row.between_ms:.1f}",
        f"{row.between_p99_ms:.1f}",
        f"{row.peak_bytes / 1e6:.0f}",
        "" if row.limit_share is None else f"{row.limit_share:.0%}",
    )


def _goal_cells(goal: Goal) -> Sequence[str]:
    digits = 1 if goal.unit else 2
    values = [f"{value:.{digits}f}" for value in (goal.measured.median, goal.measured.low, goal.measured.high)]
    return (
        goal.name,
        goal.model,
        f"{'at most' if goal.at_most else 'at least'} {goal.target:g}{goal.unit}",
        values[0] + goal.unit,
        f"{values[1]} to {values[2]}",
        "yes" if goal.reached else "no",
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table whose columns are also aligned in the source."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text) + "\n"
