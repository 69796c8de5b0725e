"""Makes Gradio's chatbot show HTML as text, without affecting Markdown and code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

# In a browser, a < begins a tag only if one of these follows, and the labels of Mermaid's diagrams are HTML. A message
# with C++ to highlight is not shown at all by Gradio 6.31.
INTERPRETED = re.compile(r"<(?=[A-Za-z/!?])|(?:```|~~~)[ \t]*(?=mermaid|cpp)")
# It prevents a tag or a diagram wherever Markdown finds code, so nothing here has to find code as the page does.
# By HTML's standard, the browser drops it from the HTML made of the Markdown, so code and text are as typed.
BREAK = "\0"
# What the page copies or lets a user edit is the Markdown with its breaks, and some systems end a copied text there.
HEAD = r"""<script>
{
    const asTyped = (text) => typeof text === "string" ? text.replaceAll("\0", "") : text;
    const value = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value");
    const set = function (text) { value.set.call(this, asTyped(text)); };
    Object.defineProperty(HTMLTextAreaElement.prototype, "value", { ...value, set });
    if (navigator.clipboard) {
        const { writeText } = Clipboard.prototype;
        Clipboard.prototype.writeText = function (text) { return writeText.call(this, asTyped(text)); };
    }
}
</script>"""


def as_text(text: str) -> str:
    """Return the Markdown with breaks in whatever a browser would interpret as HTML."""
    return INTERPRETED.sub(lambda found: found[0] + BREAK, text)


def as_typed(text: str) -> str:
    """Return the text as it was before with_html_as_text changed it."""
    return text.replace(BREAK, "")


def with_html_as_text(chatbot: gr.Chatbot) -> gr.Chatbot:
    """Make the chatbot show HTML as text, and return it; its page needs HEAD."""
    to_page, from_page = chatbot.postprocess, chatbot.preprocess

    def postprocess(value):
        messages = to_page(value)
        for part in (part for message in messages.root for part in message.content):
            part.text = as_text(part.text)
        return messages

    def preprocess(payload):
        messages = from_page(payload)
        for part in (part for message in messages for part in message["content"]):
            part["text"] = as_typed(part["text"])
        return messages

    chatbot.postprocess, chatbot.preprocess = postprocess, preprocess
    return chatbot
