import errno
import shutil
from pathlib import Path

import pytest

from text_generation.prepare import machine
from text_generation.prepare.machine import MachineError, available_memory, gigabytes, is_failed_write, require_disk


def test_folders_on_one_disk_are_added_up(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    share = int(free * 0.6)
    require_disk([(tmp_path / "not" / "there", share)])
    with pytest.raises(MachineError, match=r"too little disk space: .* needed at .* free"):
        require_disk([(tmp_path / "a", share), (tmp_path / "b", share)])


def test_limit_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 200000\n")
    assert available_memory() == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 500_000


@pytest.mark.parametrize(("size", "text"), [(4_400_000_000, "4.4 GB"), (545_000_000, "545 MB"), (0, "0 MB")])
def test_sizes_as_people_read_them(size: int, text: str) -> None:
    assert gigabytes(size) == text


def test_failed_writes() -> None:
    assert is_failed_write(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_failed_write(OSError(errno.EACCES, "Permission denied"))
    assert not is_failed_write(ValueError("no"))
