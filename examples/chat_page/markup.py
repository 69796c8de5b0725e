"""Makes Gradio's chatbot show HTML as text, without affecting Markdown and code."""

import re

import gradio as gr

TAG = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)|<(?=[A-Za-z/!?])", re.DOTALL)  # except in code
JOINER = "\N{WORD JOINER}"  # invisible; after a < it prevents a tag


def as_typed(text: str) -> str:
    """Return the text as it was before with_html_as_text changed it."""
    return text.replace("<" + JOINER, "<")


def with_html_as_text(chatbot: gr.Chatbot) -> gr.Chatbot:
    """Make the chatbot show HTML as text, and return it."""
    to_page, from_page = chatbot.postprocess, chatbot.preprocess

    def postprocess(value):
        messages = to_page(value)
        for part in (part for message in messages.root for part in message.content):
            part.text = TAG.sub(lambda found: found[1] or "<" + JOINER, part.text)
        return messages

    def preprocess(payload):
        messages = from_page(payload)
        for part in (part for message in messages for part in message["content"]):
            part["text"] = as_typed(part["text"])
        return messages

    chatbot.postprocess, chatbot.preprocess = postprocess, preprocess
    return chatbot
