"""A chat page for a served model: Gradio's ChatInterface on top of the graph chat_stream of servable_chat."""

import argparse

import gradio as gr
import uvicorn
from answers import answering
from fastapi import FastAPI
from markup import HEAD, with_html_as_text
from server import longest_possible_answer

NOTHING_FROM_ELSEWHERE = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-src 'none'; object-src 'none'; "
    "form-action 'self'; frame-ancestors 'self'"
)
AS_SET = "the server's default"
CSS = ".message em:only-child { opacity: 0.6; font-size: 0.85em; font-style: normal } .dark { color-scheme: dark }"


def page(url: str) -> gr.ChatInterface:
    """Create the page for the server at this address."""
    longest_answer = gr.Textbox("", label="Longest answer, in tokens", placeholder=AS_SET)
    chat = gr.ChatInterface(
        answering(url),
        title="Chat",
        chatbot=with_html_as_text(
            gr.Chatbot(show_label=False, scale=1, placeholder="Ask the model something.", buttons=["copy", "copy_all"])
        ),
        additional_inputs=[
            gr.Textbox("", label="System prompt", placeholder=AS_SET, lines=2),
            gr.Textbox("", label="Temperature", placeholder=f"0 to 2; else {AS_SET}"),
            gr.Textbox("", label="Top-p", placeholder=f"up to 1; else {AS_SET}"),
            longest_answer,
            gr.Textbox("", label="Stop before", placeholder="up to four texts, one per line", lines=2),
        ],
        additional_inputs_accordion=gr.Accordion("Settings", open=False),
        editable=True,
        concurrency_limit=None,
        analytics_enabled=False,
        api_visibility="private",
    )
    ceiling = None

    async def with_ceiling():
        nonlocal ceiling
        ceiling = ceiling or await longest_possible_answer(url)
        return gr.Textbox(placeholder=f"up to {ceiling}; else {AS_SET}" if ceiling else AS_SET)

    with chat:
        chat.load(with_ceiling, outputs=longest_answer, show_progress="hidden", api_visibility="private")
    return chat


def port(argument: str) -> int:
    """Parse a port to listen on."""
    if not 0 < int(argument) < 65536:
        raise argparse.ArgumentTypeError("must be 1 to 65535")
    return int(argument)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="localhost:9000", help="the server's gRPC service (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=port, default=7860, help="port to listen on (default: %(default)s)")
    arguments = parser.parse_args()
    chat = page(arguments.url)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    app = FastAPI(openapi_url=None)
    gr.mount_gradio_app(app, chat, "/", theme=theme, css=CSS, head=HEAD, footer_links=[], run_history=False)
    # A browser opens at most six connections to a page, and the heartbeat, not needed here, takes one for each tab.
    chat.config["connect_heartbeat"] = False
    headers = [("Content-Security-Policy", NOTHING_FROM_ELSEWHERE)]
    uvicorn.run(app, host=arguments.host, port=arguments.port, headers=headers, access_log=False)


if __name__ == "__main__":
    main()
