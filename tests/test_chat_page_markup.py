"""What the chat page does to a message before Gradio makes HTML of it."""

import re

import pytest

from examples.chat_page.markup import as_text, as_typed
from tests.scripted_chat.scripted_answers import ANSWERS

TEXTS = [
    *("a < b <= c <3 << <", "<", "```", "`", "\\`", "", "a\u2060<\u2060b", *ANSWERS.values()),
    *("<b>", "</b>", "<!-- -->", "<?php ?>", "<![CDATA[", "<<b>>", "<\n<b", "```<b>"),
    *("````mermaid", "```mermaid", "``` cpp"),
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "around",
    [
        *("{}", "`{}`", "``{}``", "`{}", "\\`{}\\`", "a ``` {}", "$$`$$ {} $$`$$"),
        *("```\n{}\n```", "```\n{}", "```html x\n{}\n```", "````\n{}\n````", "~~~\n{}\n~~~", "~~~\n{}"),
        *("    {}", "> ```\n> {}\n> ```", "- ```\n  {}\n  ```"),
    ],
)
def test_nothing_is_interpreted_and_everything_comes_back(around, text):
    typed = around.replace("{}", text)
    shown = as_text(typed)
    assert not re.search(r"<[A-Za-z/!?]|```mermaid|``` ?cpp", shown)
    assert as_typed(shown) == typed


def test_only_what_could_be_interpreted_is_changed():
    """And with nothing but NUL, the only character that a browser drops from HTML."""
    assert as_text("a < b **c** `d<3` <e> ```py") == "a < b **c** `d<3` <\0e> ```py"
