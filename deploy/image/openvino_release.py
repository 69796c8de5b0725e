"""Pin the OpenVINO packages to the release of the model server that an image is built on.

The server's process loads its own libopenvino before any Python node, so the packages in the image must be of the same
release. `python3 openvino_release.py OVMS CONSTRAINTS` asks the server's binary for its release, checks that pip finds
the wheels of it, and writes them to CONSTRAINTS, a pip constraints file. It needs nothing but Python and pip.
"""

import re
import subprocess
import sys
from pathlib import Path

OLDEST_PYTHON = (3, 11)
PACKAGES = ("openvino", "openvino-tokenizers", "openvino-genai")

# "OpenVINO backend 2026.1.0-21367-63e31528c62-releases/2026/1"; a nightly build has a suffix: 2026.2.0.dev20260301
_BACKEND = re.compile(r"^OpenVINO backend:? +v?(\d{4}\.\d+\.\d+)(\.[0-9a-z.]+)?", re.MULTILINE)
# "OpenVINO GenAI backend 2026.1.0.0-2957-1dabb8c2255", from the 2025.2 release on
_GENAI_BACKEND = re.compile(r"^OpenVINO GenAI backend:? +v?(\d{4}\.\d+\.\d+\.\d+)-", re.MULTILINE)


class UnusableBaseImage(Exception):
    """The base image cannot carry text_generation; the message says why and what to do."""


def constraints(version_text):
    """Return the text of a pip constraints file for the server that printed `version_text`.

    The tokenizers' and GenAI's own fourth number is left open where the server does not name it.

    Raises UnusableBaseImage when the text names no released version of OpenVINO.
    """
    backend = _BACKEND.search(version_text)
    if backend is None:
        raise UnusableBaseImage(
            f"`ovms --version` names no OpenVINO release:\n{version_text.rstrip()}\n"
            "Choose a released base image: --build-arg BASE_IMAGE=openvino/model_server:RELEASE"
        )
    release, suffix = backend.groups()
    if suffix:
        raise UnusableBaseImage(
            f"The base image is built on OpenVINO {release}{suffix}, which is no release and has no wheels. "
            "Choose a released base image: --build-arg BASE_IMAGE=openvino/model_server:RELEASE"
        )
    genai = _GENAI_BACKEND.search(version_text)
    genai_version = genai.group(1) if genai else f"{release}.*"
    return (
        "# The OpenVINO release of the base image, read from `ovms --version`.\n"
        f"openvino=={release}\nopenvino-tokenizers=={release}.*\nopenvino-genai=={genai_version}\n"
    )


def check_python(version=sys.version_info):
    """Raise UnusableBaseImage when the image's Python, a `sys.version_info`, is older than text_generation needs."""
    if version[:2] < OLDEST_PYTHON:
        raise UnusableBaseImage(
            f"The base image has Python {version[0]}.{version[1]}; text_generation needs "
            f"{OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer. Choose a newer base image: --build-arg BASE_IMAGE=IMAGE"
        )


def check_wheels(constraints_path):
    """Raise UnusableBaseImage when pip cannot find wheels of all three packages as `constraints_path` pins them."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-cache-dir", "--no-deps"]
    command += ["--ignore-installed", "--only-binary=:all:", "--constraint", str(constraints_path), *PACKAGES]
    if subprocess.run(command, check=False).returncode != 0:
        pins = [line for line in Path(constraints_path).read_text().splitlines() if "==" in line]
        raise UnusableBaseImage(
            f"pip finds no wheels of the base image's OpenVINO release ({', '.join(pins)}) for Python "
            f"{sys.version_info[0]}.{sys.version_info[1]}; its own words are above. Choose a base image whose release "
            "has wheels: --build-arg BASE_IMAGE=openvino/model_server:RELEASE"
        )


def main(ovms, constraints_path):
    """Write the constraints for the server binary `ovms` to `constraints_path`; a sentence and exit code 1 if not."""
    try:
        check_python()
        version = subprocess.run([ovms, "--version"], check=False, capture_output=True, text=True)
        Path(constraints_path).write_text(constraints(version.stdout + version.stderr))
        check_wheels(constraints_path)
    except (UnusableBaseImage, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
