"""FP32 model folder -> FP16, INT8 or INT4 model folder, and the perplexity that each of them has."""

from pathlib import Path

import nncf
import openvino as ov

from text_generation.models import Int4Recipe


def compress(source: Path, folder: Path, precision: str, int4: Int4Recipe) -> None:
    core = ov.Core()
    model = core.read_model(source / "openvino_model.xml")
    if precision == "INT8":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    elif precision == "INT4":
        mode = nncf.CompressWeightsMode.INT4_SYM if int4.symmetric else nncf.CompressWeightsMode.INT4_ASYM
        model = nncf.compress_weights(model, mode=mode, group_size=int4.group_size, ratio=int4.ratio)
    ov.save_model(model, folder / "openvino_model.xml", compress_to_fp16=precision == "FP16")
