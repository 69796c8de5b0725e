"""compress_model.py as run by users: as a process, with the real model and a small one."""

import contextlib
import hashlib
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.support import ROOT
from tests.support import SMALL_MODEL as NAME
from tests.support.checkpoints import write_checkpoint
from text_generation import model_folder

SCRIPT = ROOT / "compress_model.py"
KILLS = int(os.environ.get("KILLS", "2"))
SUFFIXES = {"FP16": "_FP16", "INT8": "_INT8_compressed_weights", "INT4": "_INT4_compressed_weights"}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_core")]


@pytest.fixture
def place(small_model: Path, tmp_path: Path) -> Path:
    """A folder to work in, with the small model in it."""
    shutil.copytree(small_model, tmp_path / NAME)
    return tmp_path


def compress(place: Path, *arguments: str, timeout: float = 250, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), "--model", NAME, *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=timeout, **options)


def assert_one_line_error(done: subprocess.CompletedProcess, *parts: str) -> None:
    assert done.returncode == 1, done
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in ("error: ", *parts):
        assert part in done.stderr


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def hashes(folder: Path) -> dict[str, str]:
    """Return a folder's content without the names of the nodes in the IR, which OpenVINO numbers in each process."""
    model_folder.check(folder)
    contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != model_folder.MODEL_INFO}
    contents["openvino_model.xml"] = b""
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def table(output: str) -> dict[str, list[str]]:
    """Return the rows of the table: folder -> size, unit, perplexity, ratio, seconds."""
    rows = output[output.index("Folder") :].split("\n\n")[0].splitlines()[1:]
    columns = [re.split(" {2,}", row, maxsplit=1) for row in rows]
    return {folder: values.split() for folder, values in columns}


@pytest.mark.timeout(900)  # a minute on an idle machine
def test_quality_of_the_real_model(fp32_model: Path, int8_model: Path, tmp_path: Path) -> None:
    name = fp32_model.name
    for folder in (fp32_model, int8_model):
        shutil.copytree(folder, tmp_path / folder.name, copy_function=os.link)
    command = [sys.executable, str(SCRIPT), "--model", name, "--precision", "INT8", "INT4", "--calibrate"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = table(done.stdout)
    assert list(rows) == [name, name + SUFFIXES["INT8"], name + SUFFIXES["INT4"]]
    assert float(rows[name][3]) == 1
    assert float(rows[name + SUFFIXES["INT8"]][3]) < 1.015
    assert float(rows[name + SUFFIXES["INT4"]][3]) < 1.15
    fp32, int8, int4 = (float(size) for size, *_ in rows.values())
    assert fp32 / 4.5 < int8 < fp32 / 3.5
    assert int4 < fp32 / 5
    for folder in tmp_path.iterdir():
        model_folder.check(folder)


def test_makes_what_is_missing(place: Path) -> None:
    (place / NAME / "subfolder").mkdir()
    done = compress(place, "--precision", "FP16")
    assert done.returncode == 0, done.stderr
    assert names(place) == [NAME, NAME + "_FP16"]
    assert "subfolder" not in names(place / (NAME + "_FP16"))
    first = hashes(place / (NAME + "_FP16"))

    done = compress(place, env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "nncf" in imported
    assert "torch._C" not in imported
    assert f"{NAME}_FP16 is kept" in done.stdout
    assert list(table(done.stdout)) == [NAME, *(NAME + suffix for suffix in SUFFIXES.values())]
    assert hashes(place / (NAME + "_FP16")) == first
    original = model_folder.check(place / NAME)
    for precision, suffix in SUFFIXES.items():
        info = model_folder.check(place / (NAME + suffix))
        assert (info.model, info.precision, info.source) == (NAME, precision, original.source)
        assert info.packages["nncf"]
    # The recipe for this name, with groups that fit the small model's width.
    ir = (place / (NAME + SUFFIXES["INT4"]) / "openvino_model.xml").read_text()
    assert re.search(r'<mode value="int4_sym" ?/>', ir)
    assert re.search(r'element_type="i4" shape="\d+, 1, 64"', ir)
    assert re.search(r'<ratio value="0.8" ?/>', ir)

    assert_one_line_error(compress(place), f"{NAME}_FP16 exists and is complete", "--force")
    assert names(place) == sorted([NAME, *(NAME + suffix for suffix in SUFFIXES.values())])


def test_no_model(tmp_path: Path) -> None:
    assert_one_line_error(compress(tmp_path), f"download_model.py --model {NAME}")
    assert names(tmp_path) == []


def test_truncated_model(place: Path) -> None:
    weights = place / NAME / "openvino_model.bin"
    os.truncate(weights, weights.stat().st_size - 1)
    assert_one_line_error(compress(place), "openvino_model.bin")
    assert names(place) == [NAME]


@pytest.mark.parametrize("record", [True, False])
def test_model_that_is_compressed_already(place: Path, record: bool) -> None:
    """The actual precision of the weights counts, with or without our record."""
    assert compress(place, "--precision", "INT4").returncode == 0
    shutil.rmtree(place / NAME)
    (place / (NAME + SUFFIXES["INT4"])).rename(place / NAME)
    path = place / NAME / model_folder.MODEL_INFO
    if record:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"precision": "FP32"}))
    else:
        path.unlink()
    for precision in ([], ["--precision", "INT8"]):
        assert_one_line_error(compress(place, *precision), "holds weights in INT4", "download_model.py")
    assert names(place) == [NAME]


def test_model_in_16_bits(place: Path) -> None:
    """Like a folder made by optimum-cli from a 16-bit checkpoint."""
    assert compress(place, "--precision", "FP16").returncode == 0
    shutil.rmtree(place / NAME)
    (place / (NAME + "_FP16")).rename(place / NAME)
    (place / NAME / model_folder.MODEL_INFO).unlink()
    assert_one_line_error(compress(place, "--precision", "FP16"), "holds weights in FP16")
    done = compress(place)
    assert done.returncode == 0, done.stderr
    assert names(place) == sorted([NAME, NAME + SUFFIXES["INT8"], NAME + SUFFIXES["INT4"]])
    assert "to FP16" in done.stdout
    for precision in ("INT8", "INT4"):
        assert model_folder.read_ir(place / (NAME + SUFFIXES[precision])).precision == precision


def test_damaged_model(place: Path) -> None:
    ir = place / NAME / "openvino_model.xml"
    content = ir.read_bytes()
    ir.write_bytes(content[:1000] + bytes(len(content) - 1000))
    assert_one_line_error(compress(place, "--precision", "FP16"), "openvino_model.xml is damaged")
    assert names(place) == [NAME]


def test_model_that_computes_no_numbers(place: Path) -> None:
    """The folder is created and measured, and then the command fails."""
    ir = (place / NAME / "openvino_model.xml").read_text()
    embedding = int(re.search(r'element_type="f32" shape="320, 64" offset="(\d+)"', ir)[1])
    with (place / NAME / "openvino_model.bin").open("r+b") as weights:
        weights.seek(embedding)
        weights.write(np.full((320, 64), np.nan, np.float32).tobytes())
    done = compress(place, "--precision", "FP16")
    assert_one_line_error(done, f"the perplexity of {NAME}, {NAME}_FP16 is not a finite number", "another checkpoint")
    assert table(done.stdout)[f"{NAME}_FP16"][2] == "nan"
    model_folder.check(place / f"{NAME}_FP16")


def test_context_shorter_than_the_text_and_names_that_the_output_cannot_encode(tmp_path: Path) -> None:
    """The positions of GPT-2 end with its context."""
    name = "mon modèle [a+b]"
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "gpt2", n_positions=32)
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for script, arguments in (("download_model.py", ["--source", checkpoint]), ("compress_model.py", ["--calibrate"])):
        command = [sys.executable, str(ROOT / script), "--model", name, "--output-dir", "größe", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    rows = table(done.stdout)
    assert len(rows) == 4
    assert all(float(row[2]) > 1 for row in rows.values())
    assert "gr\\xf6\\xdfe/mon mod\\xe8le [a+b]" in rows
    for folder in (tmp_path / "größe").iterdir():
        assert model_folder.check(folder).model == name


def test_damaged_tokenizer(place: Path) -> None:
    tokenizer = place / NAME / "tokenizer.json"
    tokenizer.write_bytes(b"\xff" * tokenizer.stat().st_size)
    done = compress(place, "--precision", "FP16")
    assert_one_line_error(done, "tokenizer.json is damaged")
    assert not done.stdout
    assert names(place) == [NAME]


def test_tokenizer_of_another_model(place: Path) -> None:
    (place / NAME / model_folder.MODEL_INFO).unlink()
    path = place / NAME / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["zzqq"] = 1_000
    path.write_text(json.dumps(tokenizer))
    done = compress(place, "--precision", "FP16")
    assert_one_line_error(done, "tokenizer.json is another model's: 'zzqq'")
    assert not done.stdout
    assert names(place) == [NAME]


def test_code_in_the_model_folder_never_runs(place: Path) -> None:
    folder, trace = place / NAME, place / "code ran"
    (folder / model_folder.MODEL_INFO).unlink()
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Own: pass\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    code = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | code))
    done = compress(place, "--precision", "INT4", "--calibrate", input="y\n" * 10)
    assert done.returncode == 0, done.stderr
    assert not trace.exists()


def test_folder_that_is_replaced_meanwhile(place: Path) -> None:
    other = place / "other"
    shutil.copytree(place / NAME, other)
    command = [sys.executable, str(SCRIPT), "--model", NAME, "--precision", "FP16"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Its next imports take longer than the two renames.
    assert process.stdout.readline() == f"Making {NAME}_FP16\n"
    (place / NAME).rename(place / "old")
    other.rename(place / NAME)
    output, errors = process.communicate(timeout=200)
    done = subprocess.CompletedProcess(command, process.returncode, output, errors)
    assert_one_line_error(done, f"{NAME} was replaced while it was in use: run this again")
    assert names(place) == [NAME, "old"]


def test_reader_that_leaves(place: Path) -> None:
    arguments = [sys.executable, str(SCRIPT), "--model", NAME, "--precision", "INT8", "FP16"]
    pipe = ["bash", "-c", '"$@" | head --lines 1; exit ${PIPESTATUS[0]}', "bash", *arguments]
    done = subprocess.run(pipe, cwd=place, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (141, f"Making {NAME}_INT8_compressed_weights\n", "")
    assert not any(name.startswith(".") for name in names(place))


def test_broken_folder_is_not_taken_for_a_finished_one(place: Path) -> None:
    (place / (NAME + "_FP16")).mkdir()
    done = compress(place, "--precision", "FP16", "INT8")
    assert_one_line_error(done, f"{NAME}_FP16 exists but is incomplete", "--force")


def test_folder_of_another_checkpoint_is_not_kept(place: Path) -> None:
    other = place / (NAME + "_FP16")
    shutil.copytree(place / NAME, other)
    info = other / model_folder.MODEL_INFO
    info.write_text(json.dumps(json.loads(info.read_text()) | {"source": "another/repository@1"}))
    assert_one_line_error(compress(place, "--precision", "FP16", "INT8"), "another/repository@1", "--force")


def test_too_little_memory_to_calibrate(place: Path) -> None:
    (place / NAME / model_folder.MODEL_INFO).unlink()
    # Weights extended by a hole as large as the machine's memory.
    os.truncate(place / NAME / "openvino_model.bin", psutil.virtual_memory().total)
    done = compress(place, "--precision", "INT4", "--calibrate")
    assert_one_line_error(done, "too little memory to calibrate", "omit --calibrate")
    assert names(place) == [NAME]


def test_disk_full(place: Path) -> None:
    limit = 100_000  # maximum file size in bytes: less than the weights
    done = compress(
        place,
        "--precision",
        "FP16",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert_one_line_error(done, "disk is full")
    assert names(place) == [NAME]


def test_perplexity_that_does_not_fit_is_left_out(place: Path) -> None:
    (place / NAME / model_folder.MODEL_INFO).unlink()
    # Weights extended by a hole as large as the machine's memory.
    os.truncate(place / NAME / "openvino_model.bin", psutil.virtual_memory().total)
    done = compress(place, "--precision", "INT8")
    assert done.returncode == 0, done.stderr
    assert f"The perplexity of {NAME} was not computed: this takes" in done.stdout
    rows = table(done.stdout)
    assert rows[NAME][2:4] == ["-", "-"]
    assert float(rows[NAME + SUFFIXES["INT8"]][2]) > 1


@pytest.mark.timeout(300 + 60 * KILLS)
def test_killed(place: Path) -> None:
    """SIGKILL at random moments (KILLS times) never leaves a broken folder, and the next run makes the same ones."""
    started = time.monotonic()
    assert compress(place).returncode == 0
    duration = time.monotonic() - started
    undisturbed = {name: hashes(place / name) for name in names(place)}
    for _ in range(KILLS):
        for suffix in random.sample(sorted(SUFFIXES.values()), 2):
            shutil.rmtree(place / (NAME + suffix), ignore_errors=True)
        # Imports come first and perplexities last; the folders are written in between.
        with contextlib.suppress(subprocess.TimeoutExpired):  # upon which run() sends SIGKILL
            compress(place, timeout=duration * random.uniform(0.3, 0.9))
        for name in names(place):
            if not name.startswith("."):
                assert hashes(place / name) == undisturbed[name]
    compress(place)
    assert {name: hashes(place / name) for name in names(place)} == undisturbed


@pytest.mark.parametrize(
    "arguments",
    [["--precision", "INT3"], ["--calibrate", "--precision", "INT8"], ["--model", "a/b"], ["--model=-x"]],
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str]) -> None:
    assert compress(tmp_path, *arguments).returncode == 2
