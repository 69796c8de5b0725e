"""The real model, prepared once per machine by the two commands and shared by all tests."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from ovms_local.testing import RunningServer, serve
from tests.support import ROOT, SMALL_MODEL
from tests.support.cores import worker_core
from tests.support.ov_config import ov_config
from text_generation.imports import quick_imports, sleep_while_waiting

# Commands that a shell starts in the background ignore Ctrl-C, and so would the tests' processes that must receive it.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["OV_CONFIG"] = ov_config()
sleep_while_waiting()  # in all processes of the tests, which share the cores

MODEL = "smollm2-135m-instruct"
# Audit events for starting a process. subprocess, which has its own, does not always use those of os.
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"}
# The files that determine the content of a model folder.
CODE = (
    "model_folder.py",
    "prepare/assembly.py",
    "prepare/export.py",
    "prepare/compression.py",
    "prepare/gguf_tokenizer.py",
    "prepare/models.py",
    "prepare/tokenizer.py",
    "prepare/data/calibration.json",
)
PACKAGES = ("openvino", "openvino-tokenizers", "optimum-intel", "transformers", "torch", "nncf")
WEEK = 7 * 24 * 3600
# The files that take longest, which start first so that all workers end together. The first one prepares the model.
LONGEST = (
    "tests/test_compress_model.py",
    "tests/test_download_model.py",
    "tests/test_servable_chat.py",
    "tests/test_architectures.py",
    "tests/stress/test_long_run.py",
    "tests/text_generation/serve/test_chat.py",
    "tests/stress/test_memory.py",
    "tests/stress/test_shutdown.py",
    "tests/test_client_unary.py",
)
# The files that ask the servers started below: in one worker, these start once.
ASKING_THE_SAME_SERVERS = {
    "tests/stress/test_bad_prompts.py",
    "tests/test_client_chat.py",
    "tests/test_client_stream.py",
    "tests/test_client_unary.py",
    "tests/test_servable_stream.py",
    "tests/test_servable_unary.py",
}


quick_test: str | None = None  # the running test, if it is not marked `slow`


def _refuse_processes(event: str, arguments: tuple) -> None:
    if quick_test is not None and event in STARTS:
        raise AssertionError(f"{quick_test} is not marked slow, but starts a process: {event} {arguments}")


sys.addaudithook(_refuse_processes)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect in half the time, as the tests import almost everything."""
    with quick_imports():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {ROOT / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


class Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "servers" if file in ASKING_THE_SAME_SERVERS else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """With --dist loadfile, give those of the files above to the same worker."""
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Ensure that tests here that are not marked slow start no process, and so do not prepare the real model."""
    global quick_test
    here = item.path.is_relative_to(Path(__file__).parent)  # an example's test has no marker of ours
    quick_test = item.nodeid if here and not item.get_closest_marker("slow") else None
    try:
        return (yield)
    finally:
        quick_test = None


@pytest.fixture(scope="module")
def one_core() -> Iterator[None]:
    """Keep a module's processes on one core."""
    with worker_core():
        yield


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """The folder of this machine's real model, as made by this version of the code and packages."""
    key = hashlib.sha256()
    for name in CODE:
        key.update((ROOT / "text_generation" / name).read_bytes())
    key.update(" ".join(version(package) for package in PACKAGES).encode())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ovms-llm-demo"
    cache = caches / key.hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    os.utime(cache)
    for other in caches.glob("[0-9a-f]" * 16):
        if time.time() - other.stat().st_mtime > WEEK:
            shutil.rmtree(other, ignore_errors=True)
    return cache


def prepared(place: Path, model: str, script: str, *options: str, suffix: str = "") -> Path:
    """Return the folder of a model with this suffix, made by a script in `place` if it does not exist."""
    folder = place / f"{model}{suffix}"
    with FileLock(place / f"{model}.lock"):
        if not folder.exists():
            arguments = ["--model", model, "--output-dir", str(place), *options]
            subprocess.run([sys.executable, str(ROOT / script), *arguments], check=True)
    return folder


@pytest.fixture(scope="session")
def fp32_model(model_cache: Path) -> Path:
    """SmolLM2-135M-Instruct as made by download_model.py."""
    return prepared(model_cache, MODEL, "download_model.py")


@pytest.fixture(scope="session")
def int8_model(model_cache: Path, fp32_model: Path) -> Path:  # noqa: ARG001
    """SmolLM2-135M-Instruct with its weights in 8 bits."""
    return prepared(model_cache, MODEL, "compress_model.py", "--precision", "INT8", suffix="_INT8_compressed_weights")


@pytest.fixture(scope="session")
def int4_model(model_cache: Path, fp32_model: Path) -> Path:  # noqa: ARG001
    """SmolLM2-135M-Instruct with its weights in 4 bits."""
    return prepared(model_cache, MODEL, "compress_model.py", "--precision", "INT4", suffix="_INT4_compressed_weights")


SERVED_WITH = {"SEED": "1", "MAX_NEW_TOKENS": "32"}


@pytest.fixture(scope="session")
def unary_server(int8_model: Path) -> Iterator[RunningServer]:
    """The unary servable with the real model; seeded, so that the same request gets the same answer."""
    with serve(ROOT / "servable_unary", env=SERVED_WITH | {"MODEL_PATH": str(int8_model)}) as server:
        yield server


@pytest.fixture(scope="session")
def stream_server(int8_model: Path) -> Iterator[RunningServer]:
    """The streaming servable, also seeded."""
    with serve(ROOT / "servable_stream", env=SERVED_WITH | {"MODEL_PATH": str(int8_model)}) as server:
        yield server


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all of pytest's workers share in this run."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def small_checkpoint(run_folder: Path) -> Path:
    """A checkpoint folder with a Llama of random 16-bit weights, its own tokenizer, and no chat template."""
    folder = run_folder / "checkpoint"
    with FileLock(run_folder / "checkpoint.lock"):
        if not folder.exists():
            write_small_checkpoint(folder)
    return folder


def write_small_checkpoint(folder: Path) -> None:
    """Write the checkpoint of `small_checkpoint`, always the same."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["the capital of the country is the largest city of the country"], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="100KB")


@pytest.fixture(scope="session")
def small_model(small_checkpoint: Path, run_folder: Path) -> Path:
    """The model folder made by download_model.py from the small checkpoint, in FP32."""
    return prepared(run_folder, SMALL_MODEL, "download_model.py", "--source", str(small_checkpoint))
