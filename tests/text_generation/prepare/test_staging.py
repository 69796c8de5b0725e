import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.model_folders import WEIGHTS, write_model
from text_generation import model_folder
from text_generation.model_folder import ModelFolderError
from text_generation.prepare import staging
from text_generation.prepare.checkpoint import CheckpointError
from text_generation.prepare.machine import MachineError


def alone(folder: Path) -> bool:
    return [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("replace", [False, True])
def test_what_is_no_model_is_never_replaced(tmp_path: Path, replace: bool) -> None:
    """For example, a checkpoint that was cloned under its own name."""
    target = tmp_path / "model"
    target.mkdir()
    (target / "config.json").write_text("{}")
    with pytest.raises(ModelFolderError, match="is not a model folder"), staging.staged(target, replace=replace):
        pytest.fail("nothing may be started")
    assert [path.name for path in target.iterdir()] == ["config.json"]
    assert alone(target)


def test_staged_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model"
    with staging.staged(target) as new:
        write_model(new)
        assert not target.exists()
        assert new.parent.name == ".model.partial"
    assert model_folder.is_complete(target)
    assert alone(target)


def test_existing_folder_is_kept(folder: Path) -> None:
    with pytest.raises(ModelFolderError, match="exists and is complete: use --force"), staging.staged(folder):
        pytest.fail("nothing may be started")
    (folder / "config.json").unlink()
    with pytest.raises(ModelFolderError, match=r"is incomplete .*config.json.*--force"), staging.staged(folder):
        pytest.fail("nothing may be started")
    assert alone(folder)


@pytest.mark.parametrize("error", [CheckpointError, MachineError, None])
def test_errors_name_the_folder_that_the_user_knows(tmp_path: Path, error: type[Exception] | None) -> None:
    target = tmp_path / "model"

    def fail() -> None:
        with staging.staged(target) as new:
            if error:
                raise error(f"{new}/openvino_model.xml is missing")

    with pytest.raises(error or ModelFolderError, match=rf"^{target}/openvino_model\.xml is missing"):
        fail()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failure_leaves_the_old_and_nothing_else(folder: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with staging.staged(folder, replace=True) as new:
            write_model(new, b"\2" * 1000)
            raise error

    with pytest.raises(error):
        fail()
    assert (folder / "openvino_model.bin").read_bytes() == WEIGHTS
    assert alone(folder)


def test_incomplete_work_is_not_accepted(folder: Path) -> None:
    def forget_a_file() -> None:
        with staging.staged(folder, replace=True) as new:
            write_model(new)
            (new / "tokenizer.json").unlink()

    with pytest.raises(ModelFolderError, match=r"tokenizer.json is missing"):
        forget_a_file()
    assert model_folder.is_complete(folder)


def test_short_weights_are_not_accepted(folder: Path) -> None:
    def lose_a_byte() -> None:
        with staging.staged(folder, replace=True) as new:
            write_model(new, WEIGHTS[:-1])

    with pytest.raises(ModelFolderError, match=r"openvino_model.bin is truncated"):
        lose_a_byte()
    assert model_folder.is_complete(folder)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with staging.staged(target) as new:
        write_model(new)
        with pytest.raises(ModelFolderError, match="another run"), staging.staged(target):
            pytest.fail("two runs write one folder")
    assert model_folder.is_complete(target)


@pytest.mark.parametrize("replace", [False, True])
def test_link_to_nothing_is_refused(tmp_path: Path, replace: bool) -> None:
    link = tmp_path / "model"
    link.symlink_to("nothing")
    with pytest.raises(ModelFolderError, match="is a dangling symlink"), staging.staged(link, replace=replace):
        pytest.fail("nothing may be started")
    assert alone(link)


@pytest.mark.parametrize("leftover", ["new-12345678", "old"])
def test_links_that_a_killed_run_left_are_cleared(folder: Path, tmp_path_factory, leftover: str) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_model(elsewhere)
    (folder.parent / ".model.partial").mkdir()
    (folder.parent / ".model.partial" / leftover).symlink_to(elsewhere)
    with staging.staged(folder, replace=True) as new:
        write_model(new, b"\2" * 1000)
    assert (folder / "openvino_model.bin").read_bytes() == b"\2" * 1000
    assert alone(folder)
    assert model_folder.is_complete(elsewhere)


# It reports when it has written so much that new files appear while old ones are removed.
WRITES_ON = 'n=0; while :; do n=$((n + 1)); : > "$1/$n"; [ $n = 3000 ] && echo; done'


@pytest.mark.slow
def test_child_of_a_killed_run_that_still_writes(folder: Path) -> None:
    leftover = folder.parent / ".model.partial" / "new-12345678"
    leftover.mkdir(parents=True)
    child = subprocess.Popen(["sh", "-c", WRITES_ON, "sh", leftover], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with child:
        child.stdout.readline()
        try:
            with staging.staged(folder, replace=True) as new:
                write_model(new, b"\2" * 1000)
        finally:
            child.kill()
    assert (folder / "openvino_model.bin").read_bytes() == b"\2" * 1000


def test_folder_that_is_replaced_while_it_is_read(folder: Path) -> None:
    found = folder.stat()
    with staging.fail_if_replaced(folder, found):
        pass

    def replace_it() -> None:
        with staging.fail_if_replaced(folder, found):
            with staging.staged(folder, replace=True) as new:
                write_model(new)
            raise FileNotFoundError("a file of the old folder")

    with pytest.raises(ModelFolderError, match="model was replaced while it was in use: run this again"):
        replace_it()


KILLED = """
import os, pathlib, shutil, signal, sys
sys.path.insert(0, {root!r})
from tests.support.model_folders import write_model
from text_generation.prepare import staging
from text_generation.prepare.checkpoint import CheckpointError
from text_generation.prepare.machine import MachineError

moment, countdown, rename = {moment!r}, int({moment!r}[-1]), pathlib.Path.rename

def counted(*arguments):
    global countdown
    countdown -= 1
    if moment.startswith("before rename") and not countdown:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*arguments)
    if moment.startswith("after rename") and not countdown:
        os.kill(os.getpid(), signal.SIGKILL)

def remove_half(folder, **options):
    next(path for path in folder.rglob("*") if path.is_file()).unlink()
    os.kill(os.getpid(), signal.SIGKILL)

pathlib.Path.rename = counted
if moment == "in the removal 1":
    shutil.rmtree = remove_half
with staging.staged(pathlib.Path({target!r}), replace=True) as new:
    if moment == "in the work 1":
        (new / "openvino_model.bin").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write_model(new, bytes([2]) * 1000)
"""


def replace_and_die(folder: Path, moment: str) -> subprocess.CompletedProcess:
    program = KILLED.format(moment=moment, target=str(folder), root=str(Path.cwd()))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "weights"), [("before rename 2", WEIGHTS), ("after rename 2", b"\2" * 1000)])
def test_recovery_where_nothing_is_to_be_written(folder: Path, moment: str, weights: bytes) -> None:
    assert replace_and_die(folder, moment).returncode == -signal.SIGKILL
    assert not alone(folder)
    staging.recover(folder)
    assert (folder / "openvino_model.bin").read_bytes() == weights
    assert alone(folder)
    staging.recover(folder)
    assert alone(folder)


@pytest.mark.slow
def test_half_of_an_old_folder_is_never_put_back(folder: Path) -> None:
    assert replace_and_die(folder, "in the removal 1").returncode == -signal.SIGKILL
    assert (folder / "openvino_model.bin").read_bytes() == b"\2" * 1000
    shutil.rmtree(folder)
    with staging.staged(folder) as new:
        write_model(new)
    assert (folder / "openvino_model.bin").read_bytes() == WEIGHTS
    assert alone(folder)


def test_lock_that_a_killed_run_left_alone_is_removed(folder: Path) -> None:
    (folder.parent / ".model.partial.lock").touch()
    staging.recover(folder)
    assert alone(folder)


@pytest.mark.slow
@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("moment", ["in the work 1", "before rename 1", "before rename 2"])
def test_killed_run_is_cleared_up_by_the_next(folder: Path, moment: str, exists: bool) -> None:
    if not exists:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    died = replace_and_die(folder, moment)
    if moment == "before rename 2" and not exists:
        assert died.returncode == 0, died.stderr  # only one rename takes place
    else:
        assert died.returncode == -signal.SIGKILL, died.stderr
    if exists and moment != "before rename 2":
        assert (folder / "openvino_model.bin").read_bytes() == WEIGHTS

    def fail() -> None:
        with staging.staged(folder, replace=True) as new:
            others.extend(path for path in new.parent.iterdir() if path.is_dir() and path != new)
            raise OSError

    # The next run, even if it fails, restores the old model and frees the dead run's disk space.
    others: list[Path] = []
    with pytest.raises(OSError, match=r"^$"):
        fail()
    assert not others
    assert folder.exists() == (exists or moment == "before rename 2")
    with staging.staged(folder, replace=True) as new:
        write_model(new, b"\3" * 1000)
    assert (folder / "openvino_model.bin").read_bytes() == b"\3" * 1000
    assert alone(folder)
