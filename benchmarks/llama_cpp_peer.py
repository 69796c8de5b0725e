"""llama.cpp as a peer: llama-cpp-python, built into an environment of its own, on the same weights at 4 bits.

Run as a program by that environment's Python, it speaks the protocol of benchmarks/in_process.py; so it imports nothing
but llama_cpp and the standard library.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

REQUIREMENT = "llama-cpp-python==0.3.36"


def python(cache: Path) -> Path:
    """The Python that has llama-cpp-python, compiled here (cmake, a C++ compiler) if it is not there yet."""
    environment = cache / REQUIREMENT
    complete = environment / "complete"
    if not complete.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        pip = [str(environment / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, REQUIREMENT], check=True, stdout=sys.stderr)
        complete.touch()
    return environment / "bin" / "python"


def main() -> None:
    from llama_cpp import Llama

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model = Llama(sys.argv[1], n_ctx=2048, n_threads=os.cpu_count(), verbose=False)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        (client,) = command["prompts"]
        answers = [_ask(model, prompt, command["new_tokens"]) for prompt in client]
        print(json.dumps({"answers": answers}), file=replies, flush=True)


def _ask(model, prompt: list[int], new_tokens: int) -> dict:
    """One request's timeline, as benchmarks.workload.Answer has it; nothing is kept from the request before."""
    model.reset()
    sent, arrivals = time.monotonic(), []
    for _ in model.generate(prompt, top_k=50, top_p=1.0, min_p=0.0, temp=1.0, repeat_penalty=1.1):
        arrivals.append(time.monotonic())
        if len(arrivals) == new_tokens:
            return {"sent": sent, "arrivals": arrivals, "ended": arrivals[-1]}


if __name__ == "__main__":
    main()
