"""Plans which folders a compression creates, keeps and replaces, before any work starts."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from text_generation import model_folder, tokenizer_file
from text_generation.prepare import machine
from text_generation.prepare.models import FOLDER_SUFFIXES
from text_generation.prepare.staging import exists_error, recover

# What weights of each precision can be compressed to; weights with fewer bits are not compressed again.
MAKEABLE = {"FP32": ["FP16", "INT8", "INT4"], "FP16": ["INT8", "INT4"], "BF16": ["INT8", "INT4"]}
# Upper bounds of the size on disk, as shares of the FP32 weights.
SIZE_SHARES = {"FP16": 0.51, "INT8": 0.27, "INT4": 0.25}


@dataclass(frozen=True, slots=True)
class CompressionPlan:
    """The folders by precision, and those to be created; `original_status` is from the time of planning."""

    original: Path
    original_status: os.stat_result
    info: model_folder.ModelInfo | None
    precision: str
    folders: dict[str, Path]
    missing: list[str]

    @property
    def kept(self) -> list[Path]:
        """The existing folders that are kept."""
        return [folder for precision, folder in self.folders.items() if precision not in self.missing]

    def require_disk(self) -> None:
        """Raise MachineError if the missing folders would not fit on the disk."""
        weights = (self.original / "openvino_model.bin").stat().st_size * (1 if self.precision == "FP32" else 2)
        shares = sum(SIZE_SHARES[precision] for precision in self.missing)
        machine.require_disk([(self.original.parent, int(shares * weights))])


def plan_compression(original: Path, precisions: list[str] | None, *, replace: bool) -> CompressionPlan:
    """Plan these precisions of a model folder, or all possible ones; with `replace`, also those that exist.

    Raises ModelFolderError if there is nothing to do or if the original can't be compressed.
    """
    if not original.exists():
        raise model_folder.ModelFolderError(
            f"{original} does not exist: run download_model.py --model {shlex.quote(original.name)} first"
        )
    original_status = original.stat()
    info = model_folder.check(original)
    precision = model_folder.read_ir(original).precision
    makeable = MAKEABLE.get(precision, [])
    wanted = precisions or makeable
    if not wanted or not set(wanted) <= set(makeable):
        raise model_folder.ModelFolderError(
            f"{original} holds weights in {precision}, which can't become {' or '.join(wanted or FOLDER_SUFFIXES)}: "
            "serve it as it is, or recreate it with download_model.py"
        )
    # Used only at the end, so check them now.
    tokenizer_file.load(original)
    model_folder.context_length(original)
    folders = {precision: original.with_name(original.name + FOLDER_SUFFIXES[precision]) for precision in wanted}
    for folder in folders.values():
        recover(folder)
    missing = [precision for precision, folder in folders.items() if replace or not folder.exists()]
    plan = CompressionPlan(original, original_status, info, precision, folders, missing)
    for folder in plan.kept:
        _require_kept(folder, plan)
    return plan


def _require_kept(folder: Path, plan: CompressionPlan) -> None:
    """Raise ModelFolderError if the folder can't be kept alongside the new ones."""
    if not (plan.missing and model_folder.is_complete(folder)):
        raise exists_error(folder)
    kept = model_folder.read(folder)
    if plan.info and kept and kept.source != plan.info.source:
        raise model_folder.ModelFolderError(
            f"{folder} was made from {kept.source}, but {plan.original} from {plan.info.source}: use --force to "
            "recreate it"
        )
