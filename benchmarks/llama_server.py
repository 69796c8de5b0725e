"""llama.cpp's own server as a peer, built on this machine from the source in the package llama-cpp-python."""

import http.client
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.child import Child, peak_memory, reset_peak_memory
from benchmarks.subjects import check_counts, question_ids
from benchmarks.workload import Answer, Run, Workload
from ovms_local.testing import free_port
from text_generation.serve.prompts import PromptEncoder

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
SLOTS = 32
SLOT_TOKENS = 2048
_LOADING_S = 60
# The same sampling as our subjects, whose penalty covers all tokens; llama-server's defaults differ.
SAMPLING = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": 0.0,
    "repeat_penalty": 1.1,
    "repeat_last_n": SLOT_TOKENS,
}


def binary(cache: Path) -> Path:
    """Return the path of llama-server, compiling it (with cmake and a C++ compiler) if it does not exist."""
    built = cache / f"llama-server-{VERSION}"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache) as name:
            scratch = Path(name)
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PACKAGE]
            _run(*pip, "--dest", name, f"{PACKAGE}=={VERSION}")
            (archive,) = scratch.glob("*.tar.gz")
            with tarfile.open(archive) as source:
                source.extractall(scratch, filter="data")
            (source_folder,) = scratch.glob("*/vendor/llama.cpp")
            build = scratch / "build"
            left_out = [f"-DLLAMA_{part}=OFF" for part in ("BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_APP", "OPENSSL")]
            options = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF"]
            _run("cmake", "-S", str(source_folder), "-B", str(build), *options, *left_out)
            _run("cmake", "--build", str(build), "--target", "llama-server", "--parallel", str(os.cpu_count()))
            shutil.move(build / "bin" / "llama-server", built)
    return built


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


class LlamaServer:
    """A running llama-server, called over HTTP by the same client processes as our servers."""

    def __init__(self, url: str, pid: int, clients: Sequence[Child], encoder: PromptEncoder):
        self.url = url
        self._pid, self._clients, self._encoder = pid, clients, encoder
        for client in clients:
            client.send({"url": url, "kind": "completion", "requests": []})
        for client in clients:
            client.receive()

    def measure(self, workload: Workload) -> Run:
        """Run the workload's questions, as token ids of the same prompts."""
        reset_peak_memory(self._pid)
        asked = list(zip(self._clients, workload.questions(), strict=False))
        for client, questions in asked:
            bodies = [
                body(question_ids(self._encoder, question), workload.new_tokens, ignore_eos=True)
                for question in questions
            ]
            client.send({"url": self.url, "kind": "completion", "requests": bodies})
        replies = [client.receive() for client, _ in asked]
        check_counts(workload, replies)
        answers = [Answer(**answer) for reply in replies for answer in reply["answers"]]
        return Run(workload, answers, peak_memory(self._pid))


def body(prompt: list[int], new_tokens: int, *, ignore_eos: bool) -> dict[str, Any]:
    """Return a request. Prompts are not cached, as when our servers are measured."""
    end = {"n_predict": new_tokens, "ignore_eos": ignore_eos}
    return {"prompt": prompt, "stream": True, "cache_prompt": False} | SAMPLING | end


@contextmanager
def served(
    program: Path, model: Path, client_processes: Sequence[Child], encoder: PromptEncoder
) -> Iterator[LlamaServer]:
    """Run the server with a GGUF file, with one slot per simultaneous request and no prompt cache."""
    port = free_port()
    slots = ["--parallel", str(SLOTS), "--ctx-size", str(SLOTS * SLOT_TOKENS), "--cache-ram", "0"]
    command = [str(program), "--model", str(model), "--host", "127.0.0.1", "--port", str(port), *slots]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_healthy(port, process)
        yield LlamaServer(f"127.0.0.1:{port}", process.pid, client_processes, encoder)
    finally:
        process.terminate()
        process.wait()


def _wait_until_healthy(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + _LOADING_S
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"llama-server was not ready after {_LOADING_S} seconds")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_LOADING_S)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            pass  # not listening yet
        finally:
            connection.close()
        time.sleep(0.1)
    raise RuntimeError(f"llama-server ended with exit code {process.returncode}")
