from pathlib import Path

import pytest

from tests.support.model_folders import write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder by its looks, in an otherwise empty folder."""
    path = tmp_path / "model"
    path.mkdir()
    write_model(path)
    return path
