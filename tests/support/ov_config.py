"""OpenVINO properties for the models in tests, as the setting OV_CONFIG takes them."""

import json
import os


def ov_config(**properties: object) -> str:
    """Return these properties and, if pytest has several workers, one thread per model.

    With more, the threads of models that run beside each other spend much of the time waiting for each other.
    """
    threads = {"INFERENCE_NUM_THREADS": 1} if "PYTEST_XDIST_WORKER" in os.environ else {}
    return json.dumps(threads | properties)


F32 = ov_config(INFERENCE_PRECISION_HINT="f32", KV_CACHE_PRECISION="f32")
# With 8 bits, the rounding depends on the shape of a batch and on the instruction set.
EXACT = ov_config(INFERENCE_PRECISION_HINT="f32", KV_CACHE_PRECISION="f32", DYNAMIC_QUANTIZATION_GROUP_SIZE="0")
