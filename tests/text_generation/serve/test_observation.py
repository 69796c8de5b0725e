import json
import logging
import re
import subprocess
import sys
import urllib.request

import pytest
from tokenizers import Tokenizer, models

from ovms_local.testing import free_port
from tests.support import log_lines
from text_generation.errors import BusyError, RequestError
from text_generation.serve.generation import Completion, Ends
from text_generation.serve.logs import JsonFormatter
from text_generation.serve.metrics import Metrics
from text_generation.serve.observation import Observation
from text_generation.serve.settings import SettingError


def completion(tokens: int, finish_reason: str | None) -> Completion:
    made = Completion(Tokenizer(models.BPE()), Ends(frozenset(), frozenset()))
    made.token_ids = [0] * tokens
    made.finish_reason = finish_reason
    return made


def observed(caplog, *completions: Completion, error: BaseException | None = None) -> str:
    """Return the access line of a request with these completions, each with a prompt of three tokens."""
    observation = Observation()
    with caplog.at_level(logging.INFO, "text_generation"):
        try:
            with observation:
                observation.generating([3] * len(completions), completions)
                observation.queued()
                observation.admitted()
                observation.step(1, 1)
                if error is not None:
                    raise error
        except type(error):
            pass
    line = caplog.records[-1].getMessage()
    assert line.endswith(f"; request {observation.request_id}")
    return line


@pytest.mark.parametrize(
    ("completions", "error", "ended"),
    [
        ([completion(5, "stop")], None, "stop"),
        ([completion(5, "stop"), completion(6, "length"), completion(1, "stop")], None, "length, stop"),
        ([completion(5, "stop"), completion(6, None)], GeneratorExit(), "cancelled"),
        ([completion(1, None)], None, "cancelled"),
        ([completion(5, None)], RuntimeError("secret"), "internal"),
        ([completion(0, None)], BusyError("busy"), "busy"),
    ],
)
def test_the_access_line_says_what_it_cost_and_why_it_ended(caplog, completions, error, ended):
    line = observed(caplog, *completions, error=error)
    prompts, tokens = len(completions), sum(len(own.token_ids) for own in completions)
    generated = f"{prompts} prompt{'s' * (prompts != 1)}: {tokens} token{'s' * (tokens != 1)} generated"
    numbers = rf"{generated} in \d+\.\d\d s; {3 * prompts} prompt tokens"
    assert re.fullmatch(
        rf"{numbers}, queue \d+\.\d\d s, first token \d+\.\d\d s; {ended}; request [0-9a-f]{{16}}", line
    )


def test_a_refused_request_has_a_line_of_its_own_behind_the_reason(caplog):
    with caplog.at_level(logging.INFO, "text_generation"), pytest.raises(RequestError), Observation():
        raise RequestError("prompt 1 of 1 is empty")
    reason, line = (record.getMessage() for record in caplog.records)
    assert reason == f"{log_lines.REQUEST_REFUSED}prompt 1 of 1 is empty"
    assert re.fullmatch(r"refused in \d+\.\d\d s; bad_request; request [0-9a-f]{16}", line)


def test_an_error_of_another_library_is_one_line_of_limited_length(caplog):
    with caplog.at_level(logging.INFO, "text_generation"), pytest.raises(RuntimeError), Observation():
        raise RuntimeError(f"\x1b[31m{'x' * 10_000}\nmore")
    reason = caplog.records[0].getMessage()
    assert reason.startswith("request failed: RuntimeError: \\x1b[31mxxx")
    assert reason.isprintable()
    assert len(reason) < 1000


def test_json_is_one_line_whatever_is_in_a_record():
    try:
        raise RuntimeError("first line\nsecond line")
    except RuntimeError:
        record = logging.LogRecord("text_generation.x", logging.ERROR, "", 0, "a\n%s", ("b\u2028",), sys.exc_info())
    record.fields = {"request_id": "7"}
    text = JsonFormatter().format(record)
    assert text.isascii()
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["message"], line["request_id"]) == ("ERROR", "a\nb\u2028", "7")
    assert line["traceback"].endswith("RuntimeError: first line\nsecond line")


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_log_is_set_up_once_however_many_servables_do_so(log_format):
    program = (
        "import logging; from text_generation.serve.logs import set_up_logging\n"
        "from text_generation.serve.settings import Settings\n"
        f"for _ in range(2): set_up_logging(Settings(log_format={log_format!r}, log_level='INFO'))\n"
        "logging.getLogger('text_generation.x').info('told'); logging.getLogger('text_generation.x').debug('not told')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    [line] = done.stderr.splitlines()
    assert (json.loads(line)["message"] if log_format == "json" else line.rpartition(" ")[2]) == "told"


def test_a_port_is_free_again_once_its_metrics_are_closed():
    port = free_port()
    for _ in range(2):
        metrics = Metrics("m", "127.0.0.1", port)
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").status == 200
        with pytest.raises(SettingError, match=f"LLM_METRICS_PORT is {port}: can't listen .* in use"):
            Metrics("m", "127.0.0.1", port)
        metrics.close()


def test_an_address_that_is_not_this_machines_is_one_line():
    with pytest.raises(SettingError, match=r"can't listen on 192\.0\.2\.1:\d+: ") as error:
        Metrics("m", "192.0.2.1", free_port())
    assert "\n" not in str(error.value)
