"""client_chat.py on a terminal and in a pipe, with scripted answers."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.cells import cell_len

from ovms_local.testing import RunningServer, free_port, serve
from tests.scripted_chat.scripted_answers import ANSWERS
from tests.support import watch
from tests.support.terminal import Terminal, needs_tmux, terminal

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CLIENT = [sys.executable, str(ROOT / "client_chat.py"), "--url"]
GREETING = "/help lists the commands; an empty line or Ctrl-D quits\n"
NUMBERS = r"\d+ tokens?, \d+\.\d tokens/s, first token after \d+ ms"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve(Path(__file__).parent / "scripted_chat") as running:
        yield running


@pytest.fixture
def chatting(server: RunningServer) -> Iterator[Callable[..., Terminal]]:
    """Start a conversation in a terminal."""
    with ExitStack() as terminals:

        def start(*arguments: str, columns: int = 80, rows: int = 24) -> Terminal:
            command = [*CLIENT, server.grpc_url, *arguments]
            window = terminals.enter_context(terminal(command, columns, rows))
            watch.until(lambda: window.screen.rstrip().endswith("\n>"))
            return window

        yield start


@pytest.fixture(scope="module")
def real_server(fp32_model: Path) -> Iterator[RunningServer]:
    """servable_chat with the real model, with space for a few turns."""
    env = {"ENGINE": "genai", "MODEL_PATH": str(fp32_model), "MAX_NEW_TOKENS": "40", "TEMPERATURE": "0"}
    with serve(ROOT / "servable_chat", env=env | {"MAX_PROMPT_TOKENS_PER_REQUEST": "100"}) as running:
        yield running


def answered(window: Terminal, times: int = 1) -> None:
    """Wait until this many answers are complete and the next question can be typed."""
    watch.until(lambda: len(re.findall("first token after", joined(window.scrolled))) >= times)
    watch.until(lambda: window.screen.rstrip().endswith("\n>"))


def joined(text: str) -> str:
    return " ".join(text.split())


def piped(url: str, text: str | bytes, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*CLIENT, url, *arguments],
        input=text if isinstance(text, bytes) else text.encode(),
        capture_output=True,
        env=os.environ | env,
        check=False,
        timeout=120,
    )


@needs_tmux
class TestTerminal:
    def test_a_conversation(self, chatting):
        window = chatting("--system", "Be brief.")
        window.type("say Tokyo.")
        answered(window)
        window.type("messages")
        answered(window, 2)
        layout = (
            re.escape(GREETING)
            + r"> say Tokyo\.\nTokyo\.\n" + NUMBERS + r"\n\n"
            + r"> messages\n(?P<messages>\[.+\])\n" + NUMBERS + r"\n\n>\n*"
        )  # fmt: skip
        screen = re.fullmatch(layout, window.screen.lstrip("\n"), re.DOTALL)
        assert screen, window.screen
        messages = json.loads(screen["messages"].replace("\n", " "))
        assert [message["content"] for message in messages] == ["Be brief.", "say Tokyo.", "Tokyo.", "messages"]
        window.send("C-d")
        assert window.until_ended() == 0

    def test_an_empty_line_leaves(self, chatting):
        window = chatting()
        window.send("Enter")
        assert window.until_ended() == 0

    def test_lines_are_edited_and_found_again(self, chatting):
        window = chatting()
        window.type("say first")
        answered(window)
        window.send("Up", "Space", "a", "BSpace", "a", "g", "a", "i", "n", "Enter")
        window.until("> say first again\nfirst again\n")

    def test_pasted_lines_are_one_question(self, chatting):
        window = chatting()
        window.paste("say " + "long " * 40 + "\nsecond\nthird")
        window.send("Enter")
        answered(window)
        assert joined(window.scrolled).count("long " * 40 + "second third") == 2

    @pytest.mark.parametrize("columns", [20, 79, 80])
    def test_wide_characters_and_words_are_whole(self, chatting, columns, monkeypatch):
        monkeypatch.setenv("COLUMNS", "100")  # exported, but no longer true
        window = chatting(columns=columns)
        window.type("wide")
        answered(window)
        _, _, answer = window.scrolled.partition("> wide\n")
        lines = re.split(r"\d+ tokens", answer)[0].splitlines()
        assert "".join("".join(lines).split()) == "".join(ANSWERS["wide"].split())
        assert max(map(cell_len, lines)) > columns - 10
        assert max(map(cell_len, lines)) <= columns
        assert all(word in ("emoji", "words") for word in re.findall("[a-z]+", "\n".join(lines)))

    def test_of_a_long_answer_the_end_is_shown_and_then_all_of_it(self, chatting):
        window = chatting(rows=10)
        window.type("endless")
        window.until("word400")
        assert "word0 " not in window.scrolled
        window.send("C-c")
        window.until("stopped")
        numbers = [int(number) for number in re.findall(r"word(\d+)", window.scrolled)]
        assert numbers == list(range(len(numbers)))
        window.type("long")
        answered(window)
        sentences = re.findall(r"^Sentence (\d+) of an answer that goes beyond the screen\.$", window.scrolled, re.M)
        assert sentences == [str(number) for number in range(60)]

    def test_a_window_made_narrower_while_the_answer_grows(self, chatting):
        window = chatting()
        window.type("endless")
        window.until("word60")
        window.resize(43, 24)
        window.until("word100")
        window.send("C-c")
        window.until("stopped")
        # A frame that was being drawn may have left rows above.
        whole = window.scrolled[window.scrolled.rindex("word0 ") :]
        numbers = [int(number) for number in re.findall(r"word(\d+)", whole)]
        assert numbers == list(range(len(numbers)))
        assert max(map(len, whole.splitlines())) <= 43

    def test_ctrl_c_ends_the_answer_and_not_the_conversation(self, chatting, server):
        already = server.log.count("left")
        window = chatting()
        window.type("endless")
        window.until("word20")
        window.send("C-c")
        window.until("stopped; the partial answer is kept")
        watch.until(lambda: server.log.count("left") > already)
        window.type("messages")
        answered(window)
        assert re.search(r'"role": "assistant", "content": "word0 word1 ', joined(window.scrolled))
        window.send("C-c")  # also at the prompt
        watch.until(lambda: window.screen.rstrip().endswith("\n>\n>"))
        window.type("say goodbye")
        window.until("> say goodbye\ngoodbye\n")

    def test_what_is_typed_meanwhile_is_the_next_line(self, chatting):
        window = chatting()
        window.type("long")
        window.until("Sentence 1 ")
        window.send("-l", "say typed")
        window.until("first token after", "\n> say typed")
        assert window.scrolled.count("say typed") == 1
        window.send("Enter")
        window.until("> say typed\ntyped\n")

    def test_a_busy_server_ends_the_answer_and_retry_asks_again(self, chatting):
        window = chatting()
        window.type("busy")
        window.until("error: busy: all places are taken: try again later\n>")
        window.type("/retry")
        watch.until(lambda: window.scrolled.count("error: busy") == 2)
        window.type("say fine")
        window.until("> say fine\nfine\n")

    def test_turns_left_out_of_a_question_that_failed_are_told_with_the_next(self, chatting):
        window = chatting()
        for number, word in enumerate(("one", "two", "three"), 1):
            window.type(f"say {word}")
            answered(window, number)
        window.type("busy")
        window.until("error: busy: all places are taken: try again later\n>")
        window.type("say four")
        window.until("the oldest turn no longer fits and is left out")

    def test_retry_replaces_the_last_answer(self, chatting):
        window = chatting()
        window.type("/retry")
        window.until("error: there is no question to ask again yet")
        window.type("say one")
        answered(window)
        window.type("/retry")
        answered(window, 2)
        window.type("messages")
        answered(window, 3)
        assert joined(window.scrolled).count('"content": "one"') == 1

    def test_new_forgets_and_keeps_the_system_message(self, chatting):
        window = chatting("--system", "Be brief.")
        window.type("say one")
        answered(window)
        window.type("/new")
        window.until("started a new conversation")
        window.type("messages")
        answered(window, 2)
        assert '[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "messages"}]' in joined(
            window.scrolled
        )

    def test_save(self, chatting, tmp_path):
        window = chatting(columns=160)
        window.type("say 汉字 🙂")
        answered(window)
        window.type(f"/save {tmp_path}/my chat.json")
        window.until("saved to")
        assert json.loads((tmp_path / "my chat.json").read_text("utf-8")) == [
            {"role": "user", "content": "say 汉字 🙂"},
            {"role": "assistant", "content": "汉字 🙂"},
        ]
        for line, says in (
            ("/save", "/save needs a file name"),
            ("/save /nowhere/chat.json", "can't write /nowhere/chat.json: No such file or directory"),
            ("/save ~nobody-of-this-name/x", "can't write ~nobody-of-this-name/x: Could not determine home directory."),
        ):
            window.type(line)
            window.until(f"> {line}\nerror: {says}\n")

    def test_help_and_unknown_commands(self, chatting):
        window = chatting()
        window.type("/help")
        window.until("/new ", "/retry ", "/save FILE", "/help ")
        window.type("/nwe")
        window.until("error: unknown command /nwe: /help lists the commands")
        window.type(" /etc/passwd is no command")
        answered(window)
        assert "error: unknown command /etc" not in window.scrolled

    def test_no_escape_sequence_of_an_answer_reaches_the_terminal(self, chatting):
        window = chatting()
        window.type("escapes")
        answered(window)
        assert "entity �[31m end" in joined(window.screen)
        watch.until(lambda: b"first token after" in window.output)
        for sequence in (b"\x1b[31m", b"\x1b]0;", b"\x07", "\x9b".encode()):
            assert sequence not in window.output

    def test_markdown_is_shown_in_the_finished_answer(self, chatting):
        window = chatting()
        window.type("markdown")
        answered(window)
        for text in ("bold and code\nnext line\n", " • item", "<think>\nhidden?\n</think>", "name (http://host/path)"):
            assert text in re.sub(" +\n", "\n", window.screen)
        assert "**" not in window.screen

    def test_a_server_that_dies_ends_the_answer(self):
        with serve(Path(__file__).parent / "scripted_chat") as server, terminal([*CLIENT, server.grpc_url]) as window:
            window.until(f"{GREETING}>")
            window.type("endless")
            window.until("word10")
            server.stop(signal.SIGKILL)
            window.until(f"error: the server at {server.grpc_url} is not available")
            assert "word10 " in window.scrolled
            window.type("/retry")
            watch.until(lambda: window.scrolled.count("is not available") == 2)
            watch.until(lambda: window.screen.rstrip().endswith("\n>"))
            window.send("Enter")
            assert window.until_ended() == 0

    def test_what_breaks_off_is_told(self, chatting):
        window = chatting()
        window.type("unfinished answer")
        window.until("answer\nerror: the server ended the stream without an end signal")
        window.type("broken answer")
        window.until("answer\nerror: the model broke\n")
        window.type("cut short")
        answered(window)
        assert "; cut off at the maximum length of an answer or of the conversation" in joined(window.screen)
        window.type("messages")
        answered(window, 2)
        assert "broken" not in window.screen.partition("> messages")[2]


class TestPipe:
    def test_a_line_is_a_question(self, server):
        result = piped(server.grpc_url, "say one\n\nmessages\r\n/new\nmessages", FORCE_COLOR="1", TTY_COMPATIBLE="1")
        one, messages, alone = result.stdout.decode().splitlines()
        assert one == "one"
        assert [message["content"] for message in json.loads(messages)] == ["say one", "one", "messages"]
        assert json.loads(alone) == [{"role": "user", "content": "messages"}]
        assert result.returncode == 0

    def test_sampling_is_sent_as_it_is_given(self, server):
        flags = ["--temperature", "0", "--max-tokens", "5", "--top-p", "0.9", "--top-k", "3", "--min-p", "0.1"]
        flags += ["--repetition-penalty", "1.2", "--presence-penalty", "-1", "--frequency-penalty", ".5"]
        flags += ["--seed", "7", "--stop", "END", "--stop", "\n"]
        assert json.loads(piped(server.grpc_url, "sampling", *flags).stdout) == {
            "temperature": 0,
            "max_tokens": 5,
            "top_p": 0.9,
            "top_k": 3,
            "min_p": 0.1,
            "repetition_penalty": 1.2,
            "presence_penalty": -1,
            "frequency_penalty": 0.5,
            "seed": 7,
            "stop": ["END", "\n"],
        }
        assert json.loads(piped(server.grpc_url, "sampling").stdout) == {}

    def test_the_oldest_turns_are_left_out(self, server):
        result = piped(server.grpc_url, "say one\nsay two\nsay three\nmessages", "--system", "S")
        *_, messages = result.stdout.decode().splitlines()
        assert [message["content"] for message in json.loads(messages)] == ["S", "say three", "three", "messages"]
        told = "the oldest turn no longer fits and is left out\n"
        assert (result.returncode, result.stderr.decode()) == (0, told * 2)

    def test_a_question_that_does_not_fit_is_told(self, server):
        result = piped(server.grpc_url, f"say one\nsay {'x' * 2000}\n")
        assert (result.returncode, result.stdout) == (1, b"one\n")
        assert result.stderr.startswith(b"error: too long: ")
        assert b"left out" not in result.stderr

    def test_json_is_an_object_a_line(self, server):
        result = piped(server.grpc_url, "say one two\nmessages\n", "--json")
        first, second = map(json.loads, result.stdout.splitlines())
        assert first["prompts"] == ["say one two"]
        assert first["completions"] == ["one two"]
        assert (first["finish_reason"], first["prompt_tokens"], first["completion_tokens"]) == ("stop", 1, 2)
        assert first["pieces"] == 2
        assert 0 < first["first_token_ms"] <= first["total_ms"]
        assert first["median_between_pieces_ms"] == first["p99_between_pieces_ms"] >= 0
        assert second["median_between_pieces_ms"] is None
        assert first.keys() == second.keys()

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("busy", "busy: all places are taken: try again later"),
            ("broken", "the model broke"),
            ("/nwe", "unknown command /nwe: /help lists the commands"),
            ("/save /nowhere/x", "can't write /nowhere/x: No such file or directory"),
            (b"h\xff", "the question is not text in UTF-8"),
        ],
    )
    def test_what_fails_is_one_line_and_the_end(self, server, line, says):
        line = line if isinstance(line, bytes) else line.encode()
        result = piped(server.grpc_url, b"say one\n" + line + b"\nsay two\n")
        assert (result.returncode, result.stderr.decode()) == (1, f"error: {says}\n")
        assert result.stdout.splitlines()[0] == b"one"
        assert b"two" not in result.stdout

    def test_time_runs_out(self, server):
        result = piped(server.grpc_url, "endless", "--timeout", "1")
        assert (result.returncode, result.stderr) == (1, b"error: the answer was not complete within --timeout\n")
        assert result.stdout.startswith(b"word0 word1 ")

    def test_ctrl_c_ends_a_script(self, server):
        with subprocess.Popen([*CLIENT, server.grpc_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            client.stdin.write(b"endless\n")
            client.stdin.flush()
            assert client.stdout.read(6) == b"word0 "
            client.send_signal(signal.SIGINT)
            assert client.wait(30) == 130

    def test_a_closed_input_is_one_line(self, server):
        command = ["bash", "-c", 'exec "$@" <&-', "bash", *CLIENT, server.grpc_url]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == "error: the input is closed: type questions, or pipe them in, one per line\n"

    def test_no_server_and_no_chat_are_one_line(self, stream_server):
        for url, says in (
            (f"localhost:{free_port()}", "no server answers at"),
            (stream_server.grpc_url, f"the server at {stream_server.grpc_url} has no chat_stream"),
        ):
            result = piped(url, "hello")
            assert (result.returncode, result.stdout) == (1, b"")
            assert result.stderr.decode().startswith(f"error: {says}")
            assert result.stderr.count(b"\n") == 1

    @pytest.mark.parametrize("flag", [["--temperature", "nan"], ["--top-k", "x"], ["--system", os.fsdecode(b"\xff")]])
    def test_wrong_flags_are_argparse_errors(self, flag):
        result = piped("localhost:1", "", *flag)
        assert result.returncode == 2
        assert f"argument {flag[0]}: " in result.stderr.decode()


class TestRealModel:
    """Not covered by scripted answers: the flags take effect, and the client handles the server's own limit."""

    def test_turns_that_no_longer_fit(self, real_server):
        questions = ["What is the capital of Japan?", "What is its population?", "And of Germany?", "And of Spain?"]
        result = piped(real_server.grpc_url, "\n".join(questions), "--json")
        assert result.returncode == 0, result.stderr
        first, second, *_, last = map(json.loads, result.stdout.splitlines())
        assert "Tokyo" in first["completions"][0]
        assert "million" in second["completions"][0]
        assert second["prompt_tokens"] > first["prompt_tokens"]
        assert last["prompt_tokens"] <= 100
        assert re.fullmatch(r"(the .*oldest turns? no longer fits?.* left out\n)+", result.stderr.decode())
        result = piped(real_server.grpc_url, "What is the capital of Japan?\n" + "word " * 100)
        assert (result.returncode, result.stderr[:16]) == (1, b"error: too long:")

    def test_the_system_prompt(self, real_server):
        system = "You are a pirate called Redbeard. Say your name."
        assert b"Redbeard" in piped(real_server.grpc_url, "Who are you?", "--system", system).stdout
        assert b"Redbeard" not in piped(real_server.grpc_url, "Who are you?").stdout

    def test_a_seed_repeats_the_answer(self, real_server):
        flags = ("--temperature", "1", "--max-tokens", "20", "--seed")
        one, again, other = (piped(real_server.grpc_url, "Tell me a story.", *flags, seed) for seed in ("1", "1", "2"))
        assert one.stdout.strip()
        assert one.stdout == again.stdout != other.stdout
