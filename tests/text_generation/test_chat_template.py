import json

import pytest

from text_generation.chat_template import ChatTemplate, TemplateRefused
from text_generation.model_folder import ModelFolderError

PLAIN = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{{ eos_token }}"
QUESTION = [{"role": "user", "content": "Hi"}]
REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system\nrole here') }}{% endif %}fine"


def write(folder, name, content):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize("tokens", [{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None}])
@pytest.mark.parametrize("home", ["tokenizer_config.json", "special_tokens_map.json"])
def test_special_tokens_are_known_to_the_template(tmp_path, tokens, home):
    write(tmp_path, "chat_template.jinja", PLAIN)
    write(tmp_path, home, tokens)
    assert ChatTemplate.load(tmp_path).render(QUESTION) == "<s>[user]Hi</s>"


@pytest.mark.parametrize(("more", "expected"), [({}, "<old>"), ({"added_tokens_decoder": {}}, "<new>")])
def test_older_file_comes_first_where_it_counts(tmp_path, more, expected):
    """As in transformers."""
    write(tmp_path, "special_tokens_map.json", {"eos_token": "<old>"})
    write(tmp_path, "tokenizer_config.json", {"chat_template": "{{ eos_token }}", "eos_token": "<new>"} | more)
    assert ChatTemplate.load(tmp_path).render(QUESTION) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"chat_template.jinja": "file", "tokenizer_config.json": {"chat_template": "config"}}, "file"),
        ({"tokenizer_config.json": {"chat_template": "config"}}, "config"),
        ({"chat_template.json": {"chat_template": "processor"}}, "processor"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "rag", "template": "rag"},
                        {"name": "default", "template": "the default"},
                    ]
                }
            },
            "the default",
        ),
    ],
)
def test_where_a_template_is_found(tmp_path, files, expected):
    for name, content in files.items():
        write(tmp_path, name, content)
    assert ChatTemplate.load(tmp_path).render(QUESTION) == expected


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "has no chat template"),
        ({"tokenizer_config.json": {"chat_template": None}}, "has no chat template"),
        (
            {"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "a"}]}},
            r"several chat templates \(rag\), none of them named default",
        ),
        *(
            ({"tokenizer_config.json": {"chat_template": template}}, "has a damaged chat template .*: put the template")
            for template in (True, 5, {"default": "a"}, ["a"], [{"name": "default"}], [{"template": "a"}])
        ),
        ({"tokenizer_config.json": "{"}, "tokenizer_config.json can't be read"),
        ({"tokenizer_config.json": "[]"}, "tokenizer_config.json is damaged"),
    ],
)
def test_a_folder_without_a_usable_template_says_so_in_one_line(tmp_path, files, says):
    for name, content in files.items():
        write(tmp_path, name, content)
    with pytest.raises(ModelFolderError, match=says) as error:
        ChatTemplate.load(tmp_path)
    assert "\n" not in str(error.value)


def test_variables_reach_the_template():
    template = ChatTemplate(
        "{% if enable_thinking is defined and not enable_thinking %}quick{% else %}slow{% endif %}", {}
    )
    assert template.render(QUESTION) == "slow"
    assert template.render(QUESTION, enable_thinking=False) == "quick"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (REFUSING, "refuses these messages: no system"),
        ("{{ messages[0]['nothing'].x }}", "refuses these messages"),
        ("{{ 1 / 0 }}", "fails on these messages: ZeroDivisionError"),
        ("{% for %}", "refuses these messages"),
        ("{{ ().__class__.__bases__ }}", "refuses these messages"),
    ],
)
def test_a_refusal_is_one_line_with_the_templates_reason(source, says):
    template = ChatTemplate(source, {})
    with pytest.raises(TemplateRefused, match=says) as error:
        template.render([{"role": "system", "content": "x"}, *QUESTION])
    assert "\n" not in str(error.value)


def test_the_log_is_not_told_what_a_template_quotes():
    for source in ("{{ raise_exception('no ' + messages[0]['content']) }}", "{{ {}[messages[0]['content']].x }}"):
        with pytest.raises(TemplateRefused, match="xyzzy") as error:
            ChatTemplate(source, {}).render([{"role": "user", "content": "xyzzy"}])
        assert "xyzzy" not in error.value.log_message
