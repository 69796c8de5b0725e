"""Plots results: throughput and time to first token over the number of clients, one column per model."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # writing a file needs no display
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, ScalarFormatter

from benchmarks.results import Results, Row

# Servers are drawn as lines, subjects without a server as single points.
STYLES = {
    "server, genai": {"color": "tab:blue", "marker": "o"},
    "server, optimum": {"color": "tab:orange", "marker": "o"},
    "genai pipeline alone": {"color": "tab:cyan", "marker": "D", "linestyle": ""},
    "generate(), a thread per request": {"color": "tab:red", "marker": "X", "linestyle": ""},
    "llama-server": {"color": "tab:green", "marker": "s"},
}


def draw(results: Results, path: Path) -> None:
    """Write the plot as PNG."""
    models = list(dict.fromkeys(row.model for row in results.rows))
    figure, axes = plt.subplots(2, len(models), figsize=(5 * len(models), 8), squeeze=False, layout="constrained")
    for column, model in enumerate(models):
        throughput, first_token = axes[:, column]
        for subject, style in STYLES.items():
            rows = [row for row in results.rows if row.model == model and row.subject == subject]
            if rows:
                _throughput(throughput, rows, style)
                _first_token(first_token, rows, style)
        throughput.set(title=model, ylabel="tokens/s, all clients together", ylim=(0, None))
        first_token.set(ylabel="time to first token, ms (median)", yscale="log")
        first_token.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        first_token.yaxis.set_major_formatter(ScalarFormatter())
        for axis in (throughput, first_token):
            axis.set(xlabel="clients at once", xscale="log")
            axis.set_xticks(sorted({row.workload.clients for row in results.rows}))
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    figure.legend(*axes[0, -1].get_legend_handles_labels(), loc="outside lower center", ncols=len(STYLES))
    machine = results.machine
    cpu = f"{machine['cpu']} ({machine['instructions']}), {machine['cores']} cores"
    figure.suptitle(f"{cpu}; medians, bars from lowest to highest repeat")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _throughput(axis: Axes, rows: list[Row], style: dict) -> None:
    spreads = [row.tokens_per_s for row in rows]
    bars = [
        [spread.median - spread.low for spread in spreads],
        [spread.high - spread.median for spread in spreads],
    ]
    axis.errorbar(
        [row.workload.clients for row in rows],
        [spread.median for spread in spreads],
        yerr=bars,
        label=rows[0].subject,
        capsize=3,
        **style,
    )


def _first_token(axis: Axes, rows: list[Row], style: dict) -> None:
    axis.plot([row.workload.clients for row in rows], [row.first_token_ms for row in rows], **style)
