"""The part of the Hub's API that a download needs, on localhost, with ways to misbehave."""

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_someone_who_accepted"


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the content of a repository made from this folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@dataclass
class StandInHub:
    """Repositories by name, each a mapping from file name to content; `files` are those of REPOSITORY."""

    repositories: dict[str, dict[str, bytes]]
    address: str = ""
    gated: bool = False
    corrupt: bool = False
    hashes: bool = True
    cut_weights: int = 0  # how many downloads of weights break halfway
    stall_weights: bool = False
    answer_all: tuple[int, bytes, dict[str, str]] | None = None  # status, content and headers for every request
    requests: list[str] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)

    @property
    def files(self) -> dict[str, bytes]:
        return self.repositories[REPOSITORY]

    @files.setter
    def files(self, files: dict[str, bytes]) -> None:
        self.repositories[REPOSITORY] = files

    def fetched(self) -> set[str]:
        """Return the names of the files that were downloaded."""
        return {
            request.rpartition("/")[2]
            for request in self.requests
            if request.startswith("GET /") and "/resolve/" in request
        }

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.split("?")[0]
        self.requests.append(f"{handler.command} {path}")
        asked = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/]+)/(revision|resolve)/(\w+)(?:/(.+))?", path)
        if self.answer_all is not None:
            self.send(handler, *self.answer_all)
        elif asked is None or asked[1] not in self.repositories:
            self.send(handler, 404, b"", {"X-Error-Code": "RepoNotFound"})
        elif asked[2] == "revision" and asked[3] in ("main", COMMIT):
            siblings = [{"rfilename": name} for name in self.repositories[asked[1]]]
            self.send(handler, 200, json.dumps({"id": asked[1], "sha": COMMIT, "siblings": siblings}).encode())
        elif self.gated and handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 403 if "Authorization" in handler.headers else 401
            self.send(handler, status, b"", {"X-Error-Code": "GatedRepo"})
        elif asked[3] not in ("main", COMMIT):
            self.send(handler, 404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif asked[4] not in self.repositories[asked[1]]:
            self.send(handler, 404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self.send_file(handler, asked[4], self.repositories[asked[1]][asked[4]])

    def send_file(self, handler: BaseHTTPRequestHandler, name: str, content: bytes) -> None:
        tag = hashlib.sha256(content).hexdigest() if self.hashes else f"version-1-of-{name}"
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
        weights = name.endswith((".safetensors", "openvino_model.bin")) and handler.command == "GET"
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
                handler.rfile.read(1)  # until the client leaves
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


@contextmanager
def serve_hub(repositories: dict[str, dict[str, bytes]]) -> Iterator[StandInHub]:
    """Run a hub with these repositories on a free port; its `address` is for HF_ENDPOINT."""
    stand_in = StandInHub(repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            stand_in.answer(self)

        do_HEAD = do_CONNECT = do_GET  # noqa: N815

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
