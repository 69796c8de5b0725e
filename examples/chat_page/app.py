"""A page to talk to a served model: Gradio's ChatInterface over the graph chat_stream of servable_chat."""

import argparse
import re
import time
from collections.abc import Callable
from contextlib import aclosing
from itertools import pairwise

import gradio as gr
import uvicorn
from fastapi import FastAPI
from server import Failed, TooLong, outputs

FRAME_S = 0.05  # showing a growing answer more often only costs time
NOTE = {"id": "note"}  # the metadata of what the page says itself; no part of the conversation
NOTHING_FROM_ELSEWHERE = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-src 'none'; object-src 'none'; "
    "form-action 'self'; frame-ancestors 'self'"
)
TAG = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)|<(?=[A-Za-z/!?])", re.DOTALL)  # but not in code
JOINER = "\N{WORD JOINER}"  # invisible; a < that it follows begins no tag
AS_SET = "as the server is set"
CSS = ".message em:only-child { opacity: 0.6; font-size: 0.85em; font-style: normal } .dark { color-scheme: dark }"


def as_typed(text: str) -> str:
    return text.replace("<" + JOINER, "<")


def with_html_as_text(chatbot: gr.Chatbot) -> gr.Chatbot:
    """The same chatbot, which shows HTML as text."""
    to_page, from_page = chatbot.postprocess, chatbot.preprocess

    def postprocess(value):
        shown = to_page(value)
        for part in (part for message in shown.root for part in message.content):
            part.text = TAG.sub(lambda found: found[1] or "<" + JOINER, part.text)
        return shown

    def preprocess(payload):
        messages = from_page(payload)
        for part in (part for message in messages for part in message["content"]):
            part["text"] = as_typed(part["text"])
        return messages

    chatbot.postprocess, chatbot.preprocess = postprocess, preprocess
    return chatbot


def conversation(history: list[dict]) -> list[dict[str, str]]:
    """What was said, for the model: questions that have an answer, and these."""
    said = [
        {"role": message["role"], "content": message["content"][0]["text"]}
        for message in history
        if message["metadata"] != NOTE
    ]
    return [message for turn in pairwise(said) if turn[0]["role"] == "user" != turn[1]["role"] for message in turn]


def answering(url: str) -> Callable:
    """The function that ChatInterface calls with each question."""

    async def answer(question, history, system, temperature, top_p, max_tokens, stop):
        first = [{"role": "system", "content": system}] if system.strip() else []
        said, asked = conversation(history), {"role": "user", "content": as_typed(question)}
        text, tokens, left_out, cut_off = "", 0, "", ""
        started, first_s, shown_s = time.monotonic(), 0.0, 0.0
        while True:
            try:
                request = {
                    "messages": [*first, *said, asked],
                    "temperature": number(temperature, float),
                    "top_p": number(top_p, float),
                    "max_tokens": number(max_tokens, int),
                    "stop": stop.splitlines(),
                }
                async with aclosing(outputs(url, request)) as pieces:
                    async for name, value in pieces:
                        now_s = time.monotonic() - started
                        if name == "completion" and value[0]:
                            text += value[0].decode(errors="replace")
                            first_s = first_s or now_s
                            if now_s - shown_s > FRAME_S:
                                shown_s = now_s
                                yield [spoken(text)]
                        elif name == "completion_tokens":
                            tokens = int(value[0])
                        elif name == "finish_reason" and value[0] == b"length":
                            cut_off = ", cut off at the longest answer"
                note = f"{tokens} tokens, {tokens / now_s:.1f} tokens/s, first after {first_s:.2f} s{cut_off}{left_out}"
            except TooLong as error:
                if said:
                    said, left_out = said[2:], ", without the oldest questions, which no longer fit"
                    continue
                note = f"{error} ↻ asks again."
            except Failed as error:
                note = f"{error} {'What came of the answer is kept. ' if text else ''}↻ asks again."
            yield [*([spoken(text)] if text else []), {**spoken(f"*{note}*"), "metadata": NOTE}]
            return

    return answer


def number(text: str, kind: type) -> float | None:
    try:
        return kind(text) if text.strip() else None
    except ValueError:
        raise Failed(f"Under Settings, {text} is not a number that fits there.") from None


def spoken(text: str) -> dict:
    """A message of the model's, or of the page in its place."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def page(url: str) -> gr.ChatInterface:
    """The page for the server at this address."""
    return gr.ChatInterface(
        answering(url),
        title="Chat",
        chatbot=with_html_as_text(
            gr.Chatbot(show_label=False, scale=1, placeholder="Ask the model something.", buttons=["copy", "copy_all"])
        ),
        additional_inputs=[
            gr.Textbox("", label="System prompt", placeholder=AS_SET, lines=2),
            gr.Textbox("", label="Temperature", placeholder=f"0 to 2; else {AS_SET}"),
            gr.Textbox("", label="Top-p", placeholder=f"up to 1; else {AS_SET}"),
            gr.Textbox("", label="Longest answer, in tokens", placeholder=AS_SET),
            gr.Textbox("", label="Stop before", placeholder="up to four texts, one a line", lines=2),
        ],
        additional_inputs_accordion=gr.Accordion("Settings", open=False),
        editable=True,
        concurrency_limit=None,
        analytics_enabled=False,
        api_visibility="private",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="localhost:9000", help="the server's gRPC service (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    arguments = parser.parse_args()
    chat = page(arguments.url)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        chat,
        "/",
        theme=theme,
        css=CSS,
        footer_links=[],
        run_history=False,
    )
    # A browser opens six connections to a page at most, and that is one for each tab, for nothing that is needed here.
    chat.config["connect_heartbeat"] = False
    headers = [("Content-Security-Policy", NOTHING_FROM_ELSEWHERE)]
    uvicorn.run(app, host=arguments.host, port=arguments.port, headers=headers, access_log=False)


if __name__ == "__main__":
    main()
