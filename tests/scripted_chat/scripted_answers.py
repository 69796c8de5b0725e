"""Answers that are difficult to display on a terminal."""

ANSWERS = {
    "wide": "这是一个很长的中文句子用来测试终端的换行是否正确。" * 4 + "🙂🎉 emoji words " * 4,
    "long": "".join(f"Sentence {number} of an answer that goes beyond the screen.\n\n" for number in range(60)),
    "escapes": "red \x1b[31mtext\x1b[0m title \x1b]0;pwned\x07 c1 \x9b31m entity &#27;[31m end",
    "markdown": "# Title\n\n**bold** and `code`\nnext line\n\n- item\n\n<think>\nhidden?\n</think>\n\n[name](http://host/path)",
}
