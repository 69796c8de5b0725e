import os

import openvino as ov
import pytest

from text_generation.serve.engines.device import compile_options

ONEDNN = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
CACHE = "CPU_RUNTIME_CACHE_CAPACITY"
PINNING = "ENABLE_CPU_PINNING"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv(ONEDNN, "1")  # so that it is restored afterwards
    monkeypatch.delenv(ONEDNN)
    return monkeypatch


@pytest.mark.skipif(ov.Core().available_devices != ["CPU"], reason="there is more than a CPU")
def test_auto_is_the_cpu_where_there_is_nothing_else():
    device, ov_config = compile_options("AUTO", {"NUM_STREAMS": "1"})
    assert device == "CPU"
    assert ov_config.keys() == {"NUM_STREAMS", CACHE, PINNING}


def test_the_user_decides(environment):
    environment.setenv(ONEDNN, "7")
    chosen = {CACHE: 5000, PINNING: True}
    assert compile_options("CPU", chosen) == ("CPU", chosen)
    assert os.environ[ONEDNN] == "7"


@pytest.mark.parametrize("device", ["GPU", "GPU.1", "AUTO:GPU,CPU", "HETERO:GPU,CPU"])
def test_other_devices_are_left_alone(device):
    assert compile_options(device, {"NUM_STREAMS": "1"}) == (device, {"NUM_STREAMS": "1"})
