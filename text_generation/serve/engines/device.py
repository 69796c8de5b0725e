"""The device that OpenVINO compiles a model for, and what it is told besides the user's own properties."""

import os
from typing import Any

import openvino as ov

# Entries that the CPU's kernel cache keeps. A length of prompt takes one or two, so it covers about forty lengths.
CPU_RUNTIME_CACHE_CAPACITY = 64


def compile_options(device: str, ov_config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Device and properties to compile a model with, for these that the user wants.

    On the CPU each length of prompt has kernels of its own (1.5 MB of them for SmolLM2), and by default two caches keep
    them: OpenVINO's 5,000 and oneDNN's 1,024. A server would grow by hundreds of MB over hours. Compiling them again
    takes no measurable time beside the prefill that they are for.
    """
    if device == "AUTO" and ov.Core().available_devices == ["CPU"]:
        device = "CPU"  # what AUTO comes to, but it does not pass on the CPU's own properties
    if device == "CPU":
        ov_config = {"CPU_RUNTIME_CACHE_CAPACITY": CPU_RUNTIME_CACHE_CAPACITY} | ov_config
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")  # which oneDNN reads at its first primitive
    return device, ov_config
