"""download_model.py as its users run it: as a process, against a hub on localhost."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from text_generation import model_folder

SCRIPT = Path(__file__).parent.parent / "download_model.py"
REPOSITORY = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
NAME = "tiny-llama-1b-chat"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
KILLS = int(os.environ.get("KILLS", "2"))
TOKEN = "hf_of_someone_who_accepted"


@dataclass
class StandInHub:
    """The Hub's API as far as a download needs it, with one repository, and ways to misbehave."""

    files: dict[str, bytes]
    gated: bool = False
    corrupt: bool = False
    hashes: bool = True
    cut_weights: int = 0  # how many downloads of weights break off half way
    stall_weights: bool = False
    requests: list[str] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.split("?")[0]
        self.requests.append(f"{handler.command} {path}")
        if path == f"/api/models/{REPOSITORY}/revision/main" or path == f"/api/models/{REPOSITORY}/revision/{COMMIT}":
            siblings = [{"rfilename": name} for name in self.files]
            self.send(handler, 200, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode())
        elif match := re.fullmatch(rf"/{REPOSITORY}/resolve/(\w+)/(.+)", path):
            revision, name = match.groups()
            if self.gated and handler.headers.get("Authorization") != f"Bearer {TOKEN}":
                status = 403 if "Authorization" in handler.headers else 401
                self.send(handler, status, b"", {"X-Error-Code": "GatedRepo"})
            elif revision not in ("main", COMMIT):
                self.send(handler, 404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif name not in self.files:
                self.send(handler, 404, b"", {"X-Error-Code": "EntryNotFound"})
            else:
                self.send_file(handler, name)
        else:
            self.send(handler, 404, b"", {"X-Error-Code": "RepoNotFound"})

    def send_file(self, handler: BaseHTTPRequestHandler, name: str) -> None:
        content = self.files[name]
        tag = hashlib.sha256(content).hexdigest() if self.hashes else f"version-1-of-{name}"
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
        weights = name.endswith(".safetensors") and handler.command == "GET"
        if weights and self.corrupt:
            content = content[:-8] + b"corrupt!"
        if range_header := handler.headers.get("Range"):
            start = int(re.fullmatch(r"bytes=(\d+)-", range_header)[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[start:]
        else:
            status = 200
        if weights and (self.stall_weights or self.cut_weights):
            self.send(handler, status, content[: len(content) // 2], headers, announced=len(content))
            if self.stall_weights:
                self.stalled.set()
                handler.rfile.read(1)  # until the client goes
            else:
                self.cut_weights -= 1
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.send(handler, status, content, headers)

    def send(self, handler, status: int, content: bytes, headers=None, announced: int | None = None) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content) if announced is None else announced))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)
            handler.wfile.flush()


@pytest.fixture
def hub(small_checkpoint: Path) -> Iterator[StandInHub]:
    stand_in = StandInHub({path.name: path.read_bytes() for path in small_checkpoint.iterdir()})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            stand_in.answer(self)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    stand_in.address = f"http://127.0.0.1:{server.server_port}"
    yield stand_in
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Place:
    """Where a test runs the script: an empty working folder and a home of its own."""

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


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "work"
    folder.mkdir()
    hf = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE"))}
    return Place(folder, hf | {"HF_HOME": str(tmp_path / "hf")})


def assert_one_line_error(done: subprocess.CompletedProcess, *parts: str) -> None:
    assert done.returncode == 1, done
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    for part in parts:
        assert part in done.stderr


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.slow
def test_downloads_and_exports(hub: StandInHub, place: Place, small_checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hub.cut_weights = 1
    hub.files |= {"modeling_evil.py": b"raise SystemExit", "pytorch_model.bin": b"pickle", "sub/model.safetensors": b""}
    done = place.run("--model", NAME, HF_ENDPOINT=hub.address)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert place.names() == [NAME]
    fetched = {request.rpartition("/")[2] for request in hub.requests if request.startswith("GET")}
    assert not fetched & {"modeling_evil.py", "pytorch_model.bin"}

    folder = place.folder / NAME
    info = model_folder.check(folder)
    assert (info.model, info.precision, info.source) == (NAME, "FP32", f"{REPOSITORY}@{COMMIT}")
    assert info.packages["openvino"]
    tokenizer = AutoTokenizer.from_pretrained(folder)  # with the model's fallback for a chat template
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True).startswith(
        "<|user|>\nHi</s>"
    )

    # What the model computes is what the checkpoint computes, in FP32, with the KV cache inside.
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

    # Again: refused, then, offline, replaced from the cache.
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
    """Each ends before anything is exported, so each takes a second."""

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
        assert_one_line_error(done, "lacks a file")

    def test_missing_repository(self, hub: StandInHub, place: Place) -> None:
        done = place.run("--model", "notus-7b-v1", HF_ENDPOINT=hub.address)
        assert_one_line_error(done, "argilla/notus-7b-v1 is not at")
        assert place.names() == []

    def test_missing_revision(self, hub: StandInHub, place: Place) -> None:
        done = place.run("--model", NAME, "--revision", "nope", HF_ENDPOINT=hub.address)
        assert_one_line_error(done, "no revision 'nope'")

    @pytest.mark.parametrize("token", ["\u00e9", "hf_\x01"])
    def test_token_that_no_header_can_hold(self, hub: StandInHub, place: Place, token: str) -> None:
        assert_one_line_error(place.run("--model", NAME, HF_ENDPOINT=hub.address, HF_TOKEN=token), "HF_TOKEN holds")
        assert hub.requests == []

    @pytest.mark.parametrize("address", ["http://[::1", "http://localhost:port"])
    def test_endpoint_that_is_no_address(self, place: Place, address: str) -> None:
        assert_one_line_error(place.run("--model", NAME, HF_ENDPOINT=address), f"HF_ENDPOINT={address} is no address")

    def test_no_network(self, place: Place) -> None:
        with socket.socket() as taken:  # bound, not listening: refuses connections
            taken.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{taken.getsockname()[1]}"
            done = place.run("--model", NAME, HF_ENDPOINT=address)
        assert_one_line_error(done, address, "check the network")
        assert place.names() == []

    def test_offline_without_cache(self, hub: StandInHub, place: Place) -> None:
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1")
        assert_one_line_error(done, "HF_HUB_OFFLINE")
        assert hub.requests == []

    def test_download_that_keeps_breaking_off(self, hub: StandInHub, place: Place) -> None:
        hub.cut_weights = 1000
        hub.files = {name: content[:8] if name.endswith("tensors") else content for name, content in hub.files.items()}
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
        for _ in range(2):  # the damaged file is fetched again
            done = place.run("--model", NAME, HF_ENDPOINT=hub.address, **cache)
            assert_one_line_error(done, ".safetensors is damaged")
        assert place.names() == []
        weights = [request for request in hub.requests if re.match(r"GET .*/model-00001-of-.*\.safetensors", request)]
        assert len(weights) == 2

    @pytest.mark.parametrize("cache", [{}, {"HF_HUB_DISABLE_SYMLINKS": "1"}])
    @pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
    def test_damaged_configuration_heals(self, hub: StandInHub, place: Place, name: str, cache: dict[str, str]) -> None:
        hub.corrupt = True  # so that no run gets to the export
        assert_one_line_error(place.run("--model", NAME, HF_ENDPOINT=hub.address, **cache), ".safetensors is damaged")
        [cached] = Path(place.environment["HF_HOME"]).rglob(f"snapshots/*/{name}")
        cached.write_bytes(b"[]")
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address, **cache)
        assert_one_line_error(done, f"error: {name} is damaged")
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address, **cache)
        assert_one_line_error(done, ".safetensors is damaged")
        assert cached.read_bytes() == hub.files[name]

    def test_no_hashes(self, hub: StandInHub, place: Place) -> None:
        hub.hashes = False
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address)
        assert_one_line_error(done, f"{hub.address} gives no hash to check config.json with", "--source")

    def test_offline_with_a_cache_without_hashes(self, hub: StandInHub, place: Place) -> None:
        cache = {"HF_HUB_DISABLE_SYMLINKS": "1"}
        hub.corrupt = True
        assert_one_line_error(place.run("--model", NAME, HF_ENDPOINT=hub.address, **cache), "damaged")
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="1", **cache)
        assert_one_line_error(done, "has no symlinks, and so no hashes", "unset HF_HUB_OFFLINE", "--source")

    def test_too_little_disk(self, hub: StandInHub, place: Place) -> None:
        # A repository that says it holds more than any disk: only its size is ever asked for.
        class Huge(bytes):
            def __len__(self):
                return 10**18

        hub.files["model-00009-of-00009.safetensors"] = Huge()
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address)
        assert_one_line_error(done, "too little disk")
        assert not any("GET" in request and "safetensors" in request for request in hub.requests)

    def test_code_in_the_checkpoint(self, hub: StandInHub, place: Place) -> None:
        config = json.loads(hub.files["config.json"]) | {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
        hub.files["config.json"] = json.dumps(config).encode()
        done = place.run("--model", NAME, HF_ENDPOINT=hub.address)
        assert_one_line_error(done, "auto_map")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupt(self, hub: StandInHub, place: Place, number: signal.Signals) -> None:
        hub.stall_weights = True
        process = place.start("--model", NAME, HF_ENDPOINT=hub.address)
        assert hub.stalled.wait(60)
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
        assert_one_line_error(subprocess.CompletedProcess("", process.returncode, output, errors), "interrupted")
        assert place.names() == []


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

    def test_disk_full(self, place: Place, small_checkpoint: Path) -> None:
        limit = 100_000  # bytes that a file may have: less than the weights
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

    def test_reader_that_leaves(self, place: Place, small_checkpoint: Path) -> None:
        process = place.start("--model", NAME, "--source", str(small_checkpoint))
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

    @pytest.mark.timeout(300 + 60 * KILLS)
    def test_killed(self, place: Place, small_checkpoint: Path) -> None:
        """SIGKILL at random moments (KILLS of them): never a broken folder, and the next run makes the same one."""
        arguments = ["--model", NAME, "--source", str(small_checkpoint)]
        started = time.monotonic()
        assert place.run(*arguments).returncode == 0
        duration = time.monotonic() - started
        folder = place.folder / NAME
        undisturbed = hashes(folder)
        for _ in range(KILLS):
            if random.random() < 0.5:  # half of the runs replace a folder, half make it
                shutil.rmtree(folder, ignore_errors=True)
            existed = folder.exists()
            process = place.start(*arguments, "--force")
            try:
                # Most of the time goes into imports; what matters comes at the end.
                process.wait(timeout=duration * random.uniform(0.5, 1.0))
            except subprocess.TimeoutExpired:
                process.kill()
            process.communicate()
            if existed or folder.exists():
                assert hashes(folder) == undisturbed
        assert place.run(*arguments, "--force").returncode == 0
        assert hashes(folder) == undisturbed
        assert place.names() == [NAME]


def test_help_is_quick_and_says_what_there_is() -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", str(SCRIPT), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for name in ("tiny-llama-1b-chat", "llama-2-chat-7b", "notus-7b-v1", "smollm2-135m-instruct"):
        assert name in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "openvino", "nncf", "numpy", "huggingface_hub"}


@pytest.mark.parametrize(
    "arguments", [[], ["--model", "gpt-5"], ["--model", "smollm2-135m-instruct", "--revision", "x"]]
)
def test_wrong_arguments(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage:" in done.stderr
