"""Chooses the device and the properties with which OpenVINO compiles a model."""

import os
from typing import Any

import openvino as ov

# Entries in the CPU's kernel cache. Each prompt length takes one or two, so this covers about forty lengths.
CPU_RUNTIME_CACHE_CAPACITY = 64


def compile_options(device: str, ov_config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the device and properties to compile a model with, given those set by the user.

    On the CPU, each prompt length has kernels of its own (1.5 MB for SmolLM2), and by default two caches keep them:
    5,000 entries in OpenVINO's and 1,024 in oneDNN's. A server would grow by hundreds of MB over hours. The time to
    recompile them is not measurable next to the prefill that they are for.

    OpenVINO would also pin its threads to cores, always beginning with the first: two servers with four threads each
    would share four cores and leave all others idle (github.com/openvinotoolkit/openvino/issues/32444).
    """
    if device == "AUTO" and ov.Core().available_devices == ["CPU"]:
        device = "CPU"  # what AUTO would choose, but AUTO does not pass on CPU properties
    if device == "CPU":
        ov_config = {
            "CPU_RUNTIME_CACHE_CAPACITY": CPU_RUNTIME_CACHE_CAPACITY,
            "ENABLE_CPU_PINNING": False,
        } | ov_config
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")  # oneDNN reads it at its first primitive
    return device, ov_config
