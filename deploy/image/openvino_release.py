"""Tells pip which OpenVINO release the base image has, so that it does not install another.

The base image has its own openvino, openvino_tokenizers and openvino_genai, built for the libopenvino in the server's
process. Their metadata is incomplete: it omits the patch number, although it requires patch releases, and lacks the
RECORD that pip needs to uninstall. On its own, pip would try to replace them and fail.

`python3.12 openvino_release.py OVMS CONSTRAINTS METADATA` asks the server's binary for its release. It writes the file
CONSTRAINTS, which pins the three packages to that release, and the folder METADATA, which makes pip see them as
installed in that release if it is first in PYTHONPATH.
"""

import re
import subprocess
import sys
from pathlib import Path

PACKAGES = ("openvino", "openvino-tokenizers", "openvino-genai")
OLDEST_RELEASE = (2026, 0)  # what optimum-intel requires

# "OpenVINO backend 2026.1.0-21367-63e31528c62-releases/2026/1". A nightly build counts as the release that it precedes,
# since pip sorts 2026.2.0.dev20260301 before every release of 2026.2.
_BACKEND = re.compile(r"^OpenVINO backend:? +v?(\d{4}\.\d+(?:\.\d+)*)", re.MULTILINE)


class UnusableBaseImage(Exception):
    """The base image can't be used for text_generation; the message says why and what to do."""


def openvino_release(version_text):
    """Return the release, such as "2026.2.1", of the server whose `--version` prints `version_text`.

    Raises UnusableBaseImage if the text contains no release, or one older than OLDEST_RELEASE.
    """
    backend = _BACKEND.search(version_text)
    if backend is None:
        raise UnusableBaseImage(
            f"`ovms --version` prints no OpenVINO release:\n{version_text.rstrip()}\n"
            "Choose another base image: --build-arg BASE_IMAGE=openvino/model_server:latest"
        )
    release = backend[1]
    year, minor = map(int, release.split(".")[:2])
    if (year, minor) < OLDEST_RELEASE:
        oldest = ".".join(map(str, OLDEST_RELEASE))
        raise UnusableBaseImage(
            f"The base image has OpenVINO {release}; optimum-intel needs {oldest} or newer. "
            "Choose a newer base image: --build-arg BASE_IMAGE=openvino/model_server:latest"
        )
    return release


def write_constraints(release, path):
    """Write the pip constraints file that pins the PACKAGES to `release`."""
    pins = "".join(f"{name}=={release}\n" for name in PACKAGES)
    Path(path).write_text(f"# The OpenVINO release of the base image, read from `ovms --version`.\n{pins}")


def write_metadata(release, folder):
    """Write to `folder` the metadata that makes pip see the PACKAGES of this release as installed."""
    for name in PACKAGES:
        dist_info = Path(folder, f"{name.replace('-', '_')}-{release}.dist-info")
        dist_info.mkdir(parents=True)
        (dist_info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")


def main(ovms, constraints_path, metadata_folder):
    """Write both for the server binary `ovms`; exit with an error and code 1 if the base image can't be used."""
    try:
        version = subprocess.run([ovms, "--version"], check=False, capture_output=True, text=True)
        release = openvino_release(version.stdout + version.stderr)
        write_constraints(release, constraints_path)
        write_metadata(release, metadata_folder)
    except (UnusableBaseImage, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
