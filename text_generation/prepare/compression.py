"""FP32 model folder -> the same model with its weights in FP16, INT8 or INT4.

The parameters are explained in
https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/weight-compression.html
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nncf
import numpy as np
import openvino as ov

from text_generation import tokenizer_file
from text_generation.chat_template import ChatTemplate, Message, TemplateRefused
from text_generation.model_folder import MODEL_INFO, ModelFolderError, context_length
from text_generation.prepare.machine import MachineError, available_memory, gigabytes
from text_generation.prepare.models import Int4Recipe, data_text
from text_generation.prepare.perplexity import language_model_inputs, memory_needed
from text_generation.prepare.progress import growth


def compress(
    source: Path, folder: Path, precision: str, recipe: Int4Recipe | None = None, *, calibrate: bool = False
) -> None:
    """Write the model of the folder `source` at another precision, with all its other files, into an existing `folder`.

    INT4 uses `recipe`, or the general one. With `calibrate`, AWQ (https://arxiv.org/abs/2306.00978) and scale
    estimation choose its scales from the model's activations on the bundled chats, which takes more time and memory and
    preserves more of the quality.

    Raises ModelFolderError if the original is damaged and MachineError if there is too little memory to calibrate.
    """
    if calibrate and precision == "INT4" and available_memory() < (needed := memory_needed(source)):
        raise MachineError(
            f"too little memory to calibrate: running the FP32 model takes {gigabytes(needed)}; omit --calibrate"
        )
    for path in source.iterdir():
        if not path.is_dir() and path.name not in (MODEL_INFO, "openvino_model.xml", "openvino_model.bin"):
            shutil.copyfile(path, folder / path.name)
    try:
        model = ov.Core().read_model(source / "openvino_model.xml")
    except RuntimeError as error:
        raise ModelFolderError(f"{source / 'openvino_model.xml'} is damaged: recreate the folder") from error
    if precision == "INT8":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    elif precision == "INT4":
        samples = _samples(source, model) if calibrate else None
        model = _compress_to_int4(model, recipe or Int4Recipe(), samples)
    with growth(folder / "openvino_model.bin", "Saving"):
        ov.save_model(model, folder / "openvino_model.xml", compress_to_fp16=precision == "FP16")


def _compress_to_int4(model: ov.Model, recipe: Int4Recipe, samples: list[dict[str, np.ndarray]] | None) -> ov.Model:
    """Compress by the recipe, or without samples by as much of it as needs no data."""
    if samples is None:
        recipe = replace(recipe, awq=recipe.data_free_awq, scale_estimation=False)
    return nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode.INT4_SYM if recipe.symmetric else nncf.CompressWeightsMode.INT4_ASYM,
        group_size=recipe.group_size,
        ratio=recipe.ratio,
        awq=recipe.awq,
        scale_estimation=recipe.scale_estimation,
        dataset=nncf.Dataset(samples) if samples else None,
        subset_size=len(samples) if samples else 128,
        # Layers not divisible into groups of this size get smaller groups.
        advanced_parameters=nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        ),
    )


def _samples(folder: Path, model: ov.Model) -> list[dict[str, np.ndarray]]:
    """The model's inputs for each of the bundled chats."""
    tokenizer, template = tokenizer_file.load(folder), ChatTemplate.load(folder)
    samples = []
    for question, answer in json.loads(data_text("calibration.json")):
        chat: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        try:
            prompt = template.render(chat)
        except TemplateRefused as error:
            raise ModelFolderError(f"{folder} can't be calibrated: {error}; omit --calibrate") from error
        token_ids = tokenizer.encode(prompt, add_special_tokens=False).ids[: context_length(folder)]
        samples.append(language_model_inputs(model, np.array([token_ids])))
    return samples
