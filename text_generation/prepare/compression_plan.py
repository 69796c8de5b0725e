"""What a compression makes, keeps and replaces, decided before any of it is begun."""

import os
from dataclasses import dataclass
from pathlib import Path

from text_generation import model_folder, tokenizer_file
from text_generation.prepare import machine

FOLDER_SUFFIXES = {"FP16": "_FP16", "INT8": "_INT8_compressed_weights", "INT4": "_INT4_compressed_weights"}
# What can be made of weights at a precision; fewer bits than these are not compressed again.
MAKEABLE = {"FP32": ["FP16", "INT8", "INT4"], "FP16": ["INT8", "INT4"], "BF16": ["INT8", "INT4"]}
# The most that each takes on the disk, as a share of the FP32 weights.
SIZE_SHARES = {"FP16": 0.51, "INT8": 0.27, "INT4": 0.25}


@dataclass(frozen=True, slots=True)
class CompressionPlan:
    """The folders by precision, and which of them are to be made; `found` is the original as it was then."""

    original: Path
    found: os.stat_result
    info: model_folder.ModelInfo | None
    precision: str
    folders: dict[str, Path]
    missing: list[str]

    @property
    def kept(self) -> list[Path]:
        """The folders that stay as they are."""
        return [folder for precision, folder in self.folders.items() if precision not in self.missing]

    def require_disk(self) -> None:
        """Raise MachineError where what is missing would not fit on the disk."""
        weights = (self.original / "openvino_model.bin").stat().st_size * (1 if self.precision == "FP32" else 2)
        shares = sum(SIZE_SHARES[precision] for precision in self.missing)
        machine.require_disk([(self.original.parent, int(shares * weights))])


def plan_compression(original: Path, precisions: list[str] | None, *, replace: bool) -> CompressionPlan:
    """Plan these precisions of a model folder, or all that can be made of it; with `replace`, existing ones too.

    Raises ModelFolderError where there is nothing to do, or where it can't be done.
    """
    if not original.exists():
        raise model_folder.ModelFolderError(
            f"{original} is not there: run download_model.py --model {original.name} first"
        )
    found = original.stat()
    info = model_folder.check(original)
    precision = model_folder.read_ir(original).precision
    makeable = MAKEABLE.get(precision, [])
    wanted = precisions or makeable
    if not wanted or not set(wanted) <= set(makeable):
        raise model_folder.ModelFolderError(
            f"{original} holds weights in {precision}, no base for {' and '.join(wanted or FOLDER_SUFFIXES)}: "
            "serve it as it is, or recreate it with download_model.py"
        )
    tokenizer_file.load(original)  # which is needed at the end only
    folders = {precision: original.with_name(original.name + FOLDER_SUFFIXES[precision]) for precision in wanted}
    for folder in folders.values():
        model_folder.recover(folder)
    missing = [precision for precision, folder in folders.items() if replace or not folder.exists()]
    plan = CompressionPlan(original, found, info, precision, folders, missing)
    for folder in plan.kept:
        _require_kept(folder, plan)
    return plan


def _require_kept(folder: Path, plan: CompressionPlan) -> None:
    """Raise ModelFolderError where the folder can't stay beside those that are made."""
    if not (plan.missing and model_folder.is_complete(folder)):
        raise model_folder.exists_error(folder)
    kept = model_folder.read(folder)
    if plan.info and kept and kept.source != plan.info.source:
        raise model_folder.ModelFolderError(
            f"{folder} was made from {kept.source}, and {plan.original} from {plan.info.source}; --force recreates it"
        )
