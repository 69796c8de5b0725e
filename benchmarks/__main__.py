"""Compare servers, engines and a peer; print a table, and write it with a JSON file and a plot."""

import argparse
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import openvino as ov
from tqdm import tqdm

from benchmarks import llama_server, models, plot, prefixes, table
from benchmarks.child import Child
from benchmarks.memory_bandwidth import Reader, weight_bytes_per_token
from benchmarks.models import CACHE, BenchmarkModel
from benchmarks.results import RESULTS, Goal, Results, Row, Spread, machine, packages
from benchmarks.subjects import ALL_TOKENS, InProcess, ServedModel, Subject, clients, in_process, question_ids, served
from benchmarks.workload import QUESTIONS, Run, Workload
from text_generation.serve.prompts import PromptEncoder

CLIENTS = (1, 2, 4, 8, 16, 32)
QUICK_CLIENTS = (1, 8, 32)
ALONE_AND_MANY = (1, 8)
ALONE = 4  # requests in sequence with one client, so that a run is long enough to measure
LONG_PROMPT = "word " * 1950  # with the chat template, about 2,000 tokens

SERVER = "server, {}"
ENGINE = "engine {}, no server"
PIPELINE = "genai pipeline alone"
GENERATE = "generate(), a thread per request"
LLAMA_SERVER = "llama-server"

# The runs of all repeats in order, by subject and number of clients.
Runs = Mapping[tuple[str, int], list[Run]]


def main() -> None:
    arguments = parse_arguments()
    started = time.monotonic()
    results = Results(sys.argv[1:], datetime.now(UTC).isoformat(timespec="minutes"), machine(), packages())
    counts = QUICK_CLIENTS if arguments.quick else CLIENTS
    repeats = arguments.repeats or (2 if arguments.quick else 5)
    wanted = [models.smollm2("INT8")]
    if not arguments.quick:
        wanted += [models.tiny_llama(), models.smollm2("INT4")]
    peer = llama_server.binary(CACHE) if arguments.peer else None
    reader = Reader()
    name = "quick" if arguments.quick else "full"
    arguments.output.mkdir(parents=True, exist_ok=True)
    with clients(max(counts)) as client_processes:
        for model in wanted:
            # Requests take turns on Optimum's engine, so more clients make runs longer without more throughput.
            served_counts = {"genai": counts, "optimum": [count for count in counts if count <= 8]}
            measure_model(model, served_counts, repeats, client_processes, reader, peer, results)
            if model is wanted[0]:
                measure_side_questions(model, repeats, client_processes, results)
                results.goals += prefixes.measure(model, repeats, client_processes)
            results.seconds = time.monotonic() - started
            # Save after each model, so that an interrupted run leaves what it has measured.
            results.save(arguments.output / f"{name}.json")
            (arguments.output / f"{name}.md").write_text(table.render(results))
    plot.draw(results, arguments.output / f"{name}.png")
    print(table.render(results))
    print(f"{results.seconds / 60:.1f} minutes; written to {arguments.output}/{name}.json, .png and .md")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one model, fewer clients, two repeats")
    parser.add_argument("--repeats", type=int, help="repeats of each measurement (default: 5, with --quick 2)")
    parser.add_argument("--peer", choices=["llama.cpp"], help="also measure this; built if necessary")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    return parser.parse_args()


def measure_model(
    model: BenchmarkModel,
    served_counts: Mapping[str, Sequence[int]],
    repeats: int,
    client_processes: Sequence[Child],
    reader: Reader,
    peer: Path | None,
    results: Results,
) -> None:
    """Measure all subjects and numbers of clients, interleaved: the outermost loop is over the repeats.

    `served_counts` are the numbers of clients for the server, by engine.
    """
    runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    bandwidths = []
    with running_subjects(model, served_counts, client_processes, peer) as subjects:
        for subject, subject_counts in tqdm(subjects.values(), f"{model.title}: warm-up", disable=None):
            for count in ALONE_AND_MANY:
                if count in subject_counts:
                    subject.measure(Workload(count, 1, model.new_tokens))
        for repeat in tqdm(range(repeats), f"{model.title}: repeats", disable=None):
            bandwidths.append(reader.bytes_per_s())
            for count in served_counts["genai"]:
                # Each repeat starts with a different subject, so that none always follows the same one.
                names = [name for name, (_, subject_counts) in subjects.items() if count in subject_counts]
                first = repeat % len(names)
                for name in names[first:] + names[:first]:
                    workload = Workload(count, ALONE if count == 1 else 1, model.new_tokens)
                    runs[name, count].append(subjects[name][0].measure(workload))

    weights = weight_bytes_per_token(ov.Core().read_model(model.folder / "openvino_model.xml"))
    results.bandwidth_gb_s[model.title] = Spread.of([bandwidth / 1e9 for bandwidth in bandwidths])
    results.weight_mb_per_token[model.title] = weights / 1e6
    limit = statistics.median(bandwidths) / weights
    results.rows += [Row.of(model.title, name, own, limit) for (name, _), own in runs.items()]
    results.goals += goals(model, runs)


@contextmanager
def running_subjects(
    model: BenchmarkModel,
    served_counts: Mapping[str, Sequence[int]],
    client_processes: Sequence[Child],
    peer: Path | None,
) -> Iterator[dict[str, tuple[Subject, Sequence[int]]]]:
    """Start all subjects; yield each by name, with the numbers of clients for its measurements."""
    encoder = PromptEncoder.load(model.folder)
    subjects: dict[str, tuple[Subject, Sequence[int]]] = {}
    with ExitStack() as stack:

        def child(*arguments: str) -> InProcess:
            command = (sys.executable, "-m", "benchmarks.in_process", *arguments, str(model.folder))
            return stack.enter_context(in_process(command, encoder))

        for engine, counts in served_counts.items():
            server = served(engine, "stream", model.folder, model.new_tokens, client_processes, **ALL_TOKENS)
            subjects[SERVER.format(engine)] = stack.enter_context(server), counts
        subjects[ENGINE.format("genai")] = child("genai"), ALONE_AND_MANY
        subjects[ENGINE.format("optimum")] = child("optimum"), (1,)
        subjects[PIPELINE] = child("pipeline"), QUICK_CLIENTS
        subjects[GENERATE] = child("generate"), ALONE_AND_MANY
        if peer is not None and model.folder.name.startswith(models.SMOLLM2):
            llama = llama_server.served(peer, models.smollm2_gguf(), client_processes, encoder)
            subjects[LLAMA_SERVER] = stack.enter_context(llama), QUICK_CLIENTS
        yield subjects


def goals(model: BenchmarkModel, runs: Runs) -> list[Goal]:
    """Return the goals, as ratios or differences between runs of the same repeat."""
    small = model.folder.name.startswith(models.SMOLLM2)

    def ratio(name: str, target: float, above: tuple[str, int], below: tuple[str, int]) -> Goal:
        pairs = zip(runs[above], runs[below], strict=True)
        measured = Spread.of([one.tokens_per_s / other.tokens_per_s for one, other in pairs])
        return Goal(name, model.title, target, False, "", measured)

    def first_token_ms(run: Run) -> float:
        return 1000 * statistics.median(answer.first_token_s for answer in run.answers)

    found = []
    for engine in ("genai", "optimum"):
        through, direct = (SERVER.format(engine), 1), (ENGINE.format(engine), 1)
        found.append(ratio(f"{engine}: server / in process, 1 client", 0.9 if small else 0.95, through, direct))
        pairs = zip(runs[through], runs[direct], strict=True)
        more = Spread.of([first_token_ms(one) - first_token_ms(other) for one, other in pairs])
        found.append(Goal(f"{engine}: first token, server less in process", model.title, 10, True, " ms", more))
    genai = SERVER.format("genai")
    found.append(ratio("optimum: in process / generate()", 1.1, (ENGINE.format("optimum"), 1), (GENERATE, 1)))
    share = 0.9 if not small else 0.92 if model.folder.match("*_INT4_*") else 0.95
    found.append(ratio("genai: server / bare pipeline, 8 clients", share, (genai, 8), (PIPELINE, 8)))
    found.append(ratio("genai server / thread per request, 8 clients", 3.5, (genai, 8), (GENERATE, 8)))
    found.append(ratio("genai server: 32 clients / 8 clients", 0.95, (genai, 32), (genai, 8)))
    if (LLAMA_SERVER, 1) in runs:
        for count, target in {8: 1.5, 32: 1.9}.items():
            name = f"genai server / llama-server, {count} clients"
            found.append(ratio(name, target, (genai, count), (LLAMA_SERVER, count)))
        alone = zip(runs[genai, 1], runs[LLAMA_SERVER, 1], runs[PIPELINE, 1], strict=True)
        measured = Spread.of(
            [own.tokens_per_s / min(llama.tokens_per_s, bare.tokens_per_s) for own, llama, bare in alone]
        )
        name = "genai server / the slower of llama-server and bare pipeline, 1 client"
        found.append(Goal(name, model.title, 1, False, "", measured))
    return found


def measure_side_questions(
    model: BenchmarkModel, repeats: int, client_processes: Sequence[Child], results: Results
) -> None:
    """Measure the first token of a long prompt, and several prompts in one unary call versus one call each."""
    encoder = PromptEncoder.load(model.folder)
    module = (sys.executable, "-m", "benchmarks.in_process")
    one_token = Workload(1, 1, 1)
    with (
        in_process((*module, "optimum", str(model.folder)), encoder) as optimum,
        in_process((*module, "generate", str(model.folder)), encoder) as generate,
    ):

        def first_token_s(subject: InProcess) -> float:
            return subject.ask(one_token, [[LONG_PROMPT]]).answers[0].first_token_s

        measured = paired(repeats, lambda: first_token_s(generate), lambda: first_token_s(optimum))
        length = len(question_ids(encoder, LONG_PROMPT))
        name = f"optimum: first token of {length} tokens, sooner than generate()"
        results.goals.append(Goal(name, model.title, 2, False, "", measured))
    for engine in ("genai", "optimum"):
        with served(engine, "unary", model.folder, model.new_tokens, client_processes[:1], **ALL_TOKENS) as server:

            def seconds(server: ServedModel, requests: list[list[str]]) -> float:
                workload = Workload(1, len(QUESTIONS), model.new_tokens)
                answers = server.ask(workload, [requests]).answers
                return answers[-1].ended - answers[0].sent

            measured = paired(
                repeats,
                lambda: seconds(server, [[question] for question in QUESTIONS]),
                lambda: seconds(server, [QUESTIONS]),
            )
            name = f"{engine}: unary call with 8 prompts / 8 calls one after another"
            results.goals.append(Goal(name, model.title, 2.5, False, "", measured))


def paired(repeats: int, slow: Callable[[], float], fast: Callable[[], float]) -> Spread:
    """Measure in turn, after one warm-up, how many times as long `slow` takes as `fast`."""
    return Spread.of([slow() / fast() for _ in range(repeats + 1)][1:])


if __name__ == "__main__":
    # No progress bars and warnings from libraries, in all child processes.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    main()
