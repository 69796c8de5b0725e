"""FP32 model folder -> the same model with its weights in FP16, INT8 or INT4.

What the numbers mean: https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/weight-compression.html
"""

import json
import shutil
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
from transformers import AutoTokenizer

from text_generation.errors import first_line
from text_generation.model_folder import MODEL_INFO, ModelFolderError, config_size
from text_generation.prepare.machine import MachineError, available_memory, gigabytes
from text_generation.prepare.models import Int4Recipe, data_text
from text_generation.prepare.perplexity import language_model_inputs, memory_needed
from text_generation.prepare.progress import growth


def compress(source: Path, folder: Path, precision: str, recipe: Int4Recipe, *, calibrate: bool = False) -> None:
    """Write the model of the folder `source`, at another precision, with all its other files into an existing `folder`.

    With `calibrate`, the scales of INT4 are chosen by AWQ (https://arxiv.org/abs/2306.00978) and scale estimation from
    what the model computes on the bundled chats, which costs time and memory and keeps more of the quality.

    Raises ModelFolderError if the original is damaged and MachineError if there is too little memory to calibrate.
    """
    if calibrate and precision == "INT4" and available_memory() < (needed := memory_needed(source)):
        raise MachineError(
            f"too little memory to calibrate: running the FP32 model takes {gigabytes(needed)}; leave out --calibrate"
        )
    for path in source.iterdir():
        if not path.is_dir() and path.name not in (MODEL_INFO, "openvino_model.xml", "openvino_model.bin"):
            shutil.copyfile(path, folder / path.name)
    try:
        model = ov.Core().read_model(source / "openvino_model.xml")
    except RuntimeError as error:
        raise ModelFolderError(f"{source / 'openvino_model.xml'} is damaged: make the folder again") from error
    if precision == "INT8":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    elif precision == "INT4":
        fitted = recipe.fitted(config_size(source, "hidden_size"))
        model = nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode.INT4_SYM if fitted.symmetric else nncf.CompressWeightsMode.INT4_ASYM,
            group_size=fitted.group_size,
            ratio=fitted.ratio,
            **(_calibration(source, model) if calibrate else {}),
        )
    with growth(folder / "openvino_model.bin", "Saving"):
        ov.save_model(model, folder / "openvino_model.xml", compress_to_fp16=precision == "FP16")


def _calibration(folder: Path, model: ov.Model) -> dict:
    """Arguments of nncf.compress_weights: a dataset of the bundled chats, and what to do with it."""
    chats = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in json.loads(data_text("calibration.json"))
    ]
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        prompts = [tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False) for chat in chats]
    except Exception as error:  # whatever stands in the folder's files, and in the program that a template is
        raise ModelFolderError(
            f"the tokenizer in {folder} cannot be used ({first_line(error)}): copy or make the folder again"
        ) from error
    samples = [language_model_inputs(model, np.array([prompt])) for prompt in prompts]
    return {"dataset": nncf.Dataset(samples), "subset_size": len(samples), "awq": True, "scale_estimation": True}
