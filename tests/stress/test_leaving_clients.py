"""Clients that leave in the middle: killed, cancelled, cut off, or timed out."""

import random
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.support import clients, log_lines, watch
from tests.support.cutting_proxy import CuttingProxy, proxy_to

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

CLIENT = Path(__file__).parent.parent.parent / "client_stream.py"
# One place and no queue: if a place is not released, the next client's request fails. Without an early end, the
# completions are long enough for every client to leave in the middle of one. GenAI uses all its cache in turn, however
# little it needs at once: half of the clients of the long version fill this one; then memory must stay flat.
ONE_PLACE = {
    "MAX_CONCURRENT_REQUESTS": 1,
    "MAX_QUEUED_REQUESTS": 0,
    "KV_CACHE_GB": 1,
    "MAX_NEW_TOKENS": 400,
    "IGNORE_EOS": 1,
    "LOG_LEVEL": "DEBUG",
}
STORY = "Tell me a story about the sea. "
PROMPTS = ["What is the theory of relativity?", STORY * 150]
WAYS = ("killed", "cancelled", "cut off")
LATE_TOKENS = 40  # half a second on an idle machine; without an early end there would be hundreds


@contextmanager
def asking(url: str, prompt: str) -> Iterator[subprocess.Popen]:
    """Run client_stream.py."""
    command = [sys.executable, str(CLIENT), "--url", url, "--prompt", prompt]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def test_generation_ends_with_the_stream(serving, engine, scale, report, int8_model):
    chance = random.Random(5)
    tokenizer = Tokenizer.from_file(str(int8_model / "tokenizer.json"))
    title = f"{engine}: streaming clients killed, cancelled or cut off at a random moment"
    with report.row(title) as row, serving("stream", ENGINE=engine, **ONE_PLACE) as server:
        # The server creates threads when it first needs them, the last one for a long answer to a long prompt.
        for prompt in PROMPTS:
            for way in WAYS:
                leave(server, way, 40, prompt, tokenizer)
        threads = watch.threads(server)
        delays = []
        for number in range(scale.leaving_clients):
            if number == scale.leaving_clients // 2:
                memory = watch.resident_mb(server)
            way, moment, prompt = WAYS[number % 3], chance.choice([0, chance.randrange(1, 60)]), chance.choice(PROMPTS)
            too_many, seconds, work = leave(server, way, moment, prompt, tokenizer)
            row.done += 1
            if moment:
                delays.append(seconds)
                late = too_many > 2 and seconds > 0.5 if scale.times else too_many > LATE_TOKENS
                if late or work > 1:
                    row.lost.append(
                        f"{way} after {moment} pieces: {too_many} tokens, {seconds:.2f} s and {work:.2f} s of work more"
                    )
        answer = clients.stream(server.grpc_url, "Hi", lambda pieces: pieces < 20)
        assert answer.error is None
        # A pool may have started another thread meanwhile, but not one for each client that left.
        watch.until(lambda: watch.threads(server) < threads + scale.leaving_clients)
        now = watch.resident_mb(server)
        # The cache and prefill memory of the longest prompt, and the allocator's reserve.
        assert now < 1.25 * memory, f"{memory:.0f} MB, then {now:.0f} MB"
        row.measured = f"generation over after {statistics.median(delays):.3f} s in the median, {max(delays):.3f} s at"
        row.measured += f" most; memory {now - memory:+.0f} MB"


def leave(server, way: str, moment: int, prompt: str, tokenizer: Tokenizer) -> tuple[int, float, float]:
    """Leave after `moment` pieces, at once if it is 0.

    Return what followed: tokens, seconds until the generation ended, and CPU seconds until the server was idle, since
    an engine might continue a generation that nobody reads.
    """
    asked, ended = watch.asked(server), len(watch.generated(server))
    with proxy_to(server.grpc_port) as proxy, asking(proxy.url, prompt) as client:
        watch.until(lambda: watch.asked(server) > asked)
        if moment:
            question = client.stdout.read(len(f"Question:\n{prompt}\n\n".encode()))
            assert question.decode() == f"Question:\n{prompt}\n\n"
        seen = b"".join(client.stdout.read1() for _ in range(moment))
        used = watch.processor_seconds(server)
        go(way, client, proxy)
        seconds = watch.until(lambda: len(watch.generated(server)) > ended)
        watch.until_idle(server)
        used = watch.processor_seconds(server) - used
        if way == "cancelled":
            assert client.wait(30) == 130
    answered = tokenizer.encode(seen.decode(errors="ignore")).ids
    return watch.generated(server)[ended] - len(answered), seconds, used


def go(way: str, client: subprocess.Popen, proxy: CuttingProxy) -> None:
    if way == "killed":
        client.kill()
    elif way == "cancelled":
        client.send_signal(signal.SIGINT)
    else:
        proxy.cut()


def test_who_leaves_while_waiting_makes_room_in_the_queue(serving, engine, scale, report):
    title = f"{engine}: streaming clients killed, cancelled or cut off while they wait for a place"
    settings = ONE_PLACE | {"MAX_QUEUED_REQUESTS": 1, "QUEUE_TIMEOUT_S": 600, "MAX_NEW_TOKENS": 8000}
    with (
        report.row(title) as row,
        serving("stream", ENGINE=engine, **settings) as server,
        clients.open_stream(server.grpc_url) as running,
    ):
        running.send("python_model", clients.text_input("pre_prompt", "Hi"))
        running.receive()
        for way in (WAYS * 3)[: scale.leaving_clients]:  # not longer, or the answer for which they wait would end
            asked, ended = watch.asked(server), len(watch.generated(server))
            with proxy_to(server.grpc_port) as proxy, asking(proxy.url, STORY) as client:
                watch.until(lambda before=asked: watch.asked(server) > before)
                go(way, client, proxy)
                seconds = watch.until(lambda before=ended: len(watch.generated(server)) > before)
            row.done += 1
            # Its absence is noticed by the message sent once a second; the next one finds space in the queue, or none.
            if watch.generated(server)[ended] != 0 or (scale.times and seconds > 2):
                row.lost.append(f"{way}: {watch.generated(server)[ended]} tokens, {seconds:.1f} s")
        assert log_lines.BUSY not in server.log


def test_a_unary_call_whose_deadline_passes_ends_by_itself(serving, engine, scale, report):
    title = f"{engine}: unary calls whose deadline passes run to MAX_NEW_TOKENS and leave nothing behind"
    settings = ONE_PLACE | {"MAX_NEW_TOKENS": 40}
    with report.row(title) as row, serving("unary", ENGINE=engine, **settings) as server:
        assert clients.unary(server.grpc_url, "Hi").error is None
        with InferenceServerClient(server.grpc_url) as client:
            for number in range(scale.leaving_clients):
                if number == scale.leaving_clients // 2:
                    memory = watch.resident_mb(server)
                with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
                    client.infer("python_model", clients.text_input("pre_prompt", STORY * 60), client_timeout=0.1)
                row.done += 1
                watch.until(lambda ended=1 + row.done: len(watch.generated(server)) == ended)  # "Hi" is one, too
        assert all(0 < count <= 40 for count in watch.generated(server))
        assert clients.unary(server.grpc_url, "Hi").error is None
        now = watch.resident_mb(server)
        assert now < 1.1 * memory, f"{memory:.0f} MB, then {now:.0f} MB"
        row.measured = f"memory {now - memory:+.0f} MB"
