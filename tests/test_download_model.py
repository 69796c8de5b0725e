"""download_model.py as run by users: as a process, with a hub on localhost."""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from tests.support import SMALL_MODEL, watch
from tests.support.stand_in_hub import COMMIT, REPOSITORY, TOKEN, StandInHub, read_files, serve_hub
from tests.support.text import edited
from text_generation import model_folder

pytestmark = pytest.mark.usefixtures("one_core")

SCRIPT = Path(__file__).parent.parent / "download_model.py"
NAME = "tiny-llama-1b-chat"
KILLS = int(os.environ.get("KILLS", "8"))


@pytest.fixture
def hub(small_checkpoint: Path) -> Iterator[StandInHub]:
    with serve_hub({REPOSITORY: read_files(small_checkpoint)}) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def exported(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """An OpenVINO model with 4-bit weights and without our record, like those of the Hub's OpenVINO organization."""
    from text_generation.prepare import compression
    from text_generation.prepare.models import Int4Recipe

    folder = tmp_path_factory.mktemp("exported")
    compression.compress(small_model, folder, "INT4", Int4Recipe())
    return read_files(folder)


@dataclass
class Place:
    """The place where a test runs the script: an empty working folder and its own home."""

    folder: Path
    environment: dict[str, str]

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        process = self.start(*arguments, **environment)
        try:
            output, errors = process.communicate(timeout=200)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


def make_place(parent: Path) -> Place:
    folder = parent / "work"
    folder.mkdir()
    hf = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE"))}
    return Place(folder, hf | {"HF_HOME": str(parent / "hf")})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def assert_one_line_error(done: subprocess.CompletedProcess, *parts: str) -> None:
    assert done.returncode == 1, done
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    for part in parts:
        assert part in done.stderr


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.usefixtures("answered")  # it starts to wait here, and is done when its own tests start
def test_downloads_and_exports(hub: StandInHub, place: Place, small_checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hub.cut_weights = 1
    hub.files |= {"modeling_evil.py": b"raise SystemExit", "pytorch_model.bin": b"pickle", "sub/model.safetensors": b""}
    done = place.run("--model", NAME, HF_ENDPOINT=hub.address)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert place.names() == [NAME]
    assert not hub.fetched() & {"modeling_evil.py", "pytorch_model.bin"}

    folder = place.folder / NAME
    info = model_folder.check(folder)
    assert (info.model, info.precision, info.source) == (NAME, "FP32", f"{REPOSITORY}@{COMMIT}")
    assert info.packages["openvino"]
    tokenizer = AutoTokenizer.from_pretrained(folder)  # with the model's fallback chat template
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True).startswith(
        "<|user|>\nHi</s>"
    )

    # The model computes the same as the checkpoint, in FP32, with the KV cache inside.
    token_ids = [1, 50, 60, 70, 80]
    reference = AutoModelForCausalLM.from_pretrained(small_checkpoint, dtype=torch.float32)
    with torch.no_grad():
        expected = reference(torch.tensor([token_ids])).logits[0].numpy()
    compiled = ov.Core().compile_model(folder / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    for past, token_id in enumerate(token_ids):
        request.infer(
            {
                "input_ids": [[token_id]],
                "attention_mask": [[1] * (past + 1)],
                "position_ids": [[past]],
                "beam_idx": np.array([0], np.int32),
            }
        )
        np.testing.assert_allclose(request.get_tensor("logits").data[0, 0], expected[past], atol=1e-4)

    # Again: first refused, then, offline, replaced from the cache.
    before = hashes(folder)
    assert_one_line_error(place.run("--model", NAME, HF_ENDPOINT=hub.address), NAME, "--force")
    requests = len(hub.requests)
    done = place.run("--model", NAME, "--force", HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert len(hub.requests) == requests
    assert hashes(folder) == before
    assert place.names() == [NAME]


@pytest.mark.slow
class TestHubErrors:
    """Each ends before the export."""

    @pytest.mark.parametrize("token", [{}, {"HF_TOKEN": "hf_of_somebody_else"}])
    def test_gated(self, hub: StandInHub, place: Place, token: dict[str, str]) -> None:
        hub.gated = True
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address, **token)
        assert_one_line_error(done, "gated", "HF_TOKEN", f"{hub.address}/{REPOSITORY}")
        assert place.names() == []

    def test_token_opens_the_gate(self, hub: StandInHub, place: Place) -> None:
        hub.gated = True
        del hub.files["config.json"]
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)
        assert_one_line_error(done, "lacks a required file")

    def test_missing_repository(self, hub: StandInHub, place: Place) -> None:
        done = place.run("--model", "notus-7b-v1", HF_ENDPOINT=hub.address)
        assert_one_line_error(done, "argilla/notus-7b-v1 does not exist at")
        assert place.names() == []

    def test_missing_revision(self, hub: StandInHub, place: Place) -> None:
        done = place.run("--model", NAME, "--revision", "nope", HF_ENDPOINT=hub.address)
        assert_one_line_error(done, "no revision 'nope'")

    @pytest.mark.parametrize("token", ["\u00e9", "hf_\x01"])
    def test_token_that_no_header_can_hold(self, hub: StandInHub, place: Place, token: str) -> None:
        assert_one_line_error(place.run("--model", NAME, HF_ENDPOINT=hub.address, HF_TOKEN=token), "HF_TOKEN contains")
        assert hub.requests == []

    @pytest.mark.parametrize("address", ["http://[::1", "http://localhost:port"])
    def test_endpoint_that_is_no_address(self, place: Place, address: str) -> None:
        assert_one_line_error(
            place.run("--model", NAME, HF_ENDPOINT=address), f"HF_ENDPOINT={address} is not a valid URL"
        )

    @pytest.mark.parametrize("address", ["127.0.0.1:22999", "localhost:22999", "ftp://hub.invalid"])
    def test_endpoint_without_http(self, place: Place, address: str) -> None:
        done = place.run("--model", NAME, HF_ENDPOINT=address)
        assert_one_line_error(done, f"HF_ENDPOINT={address} does not begin with http:// or https://")

    def test_no_network(self, place: Place) -> None:
        with socket.socket() as taken:  # bound but not listening: refuses connections
            taken.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{taken.getsockname()[1]}"
            done = place.run("--model", NAME, HF_ENDPOINT=address)
        assert_one_line_error(done, address, "check the network")
        assert place.names() == []

    def test_offline_without_cache(self, hub: StandInHub, place: Place) -> None:
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")
        assert_one_line_error(done, "HF_HUB_OFFLINE")
        assert hub.requests == []

    def test_damaged_download(self, hub: StandInHub, place: Place) -> None:
        hub.corrupt = True
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address)
        assert_one_line_error(done, ".safetensors is damaged")
        assert place.names() == []

    def test_no_hashes(self, hub: StandInHub, place: Place) -> None:
        hub.hashes = False
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address)
        assert_one_line_error(done, f"{hub.address} provides no hash to check config.json", "--source")

    def test_code_in_the_checkpoint(self, hub: StandInHub, place: Place) -> None:
        config = json.loads(hub.files["config.json"]) | {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
        hub.files["config.json"] = json.dumps(config).encode()
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address)
        assert_one_line_error(done, "auto_map")


@pytest.mark.slow
class TestTransfers:
    """Large files whose download breaks, stalls or is damaged: of an OpenVINO model, whose runs import no torch."""

    @pytest.fixture
    def hub(self, exported: dict[str, bytes]) -> Iterator[StandInHub]:
        with serve_hub({REPOSITORY: dict(exported)}) as stand_in:
            yield stand_in

    def test_too_little_disk(self, hub: StandInHub, place: Place) -> None:
        # A repository that claims to be larger than any disk; only its size is ever requested.
        class Huge(bytes):
            def __len__(self):
                return 10**18

        hub.files["openvino_model.bin"] = Huge()
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address)
        assert_one_line_error(done, "too little disk")
        assert "openvino_model.bin" not in hub.fetched()

    def test_download_that_keeps_breaking_off(self, hub: StandInHub, place: Place) -> None:
        hub.cut_weights = 1000
        hub.files = {
            name: content[:8] if name.endswith("model.bin") else content for name, content in hub.files.items()
        }
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address)
        assert_one_line_error(done, "run this again")
        assert place.names() == []

    def test_killed_download_leaves_nothing_in_the_cache(self, hub: StandInHub, place: Place) -> None:
        hub.stall_weights = True
        process = place.start("--model", NAME, HF_ENDPOINT=hub.address)
        assert hub.stalled.wait(60)
        process.kill()
        process.communicate()
        cache = Path(place.environment["HF_HOME"])
        assert list(cache.rglob("*.incomplete"))
        hub.stall_weights, hub.corrupt = False, True  # so that the next run ends before the export
        assert_one_line_error(place.run("--model", NAME, HF_ENDPOINT=hub.address), "damaged")
        assert not list(cache.rglob("*.incomplete"))
        assert place.names() == []

    @pytest.mark.parametrize("cache", [{}, {"HF_HUB_DISABLE_SYMLINKS": "1"}])
    def test_damaged_download(self, hub: StandInHub, place: Place, cache: dict[str, str]) -> None:
        hub.corrupt = True
        for _ in range(2):  # the damaged file is downloaded again
            done = place.run("--model", NAME, HF_ENDPOINT=hub.address, **cache)
            assert_one_line_error(done, "openvino_model.bin is damaged")
        assert place.names() == []
        weights = [request for request in hub.requests if re.match("GET .*/openvino_model.bin", request)]
        assert len(weights) == 2

    @pytest.mark.parametrize("cache", [{}, {"HF_HUB_DISABLE_SYMLINKS": "1"}])
    @pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
    def test_damaged_configuration_heals(self, hub: StandInHub, place: Place, name: str, cache: dict[str, str]) -> None:
        hub.corrupt = True  # so that no run reaches the export
        assert_one_line_error(
            place.run("--model", NAME, HF_ENDPOINT=hub.address, **cache), "openvino_model.bin is damaged"
        )
        [cached] = Path(place.environment["HF_HOME"]).rglob(f"snapshots/*/{name}")
        cached.write_bytes(b"[]")
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address, **cache)
        assert_one_line_error(done, f"error: {name} is damaged")
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address, **cache)
        assert_one_line_error(done, "openvino_model.bin is damaged")
        assert cached.read_bytes() == hub.files[name]

    def test_offline_with_a_cache_without_hashes(self, hub: StandInHub, place: Place) -> None:
        cache = {"HF_HUB_DISABLE_SYMLINKS": "1"}
        hub.corrupt = True
        assert_one_line_error(place.run("--model", NAME, HF_ENDPOINT=hub.address, **cache), "damaged")
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1", **cache)
        assert_one_line_error(done, "has no symlinks, and so no hashes", "unset HF_HUB_OFFLINE", "--source")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupt(self, hub: StandInHub, place: Place, number: signal.Signals) -> None:
        hub.stall_weights = True
        process = place.start("--model", NAME, HF_ENDPOINT=hub.address)
        assert hub.stalled.wait(60)
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
        assert_one_line_error(subprocess.CompletedProcess("", process.returncode, output, errors), "interrupted")
        assert place.names() == []


ANSWERS = [
    ((429, b"slow down", {"Retry-After": "7"}), ["too many requests (429)", "in 7 seconds", "HF_TOKEN"]),
    ((429, b"", {}), ["too many requests (429)", "in a few minutes"]),
    ((403, b"blocked", {}), ["forbids the download (403)", "HF_TOKEN", "network"]),
    ((401, b"", {}), ["set HF_TOKEN"]),
    ((503, b"<html>maintenance</html>", {}), ["server error (503)", "later"]),
    ((500, b"", {}), ["server error (500)", "later"]),
    ((407, b"", {}), ["(407)", "HTTPS_PROXY", "USER:PASSWORD"]),
    ((200, b"<html>log in</html>", {"Content-Type": "text/html"}), ["login page", "HF_ENDPOINT"]),
    ((511, b"<html>log in</html>", {"Content-Type": "text/html"}), ["login page", "HF_ENDPOINT"]),
    ((404, b"<html>nothing here</html>", {"Content-Type": "text/html"}), ["(404 Not Found)", "HF_ENDPOINT is"]),
    *(((status, b"no", {}), [f"({status} ", "HF_ENDPOINT is"]) for status in (400, 408, 418, 451)),
]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Future]]:
    """The results for all ANSWERS, run at once, since huggingface_hub retries after some of them for half a minute."""

    def ask(answer: tuple[int, bytes, dict[str, str]]) -> tuple[subprocess.CompletedProcess, list[str]]:
        place = make_place(tmp_path_factory.mktemp("answered"))
        with serve_hub({}) as hub:
            hub.answer_all = answer
            return place.run("--model", "org/name", HF_ENDPOINT=hub.address), place.names()

    with ThreadPoolExecutor(len(ANSWERS)) as pool:
        yield [pool.submit(ask, answer) for answer, _ in ANSWERS]


@pytest.mark.slow
class TestCauses:
    """Downloads that fail because of the network or something in it."""

    def run(self, place: Place, address: str, **environment: str) -> subprocess.CompletedProcess:
        done = place.run("--model", "org/name", HF_ENDPOINT=address, **environment)
        assert place.names() == []
        return done

    @pytest.mark.parametrize("number", range(len(ANSWERS)), ids=[str(answer[0]) for answer, _ in ANSWERS])
    def test_answer(self, answered: list[Future], number: int) -> None:
        done, names = answered[number].result(200)
        assert_one_line_error(done, *ANSWERS[number][1])
        assert names == []

    def test_login_page_that_the_hub_is_sent_on_to(self, hub: StandInHub, place: Place) -> None:
        with serve_hub({}) as portal:
            portal.answer_all = (200, b"<html>log in</html>", {"Content-Type": "text/html"})
            hub.answer_all = (302, b"", {"Location": f"{portal.address}/login"})
            assert_one_line_error(self.run(place, hub.address), "login page")

    def test_certificate(self, place: Place, tmp_path: Path) -> None:
        with served_with_own_certificate(tmp_path) as address:
            done = self.run(place, address)
        assert_one_line_error(done, f"the certificate of {address} is not trusted (self-signed", "SSL_CERT_FILE")

    @pytest.mark.parametrize("name", ["HTTPS_PROXY", "all_proxy"])
    def test_proxy_that_wants_a_password(self, hub: StandInHub, place: Place, name: str) -> None:
        hub.answer_all = (407, b"", {"Proxy-Authenticate": "Basic"})
        done = self.run(place, "https://hub.invalid", **{name: edited(hub.address, "//", "//user:secret@")})
        assert_one_line_error(done, f"the proxy of {name} ({hub.address.removeprefix('http://')})", "(407)")
        assert "secret" not in done.stderr

    def test_proxy_that_is_not_there(self, place: Place) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            proxy = f"127.0.0.1:{taken.getsockname()[1]}"
            done = self.run(place, "https://hub.invalid", HTTPS_PROXY=f"http://user:secret@{proxy}")
        assert_one_line_error(done, f"https://hub.invalid cannot be reached through the proxy of HTTPS_PROXY ({proxy})")
        assert "secret" not in done.stderr

    def test_socks_proxy_without_its_package(self, place: Place) -> None:
        done = self.run(place, "https://hub.invalid", ALL_PROXY="socks5://127.0.0.1:9")
        assert_one_line_error(done, "ALL_PROXY (socks5://127.0.0.1:9) is a SOCKS proxy", "pip install 'httpx[socks]'")

    def test_host_that_nobody_knows(self, place: Place) -> None:
        assert_one_line_error(self.run(place, "http://hub.invalid"), "http://hub.invalid cannot be reached")


@contextlib.contextmanager
def served_with_own_certificate(folder: Path) -> Iterator[str]:
    """The address of an HTTPS server with a self-signed certificate."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
        *subject,
    ]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
class TestReadyMade:
    """Repositories and folders that already hold an OpenVINO model."""

    ID = "OpenVINO/Tiny-int4-ov"

    def run(self, place: Place, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Run the command and check what it imports."""
        command = [sys.executable, "-X", "importtime", str(SCRIPT), *arguments]
        done = subprocess.run(
            command, cwd=place.folder, env=place.environment | environment, capture_output=True, text=True
        )
        lines = done.stderr.splitlines()
        imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
        assert not imported & {"torch", "nncf", "optimum"}
        done.stderr = "\n".join(line for line in lines if not line.startswith("import time:"))
        return done

    def test_is_taken_as_it_is(self, hub: StandInHub, place: Place, exported: dict[str, bytes]) -> None:
        hub.repositories[self.ID] = exported | {"model.safetensors": b"not needed", "README.md": b""}
        done = self.run(place, "--model", self.ID, HF_ENDPOINT=hub.address)
        assert done.returncode == 0, done.stderr
        assert place.names() == ["Tiny-int4-ov"]
        folder = place.folder / "Tiny-int4-ov"
        info = model_folder.check(folder)
        assert (info.model, info.precision, info.source) == (folder.name, "INT4", f"{self.ID}@{COMMIT}")
        assert info.packages["openvino"] == version("openvino")
        assert read_files(folder).items() >= exported.items()
        assert not hub.fetched() & {"model.safetensors", "README.md"}

        # Again from the cache, and from a folder.
        assert (
            self.run(place, "--model", self.ID, "--force", HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1").returncode == 0
        )
        (folder / model_folder.MODEL_INFO).unlink()
        done = self.run(place, "--model", "copy", "--source", folder.name)
        assert done.returncode == 0, done.stderr
        assert model_folder.check(place.folder / "copy").precision == "INT4"

    def test_what_is_missing_is_made(self, hub: StandInHub, place: Place, exported: dict[str, bytes]) -> None:
        made = ("openvino_tokenizer", "openvino_detokenizer", "generation_config")
        hub.repositories[self.ID] = {name: data for name, data in exported.items() if not name.startswith(made)}
        done = self.run(place, "--model", self.ID, HF_ENDPOINT=hub.address)
        assert done.returncode == 0, done.stderr
        folder = place.folder / "Tiny-int4-ov"
        model_folder.check(folder)
        assert model_folder.read_json(folder / "generation_config.json")["eos_token_id"] == 2
        assert (folder / "openvino_tokenizer.bin").read_bytes() == exported["openvino_tokenizer.bin"]

    def test_tokens_that_tokenizer_json_lacks_are_added(
        self, place: Place, exported: dict[str, bytes], tmp_path: Path
    ) -> None:
        config = json.loads(exported["tokenizer_config.json"]) | {"extra_special_tokens": ["<|im_start|>"]}
        source = write_files(tmp_path / "exported", exported | {"tokenizer_config.json": json.dumps(config).encode()})
        done = self.run(place, "--model", NAME, "--source", str(source))
        assert done.returncode == 0, done.stderr
        folder = place.folder / NAME
        assert b"<|im_start|>" in (folder / "tokenizer.json").read_bytes()
        assert b"<|im_start|>" in (folder / "openvino_tokenizer.bin").read_bytes()

    @pytest.mark.parametrize(
        ("change", "parts"),
        [
            ({"openvino_model.xml": lambda xml: edited(xml, b"ReadValue", b"Parameter")}, ["stateless model"]),
            ({"openvino_model.xml": lambda xml: xml[: len(xml) // 2]}, ["openvino_model.xml is damaged"]),
            ({"chat_template.jinja": None}, ["has no chat template"]),
            ({"tokenizer.json": None}, ["no tokenizer.json"]),
            ({"config.json": None}, ["config.json is missing"]),
            (
                {"config.json": lambda config: edited(config, b'"model_type": "llama"', b'"model_type": "mpt"')},
                ["OpenVINO GenAI runs incorrectly (mpt)"],
            ),
            (
                {"config.json": lambda config: edited(config, b'"max_position_embeddings": 256', b'"other": 256')},
                ["does not give the model's context length"],
            ),
            ({"openvino_tokenizer.xml": lambda _: b""}, ["openvino_tokenizer.xml is damaged: download it again"]),
            (
                {"openvino_detokenizer.bin": lambda data: data[:-1]},
                ["openvino_detokenizer.bin is damaged: download it again"],
            ),
            ({"generation_config.json": lambda _: b"{"}, ["generation_config.json can't be read"]),
        ],
        ids=[
            "stateless",
            "damaged",
            "no template",
            "no tokenizer",
            "no configuration",
            "answers differ",
            "no context length",
            "empty tokenizer",
            "truncated tokenizer",
            "damaged generation config",
        ],
    )
    def test_what_cannot_be_served(
        self, hub: StandInHub, place: Place, exported: dict[str, bytes], change: dict, parts: list[str]
    ) -> None:
        files = dict(exported)
        for name, edit in change.items():
            files[name] = edit(files[name]) if edit else b""
            if edit is None:
                del files[name]
        hub.repositories[self.ID] = files
        assert_one_line_error(self.run(place, "--model", self.ID, HF_ENDPOINT=hub.address), *parts)
        assert "openvino_model.bin" not in hub.fetched()
        assert place.names() == []

    def test_missing_weights(self, hub: StandInHub, place: Place, exported: dict[str, bytes]) -> None:
        hub.repositories[self.ID] = {name: data for name, data in exported.items() if name != "openvino_model.bin"}
        assert_one_line_error(
            self.run(place, "--model", self.ID, HF_ENDPOINT=hub.address), "lacks a required file: its weights"
        )


@pytest.mark.slow
class TestAnyRepository:
    """Models that are refused before anything large is downloaded."""

    @pytest.mark.parametrize(
        ("config", "part"),
        [
            ({"quantization_config": {"quant_method": "awq"}}, "quantized (awq)"),
            ({"architectures": ["LlamaForSequenceClassification"]}, "does not generate text"),
        ],
        ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
    )
    def test_by_its_configuration(self, hub: StandInHub, place: Place, config: dict, part: str) -> None:
        hub.files["config.json"] = json.dumps(json.loads(hub.files["config.json"]) | config).encode()
        hub.repositories["org/name"] = hub.files
        assert_one_line_error(place.run("--model", "org/name", HF_ENDPOINT=hub.address), part)
        assert not any(name.endswith(".safetensors") for name in hub.fetched())
        assert place.names() == []

    def test_without_a_chat_template(self, hub: StandInHub, place: Place) -> None:
        """A listed model and its repository have a fallback; other repositories have none."""
        hub.repositories["org/name"] = hub.files
        assert_one_line_error(place.run("--model", "org/name", HF_ENDPOINT=hub.address), "has no chat template")
        hub.corrupt = True  # so that the next run ends before the export
        assert_one_line_error(place.run("--model", REPOSITORY, HF_ENDPOINT=hub.address), "damaged")

    @pytest.mark.parametrize(
        ("files", "part"),
        [
            ({"adapter_config.json": b"{}", "adapter_model.safetensors": b""}, "holds only an adapter"),
            ({"model.Q4_K_M.gguf": b""}, "lacks a required file: config.json"),
        ],
    )
    def test_without_a_model(self, hub: StandInHub, place: Place, files: dict[str, bytes], part: str) -> None:
        hub.repositories["org/name"] = files
        assert_one_line_error(place.run("--model", "org/name", HF_ENDPOINT=hub.address), part)


@pytest.mark.slow
class TestSource:
    def test_pickled_weights_are_not_read(self, place: Place, small_checkpoint: Path, tmp_path: Path) -> None:
        source = tmp_path / "pickled"
        shutil.copytree(small_checkpoint, source, ignore=shutil.ignore_patterns("*.safetensors*"))
        (source / "pytorch_model.bin").write_bytes(b"\x80\x04")
        assert_one_line_error(place.run("--model", NAME, "--source", str(source)), "safetensors", "can run code")

    def test_truncated_weights(self, place: Place, small_checkpoint: Path, tmp_path: Path) -> None:
        source = tmp_path / "truncated"
        shutil.copytree(small_checkpoint, source)
        shard = sorted(source.glob("*.safetensors"))[-1]
        os.truncate(shard, shard.stat().st_size - 1)
        assert_one_line_error(place.run("--model", NAME, "--source", str(source)), shard.name, "truncated")
        assert place.names() == []

    def test_missing_weights(self, place: Place, small_checkpoint: Path, tmp_path: Path) -> None:
        source = tmp_path / "incomplete"
        shutil.copytree(small_checkpoint, source)
        config = json.loads((source / "config.json").read_text()) | {"num_hidden_layers": 3}
        (source / "config.json").write_text(json.dumps(config))
        assert_one_line_error(place.run("--model", NAME, "--source", str(source)), "lacks the weights model.layers.2")
        assert place.names() == []

    @pytest.mark.parametrize("place_of_source", [NAME, f"{NAME}/checkpoint", "."])
    def test_source_in_the_way_is_kept(self, place: Place, small_checkpoint: Path, place_of_source: str) -> None:
        source = place.folder / place_of_source
        shutil.copytree(small_checkpoint, source, dirs_exist_ok=True)
        (place.folder / "link").symlink_to(place_of_source)
        before = place.names()
        for path in (place_of_source, "link"):
            done = place.run("--model", NAME, "--source", path, "--force")
            assert_one_line_error(done, f"{path} is where {NAME} would be written: move it, or use --output-dir")
        assert place.names() == before
        for path in small_checkpoint.iterdir():
            assert (source / path.name).read_bytes() == path.read_bytes()

    def test_no_checkpoint(self, place: Place) -> None:
        assert_one_line_error(place.run("--model", NAME, "--source", "nowhere"), "nowhere/tokenizer_config.json")

    def test_loop_of_symlinks(self, place: Place, small_checkpoint: Path) -> None:
        (place.folder / "loop").symlink_to("loop")
        done = place.run("--model", NAME, "--source", "loop")
        assert_one_line_error(done, "loop/tokenizer_config.json cannot be read", "symbolic links")
        done = place.run("--model", NAME, "--source", str(small_checkpoint), "--output-dir", "loop")
        assert_one_line_error(done, "loop': check the path")
        assert place.names() == ["loop"]

    def test_disk_full(self, place: Place, small_checkpoint: Path) -> None:
        limit = 100_000  # maximum file size in bytes: less than the weights
        import resource

        done = subprocess.run(
            [sys.executable, str(SCRIPT), "--model", NAME, "--source", str(small_checkpoint)],
            cwd=place.folder,
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )
        assert_one_line_error(done, "disk is full")
        assert place.names() == []

    def test_reader_that_leaves(self, place: Place, exported: dict[str, bytes], tmp_path: Path) -> None:
        process = place.start("--model", NAME, "--source", str(write_files(tmp_path / "exported", exported)))
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=20) == 141
        assert place.names() == []

    def test_closed_outputs(self, place: Place, small_checkpoint: Path) -> None:
        arguments = [sys.executable, str(SCRIPT), "--model", NAME, "--source", str(small_checkpoint)]
        done = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *arguments], cwd=place.folder)
        assert done.returncode == 0
        assert model_folder.is_complete(place.folder / NAME)
        assert place.names() == [NAME]

    @pytest.mark.timeout(300 + 20 * KILLS)
    def test_killed(self, place: Place, exported: dict[str, bytes], tmp_path: Path) -> None:
        """SIGKILL at random moments (KILLS times) never leaves a broken folder, and the next run makes the same one."""
        arguments = ["--model", NAME, "--source", str(write_files(tmp_path / "exported", exported))]
        started = time.monotonic()
        assert place.run(*arguments).returncode == 0
        duration = time.monotonic() - started
        folder = place.folder / NAME
        undisturbed = hashes(folder)
        for _ in range(KILLS):
            if random.random() < 0.5:  # half of the runs replace a folder, half create it
                shutil.rmtree(folder, ignore_errors=True)
            existed = folder.exists()
            process = place.start(*arguments, "--force")
            try:
                # Most of the time goes into imports; the critical part is at the end.
                process.wait(timeout=duration * random.uniform(0.5, 1.0))
            except subprocess.TimeoutExpired:
                process.kill()
            process.communicate()
            if folder.exists():
                assert hashes(folder) == undisturbed
            elif existed:  # it was killed between the two renames
                assert hashes(place.folder / f".{NAME}.partial" / "old") == undisturbed
        assert place.run(*arguments, "--force").returncode == 0
        assert hashes(folder) == undisturbed
        assert place.names() == [NAME]

    def test_killed_while_it_exports(self, place: Place, small_checkpoint: Path, small_model: Path) -> None:
        arguments = ["--model", SMALL_MODEL, "--source", str(small_checkpoint)]
        process = place.start(*arguments)
        watch.until(lambda: list(place.folder.rglob("openvino_model.xml")) or process.poll() is not None)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert SMALL_MODEL not in place.names()
        assert place.run(*arguments).returncode == 0
        assert hashes(place.folder / SMALL_MODEL) == hashes(small_model)
        assert place.names() == [SMALL_MODEL]


@pytest.mark.slow
def test_help_is_quick_and_says_what_there_is() -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", str(SCRIPT), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for name in ("tiny-llama-1b-chat", "llama-2-chat-7b", "notus-7b-v1", "smollm2-135m-instruct", "qwen3-8b"):
        assert name in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "openvino", "nncf", "numpy", "huggingface_hub"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--model", "gpt-5"],
        ["--model", "../up"],
        ["--model", "org/.."],
        ["--model", "org/na me"],
        ["--model", "a/b/c"],
        ["--model", "..", "--source", "somewhere"],
        ["--model", "org/na me", "--source", "somewhere"],
        ["--model", "my model"],
        ["--model", "smollm2-135m-instruct", "--revision", "x"],
        ["--model", "mine", "--source", "somewhere", "--revision", "x"],
    ],
)
def test_wrong_arguments(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage:" in done.stderr
