"""Gradio's chatbot with HTML shown as the text it is; Markdown and code stay what they are."""

import re

import gradio as gr

TAG = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)|<(?=[A-Za-z/!?])", re.DOTALL)  # but not in code
JOINER = "\N{WORD JOINER}"  # invisible; a < that it follows begins no tag


def as_typed(text: str) -> str:
    """Text as it was before the page showed it."""
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
