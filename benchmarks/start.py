"""Compares how long a server with ENGINE=genai takes to be ready with a bare GenAI script's time to its first token."""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from ovms_local.testing import serve

ROOT = Path(__file__).parent.parent
BARE = """
import sys
import openvino_genai
pipeline = openvino_genai.LLMPipeline(sys.argv[1], "CPU", {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"})
print(pipeline.generate("Hello", max_new_tokens=1))
"""


def bare_seconds(folder: Path) -> float:
    """Measure from the start of a script to its first token."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", BARE, folder], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def server_seconds(folder: Path) -> float:
    """Measure from the start of a server to the line in its log that says it is ready."""
    started = time.perf_counter()
    with serve(ROOT / "servable_chat", env={"ENGINE": "genai", "MODEL_PATH": str(folder)}):
        return time.perf_counter() - started


def main() -> None:
    """Measure in turn, and print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the model folder")
    parser.add_argument("--repeats", type=int, default=5, help="(%(default)s)")
    arguments = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    pairs = [(bare_seconds(arguments.folder), server_seconds(arguments.folder)) for _ in range(arguments.repeats + 1)]
    bare, server = map(statistics.median, zip(*pairs[1:], strict=True))
    ratio = statistics.median(one / other for other, one in pairs[1:])
    print(f"bare script {bare:.2f} s to its first token, server ready after {server:.2f} s: {ratio:.2f} times")


if __name__ == "__main__":
    main()
