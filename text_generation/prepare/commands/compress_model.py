"""Compresses the weights of a model folder."""

import argparse
import math
import time
from importlib.metadata import version
from pathlib import Path

from text_generation.prepare.models import FOLDER_NAMES, FOLDER_SUFFIXES, MODELS, is_folder_name


def main() -> None:
    """Run the command with this process's arguments."""
    arguments = parse_arguments()
    from text_generation.prepare.running import run

    run(lambda: compress_model(arguments))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Create FP16, INT8 and INT4 versions of a model folder made by download_model.py or optimum-cli."
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar=f"{{{','.join(MODELS)}}}",
        help="name of the model folder: one of these, or any other",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=FOLDER_SUFFIXES,
        help="which versions to create (default: all three)",
    )
    parser.add_argument("--calibrate", action="store_true", help="INT4: slower, but closer to the original (AWQ)")
    parser.add_argument(
        "--output-dir", type=Path, default=Path(), help="directory of the folders (default: current directory)"
    )
    parser.add_argument("--force", action="store_true", help="replace existing folders once the new ones are complete")
    arguments = parser.parse_args()
    if not is_folder_name(arguments.model):
        parser.error(
            f"--model {arguments.model!r}: not the name of a model folder ({FOLDER_NAMES}); give its location in "
            "--output-dir"
        )
    if arguments.calibrate and "INT4" not in (arguments.precision or FOLDER_SUFFIXES):
        parser.error("--calibrate applies to INT4 only")
    return arguments


def compress_model(arguments: argparse.Namespace) -> None:
    from text_generation import model_folder
    from text_generation.imports import hide, quick_imports
    from text_generation.prepare.compression_plan import plan_compression
    from text_generation.prepare.staging import fail_if_replaced, staged

    original = arguments.output_dir / arguments.model
    plan = plan_compression(original, arguments.precision, replace=arguments.force)
    for folder in plan.kept:
        print(f"{folder} is kept: use --force to recreate it", flush=True)
    plan.require_disk()

    info = plan.info
    recipe = None
    if "INT4" in plan.missing:
        from text_generation.prepare.recipes import int4_recipe

        recipe = int4_recipe(arguments.model, info.source if info else None)
    hide("torch")
    seconds = {}
    for precision in plan.missing:
        started = time.monotonic()
        folder = plan.folders[precision]
        print(f"Making {folder}", flush=True)
        with quick_imports():
            from text_generation.prepare import compression

        with (
            staged(folder, replace=arguments.force) as new,
            fail_if_replaced(original, plan.original_status),
        ):
            compression.compress(original, new, precision, recipe, calibrate=arguments.calibrate)
            model_folder.write_info(
                new,
                model=arguments.model,
                precision=precision,
                source=info.source if info else str(original.resolve()),
                packages=(info.packages if info else {}) | {name: version(name) for name in ("openvino", "nncf")},
            )
        seconds[folder] = time.monotonic() - started
    print_table([original, *plan.folders.values()], f"to {plan.precision}", seconds)


def print_table(folders: list[Path], comparison: str, seconds: dict[Path, float]) -> None:
    """Print size and perplexity of each folder; the column `comparison` is relative to the first.

    Raises ModelFolderError if a perplexity is not a finite number.
    """
    from tqdm import tqdm

    from text_generation.model_folder import ModelFolderError
    from text_generation.prepare.machine import available_memory, gigabytes
    from text_generation.prepare.perplexity import memory_needed, perplexity

    perplexities = {}
    remarks = ["Perplexity: of the weights on a bundled English text, computed in FP32; lower is better."]
    for folder in tqdm(folders, desc="Measuring perplexity", unit="model", disable=None):
        needed, available = memory_needed(folder), available_memory()
        if needed <= available:
            perplexities[folder] = perplexity(folder)
        else:
            remarks.append(
                f"The perplexity of {folder} was not computed: this takes {gigabytes(needed)} of memory, but only "
                f"{gigabytes(available)} are free."
            )
    width = max(len(str(folder)) for folder in folders)
    print(f"\n{'Folder':{width}}  {'Size':>8}  {'Perplexity':>10}  {comparison:>8}  {'Seconds':>7}")
    for folder in folders:
        size = gigabytes(sum(path.stat().st_size for path in folder.iterdir() if path.is_file()))
        value, reference = perplexities.get(folder), perplexities.get(folders[0])
        score = f"{value:.2f}" if value else "-"
        ratio = f"{value / reference:.3f}" if value and reference else "-"
        duration = f"{seconds[folder]:.0f}" if folder in seconds else "-"
        print(f"{folder!s:{width}}  {size:>8}  {score:>10}  {ratio:>8}  {duration:>7}")
    print("", *remarks, sep="\n")
    broken = [str(folder) for folder, value in perplexities.items() if not math.isfinite(value)]
    if broken:
        raise ModelFolderError(
            f"the perplexity of {', '.join(broken)} is not a finite number, so the answers would be nonsense: don't "
            "serve this; use another precision, or another checkpoint if it is the original"
        )
