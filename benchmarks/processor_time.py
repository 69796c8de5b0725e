"""Where the time of all cores goes, per token, with the bare pipeline and with our server.

The server's tokens/s as a share of the pipeline's is the first total divided by the second.
"""

import argparse
import statistics
import sys
from contextlib import ExitStack

import psutil

from benchmarks import models
from benchmarks.child import processor_seconds
from benchmarks.subjects import ALL_TOKENS, InProcess, ServedModel, clients, in_process, served
from benchmarks.table import table
from benchmarks.workload import Workload
from text_generation.serve.prompts import PromptEncoder

IDLE = "idle"
TOTAL = "all cores"


def measure(subject: ServedModel | InProcess, workload: Workload) -> dict[str, float]:
    """Run the workload and return milliseconds per token for each kind of process, for idle cores and in total."""
    processes = subject.processes()
    before = {kind: sum(map(processor_seconds, own)) for kind, own in processes.items()}
    run = subject.measure(workload)
    used = {kind: sum(map(processor_seconds, own)) - before[kind] for kind, own in processes.items()}
    total = psutil.cpu_count() * workload.tokens / run.tokens_per_s
    used |= {IDLE: total - sum(used.values()), TOTAL: total}
    return {kind: 1000 * seconds / workload.tokens for kind, seconds in used.items()}


def main() -> None:
    """Measure, interleaved, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", choices=["INT8", "INT4"], default="INT8", help="of SmolLM2 (%(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="(%(default)s)")
    arguments = parser.parse_args()
    model = models.smollm2(arguments.precision)
    workload = Workload(arguments.clients, 1, model.new_tokens)
    pipeline = [sys.executable, "-m", "benchmarks.in_process", "pipeline", str(model.folder)]
    with ExitStack() as stack:
        client_processes = stack.enter_context(clients(arguments.clients))
        subjects = {
            "bare pipeline": stack.enter_context(in_process(pipeline, PromptEncoder.load(model.folder))),
            "server": stack.enter_context(
                served("genai", "stream", model.folder, model.new_tokens, client_processes, **ALL_TOKENS)
            ),
        }
        for subject in subjects.values():
            subject.measure(workload)
        repeats = [
            {name: measure(subject, workload) for name, subject in subjects.items()} for _ in range(arguments.repeats)
        ]
    kinds = list(repeats[0]["server"])
    rows = [
        [kind, *(f"{statistics.median(repeat[name].get(kind, 0) for repeat in repeats):.2f} ms" for name in subjects)]
        for kind in kinds
    ]
    print(table(("per token", *subjects), rows))
    share = statistics.median(repeat["bare pipeline"][TOTAL] / repeat["server"][TOTAL] for repeat in repeats)
    print(f"The server reaches {share:.2f} of the bare pipeline's tokens/s.")


if __name__ == "__main__":
    main()
