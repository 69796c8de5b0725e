"""Answers that are difficult to display on a terminal."""

HTML = "<div id=evil>a</div> <!-- b --> vector<T>"  # in a scripted answer, as code of every kind
ANSWERS = {
    "code": (
        f"~~~\n{HTML}\n~~~\n````html\n{HTML}\n````\n~~~ cpp\n{HTML}\n~~~\n"
        f"> ```python title\n> {HTML}\n> ```\n\n- item\n\n  ```\n"
        f"  {HTML}\n  ```\n\ntext\n\n    {HTML}\n\n``{HTML}`` \\`<h1 id=evil>h</h1>\\` ``` <img id=evil src=x>\n\n"
        f"```mermaid\n{HTML}\n```\n```mermaid\ngraph TD; A[&lt;h1 id=evil&gt;h&lt;/h1&gt;]\n```\n```\n{HTML}"
    ),
    "wide": "这是一个很长的中文句子用来测试终端的换行是否正确。" * 4 + "🙂🎉 emoji words " * 4,
    "long": "".join(f"Sentence {number} of an answer that goes beyond the screen.\n\n" for number in range(60)),
    "escapes": "red \x1b[31mtext\x1b[0m title \x1b]0;pwned\x07 c1 \x9b31m entity &#27;[31m end",
    "markdown": "# Title\n\n**bold** and `code`\nnext line\n\n- item\n\n<think>\nhidden?\n</think>\n\n[name](http://host/path)",
}
