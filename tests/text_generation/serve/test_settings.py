import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from text_generation.model_folder import ModelFolderError
from text_generation.serve.sampling import SamplingParams
from text_generation.serve.settings import DEFAULT_OV_CONFIG, SettingError, Settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_defaults_are_the_demos():
    settings = Settings.from_environment()
    assert settings.model_path == Path("/model")
    assert (settings.engine, settings.device, settings.ov_config) == ("optimum", "AUTO", DEFAULT_OV_CONFIG)
    assert settings.default_sampling() == SamplingParams(
        max_tokens=1024, temperature=1.0, top_p=1.0, top_k=50, repetition_penalty=1.1, seed=None
    )


def test_the_environment_is_read(monkeypatch):
    given = {"ENGINE": "genai", "SEED": "7", "TEMPERATURE": "0", "MODEL_PATH": "/m", "IGNORE_EOS": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_environment()
    assert (settings.engine, settings.model_path) == ("genai", Path("/m"))
    assert settings.default_sampling() == SamplingParams(seed=7, temperature=0)
    assert settings.ignore_eos


@pytest.mark.parametrize(
    ("recommended", "given", "expected"),
    [
        ({}, {}, SamplingParams()),
        ({"temperature": 0.6, "top_p": 0.9, "do_sample": True}, {}, SamplingParams(temperature=0.6, top_p=0.9)),
        ({"temperature": 0.6, "top_p": 0.9}, {"temperature": 1.0}, SamplingParams(temperature=1.0, top_p=0.9)),
        ({"do_sample": False}, {}, SamplingParams(temperature=0)),
        ({"do_sample": False}, {"temperature": 0.5}, SamplingParams(temperature=0.5)),
        ({"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.0, "max_length": 99, "top_p": None},
         {"max_new_tokens": 7}, SamplingParams(top_k=20, min_p=0.1, repetition_penalty=1.0, max_tokens=7)),
    ],
)  # fmt: skip
def test_what_is_not_set_is_the_model_folders(tmp_path, recommended, given, expected):
    (tmp_path / "generation_config.json").write_text(json.dumps(recommended))
    assert Settings(model_path=tmp_path, **given).default_sampling() == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [('{"top_p": 2}', "top_p is 2"), ('{"temperature": "hot"}', "temperature is 'hot'"), ("{", "read")],
)
def test_a_generation_config_that_cannot_be_used_is_named(tmp_path, content, says):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ModelFolderError, match=says) as error:
        Settings(model_path=tmp_path).default_sampling()
    assert "generation_config.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_reading_the_environment_imports_no_engine():
    program = "import sys, text_generation.serve.settings; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "openvino", "openvino_genai"} & set(loaded)


def test_an_empty_variable_is_one_not_set(monkeypatch):
    monkeypatch.setenv("SEED", "")
    assert Settings.from_environment().seed is None


def test_ov_config_is_laid_over_the_defaults(monkeypatch):
    monkeypatch.setenv("OV_CONFIG", '{"NUM_STREAMS": "2", "KV_CACHE_PRECISION": "f32"}')
    assert Settings.from_environment().ov_config == {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "2",
        "KV_CACHE_PRECISION": "f32",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENGINE", "vllm"),
        ("OV_CONFIG", "{NUM_STREAMS: 1}"),
        ("OV_CONFIG", "[1]"),
        ("SEED", "-1"),
        ("SEED", "4294967296"),
        ("MAX_NEW_TOKENS", "0"),
        ("MAX_NEW_TOKENS", "many"),
        ("TEMPERATURE", "-0.1"),
        ("TEMPERATURE", "nan"),
        ("TEMPERATURE", "2.1"),
        ("TOP_P", "0"),
        ("TOP_P", "1.01"),
        ("TOP_K", "-1"),
        ("REPETITION_PENALTY", "0"),
        ("MAX_CONCURRENT_REQUESTS", "0"),
        ("QUEUE_TIMEOUT_S", "inf"),
        ("KV_CACHE_GB", "0.5"),
        ("KV_CACHE_GB", "100000"),
        ("TOP_K", "2147483648"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("LLM_METRICS_PORT", "0"),
        ("LLM_METRICS_PORT", "65536"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_variable_and_the_value(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError) as error:
        Settings.from_environment()
    message = str(error.value)
    assert message.startswith(f"{name} is {value!r}: must be ")
    assert "\n" not in message


@pytest.mark.parametrize(
    "name", ["MODEL_PATH", "SELECTED_MODEL", "DEVICE", "OV_CONFIG", "SYSTEM_PROMPT", "LLM_METRICS_ADDRESS"]
)
def test_a_variable_that_is_not_utf8_is_one_line_that_names_it(monkeypatch, name):
    monkeypatch.setenv(name, os.fsdecode(b"mod\xe8le"))
    with pytest.raises(SettingError) as error:
        Settings.from_environment()
    says = "contains bytes that are not UTF-8: write it, and the names of folders, in UTF-8"
    assert str(error.value) == rf"{name} is 'mod\udce8le': {says}"


def test_a_long_value_is_cut_off(monkeypatch):
    monkeypatch.setenv("SEED", "9" * 5000)
    with pytest.raises(SettingError, match=r"SEED is '999.*999\.\.\.: must be a smaller integer$") as error:
        Settings.from_environment()
    assert len(str(error.value)) < 200
