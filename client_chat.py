"""Chat with a served model. Without a terminal, each line of input is a question."""

from clients import common

with common.slow_imports():
    import argparse
    import io
    import json
    import math
    import sys
    from contextlib import closing, suppress
    from pathlib import Path

    from rich.text import Text

    from clients import arguments as flags
    from clients.answer import Answer
    from clients.common import RequestFailed, TooLong
    from clients.conversation import Conversation, Turn
    from clients.requests import Outputs, Server
    from clients.terminal import console, growing_texts

    with suppress(ImportError):  # Windows, whose console has its own line editing
        import readline  # gives input() line editing

        readline.parse_and_bind("set enable-bracketed-paste on")  # pasted lines are one question

GRAPH = "chat_stream"
GREETING = "/help lists the commands; an empty line or Ctrl-D quits"
HELP = """\
/new         start a new conversation
/retry       ask the last question again
/save FILE   write the messages to a JSON file
/help        show this list
Ctrl-C stops an answer; an empty line or Ctrl-D quits. To begin a question with /, type a space before it."""


def main() -> None:
    """Answer each line of input."""
    arguments = parse_arguments()
    if sys.stdin is None:
        raise RequestFailed("the input is closed: type questions, or pipe them in, one per line")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a line that is not UTF-8 is refused, without ending
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    chat = Chat(arguments, interactive)
    if interactive:
        converse(chat)
    else:
        answer_lines(chat)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; parameters that are not given are left to the server."""
    parser = flags.parser(__doc__)
    parser.add_argument("--system", type=flags.text, help="system prompt: how the model should answer")
    sampling = parser.add_argument_group("sampling", "Sent with every question; the server's settings by default.")
    for name, kind, meaning in (
        ("max-tokens", int, "longest answer"),
        ("temperature", number, "how freely tokens are chosen; 0 always takes the likeliest"),
        ("top-p", number, "choose from the likeliest tokens with this total probability"),
        ("top-k", int, "choose from this many of the likeliest tokens"),
        ("min-p", number, "exclude tokens less likely than this fraction of the likeliest"),
        ("repetition-penalty", number, "above 1: fewer repetitions from the conversation so far"),
        ("presence-penalty", number, "above 0: fewer tokens that the answer already contains"),
        ("frequency-penalty", number, "above 0: the same, increasing with each occurrence"),
        ("seed", int, "gives the same question the same answer"),
    ):
        sampling.add_argument(f"--{name}", type=kind, metavar="N", help=meaning)
    sampling.add_argument(
        "--stop", action="append", type=flags.text, metavar="TEXT", help="end before this text; up to four"
    )
    return parser.parse_args()


def number(argument: str) -> float:
    """Parse a number that JSON can represent."""
    value = float(argument)
    if not math.isfinite(value):
        raise ValueError
    return value


def converse(chat: "Chat") -> None:
    """Chat on a terminal: whatever happens to an answer, the next question can be asked."""
    chat.say(GREETING)
    while True:
        try:
            line = input("> ")
            if not line.strip():
                return
            chat.handle_line(line)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # drops the line being typed, as in a shell
            print()
        except RequestFailed as error:
            common.print_error(error)


def answer_lines(chat: "Chat") -> None:
    """Answer one line after another, for scripts, until the first failure."""
    for line in sys.stdin:
        if line.strip():
            chat.handle_line(line)


class Chat:
    """Carries out the lines that a user types; RequestFailed if that is not possible."""

    def __init__(self, arguments: argparse.Namespace, interactive: bool) -> None:
        self._server = Server(arguments.url, arguments.timeout)
        if not self._server.outputs(GRAPH) >= {"completion", "end_signal"}:
            raise RequestFailed(f"{GRAPH} at {arguments.url} is another servable: it has no completion or end_signal")
        self._conversation = Conversation(arguments.system)
        self._unanswered: str | None = None
        self._interactive = interactive
        self._json = arguments.json
        other_arguments = ("url", "timeout", "json", "system")
        self._sampling = {
            name: value for name, value in vars(arguments).items() if name not in other_arguments and value is not None
        }

    def handle_line(self, line: str) -> None:
        """Answer a question or carry out a command."""
        command, _, rest = line.strip().partition(" ")
        match command, rest.strip():
            case _ if not line.startswith("/"):
                self.ask(line.strip())
            case "/new", "":
                self._conversation = Conversation(self._conversation.system)
                self._unanswered = None
                self.say("started a new conversation")
            case "/retry", "":
                self.retry()
            case "/save", file:
                self.save(file)
            case "/help", "":
                self.say(HELP)
            case _:
                raise RequestFailed(f"unknown command {line.strip()}: /help lists the commands")

    def say(self, note: str) -> None:
        """Print a note: dimmed on a terminal, otherwise on standard error, away from the answers."""
        if self._interactive:
            console().print(Text(note, style="dim"))
        else:
            print(note, file=sys.stderr)

    def ask(self, question: str) -> None:
        """Ask a question. If Ctrl-C stops the answer, its text so far becomes part of the conversation."""
        self._unanswered = require_utf8(question)
        before = self._conversation.left_out
        answer = Answer([question])
        stopped = False
        try:
            with growing_texts(visible=not self._json) as texts, closing(self._outputs(question)) as outputs:
                for name, value in outputs:
                    answer.add_output(name, value)
                    texts.show(answer.completions)
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            stopped = True
        if text := answer.completions[0]:
            self._conversation.turns.append(Turn(question, text))
            self._unanswered = None
        if left_out := self._conversation.left_out - before:
            turns = (
                "oldest turn no longer fits and is"
                if left_out == 1
                else f"{left_out} oldest turns no longer fit and are"
            )
            self.say(f"the {turns} left out")
        if stopped:
            self.say("stopped; the partial answer is kept\n" if text else "stopped; /retry asks again\n")
        elif self._json:
            print(answer.as_json(), flush=True)
        elif self._interactive:
            self.say(f"{statistics(answer)}\n")

    def retry(self) -> None:
        """Ask the unanswered or the last question again; if there is no new answer, the old one is kept."""
        if self._unanswered is not None:
            self.ask(self._unanswered)
            return
        if not self._conversation.turns:
            raise RequestFailed("there is no question to ask again yet")
        last = self._conversation.turns.pop()
        try:
            self.ask(last.question)
        finally:
            if self._unanswered is not None:
                self._conversation.turns.append(last)
                self._unanswered = None

    def save(self, file: str) -> None:
        """Write the conversation to a file."""
        if not file:
            raise RequestFailed("/save needs a file name")
        try:
            self._conversation.save(Path(file).expanduser())
        except OSError as error:
            raise RequestFailed(f"can't write {file}: {error.strerror}") from None
        except (RuntimeError, ValueError) as error:  # an unknown user's home, a null character
            raise RequestFailed(f"can't write {file}: {error}") from None
        self.say(f"saved to {file}")

    def _outputs(self, question: str) -> Outputs:
        """Yield the server's outputs, leaving out the oldest turns while the conversation is too long."""
        before = self._conversation.left_out
        while True:
            request = {"messages": self._conversation.messages_for(question), **self._sampling}
            try:
                yield from self._server.stream(GRAPH, "request", [json.dumps(request)])
                return
            except RequestFailed as error:
                all_left_out = self._conversation.left_out == len(self._conversation.turns)
                if not isinstance(error, TooLong) or all_left_out:
                    self._conversation.left_out = before  # the next answer will say how many turns it leaves out
                    raise
                self._conversation.left_out += 1


def require_utf8(question: str) -> str:
    """Check that a question can be sent."""
    try:
        question.encode()
    except UnicodeEncodeError:
        raise RequestFailed("the question is not text in UTF-8") from None
    return question


def statistics(answer: Answer) -> str:
    """Format the counts and times of an answer."""
    tokens = answer.completion_tokens
    text = f"{tokens} token{'s' * (tokens != 1)}, {answer.tokens_per_second:.1f} tokens/s"
    if answer.arrivals_s:
        text += f", first token after {1000 * answer.first_s:.0f} ms"
    cut_off = answer.finish_reason == "length"
    return text + "; cut off at the maximum length of an answer or of the conversation" * cut_off


if __name__ == "__main__":
    common.run(main)
