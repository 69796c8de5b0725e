"""The real model, prepared once per machine by the two commands and shared by all tests."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent
MODEL = "smollm2-135m-instruct"
# What decides the bytes of a model folder.
CODE = ("export.py", "compression.py", "gguf_tokenizer.py", "models.py", "model_folder.py", "data/calibration.json")
PACKAGES = ("openvino", "openvino-tokenizers", "optimum-intel", "transformers", "torch", "nncf")
WEEK = 7 * 24 * 3600


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """The folder in which this machine keeps the real model, as this code and these packages make it."""
    key = hashlib.sha256()
    for name in CODE:
        key.update((ROOT / "text_generation" / name).read_bytes())
    key.update(" ".join(version(package) for package in PACKAGES).encode())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ovms-llm-demo"
    cache = caches / key.hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    os.utime(cache)
    for other in caches.iterdir():
        if time.time() - other.stat().st_mtime > WEEK:
            shutil.rmtree(other, ignore_errors=True)
    return cache


def prepared(cache: Path, suffix: str, *command: str) -> Path:
    """The folder of the real model with this suffix, made with `command` if it is not there."""
    folder = cache / f"{MODEL}{suffix}"
    with FileLock(cache / "lock"):
        if not folder.exists():
            script, *options = command
            arguments = ["--model", MODEL, "--output-dir", str(cache), *options]
            subprocess.run([sys.executable, str(ROOT / script), *arguments], check=True)
    return folder


@pytest.fixture(scope="session")
def fp32_model(model_cache: Path) -> Path:
    """SmolLM2-135M-Instruct as download_model.py makes it."""
    return prepared(model_cache, "", "download_model.py")


@pytest.fixture(scope="session")
def int8_model(model_cache: Path, fp32_model: Path) -> Path:  # noqa: ARG001
    """SmolLM2-135M-Instruct with its weights in 8 bits."""
    return prepared(model_cache, "_INT8_compressed_weights", "compress_model.py", "--precision", "INT8")


@pytest.fixture(scope="session")
def int4_model(model_cache: Path, fp32_model: Path) -> Path:  # noqa: ARG001
    """SmolLM2-135M-Instruct with its weights in 4 bits."""
    return prepared(model_cache, "_INT4_compressed_weights", "compress_model.py", "--precision", "INT4")
