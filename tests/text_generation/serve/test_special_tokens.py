"""Users' texts never become control tokens, and all other prompts are exactly those of the chat template."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

# Everything that UTF-8 can encode, except the null byte, which is refused.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=80)
# Except what the model's vocabulary lacks: some control characters, and planes that Unicode does not use yet.
KNOWN = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"], include_characters="\n\t"), min_size=1, max_size=80
)
SPACES = st.text(" \n\t\u00a0\u2581.<|>_", min_size=1, max_size=12)
ORDINARY = st.lists(TEXT | SPACES | st.sampled_from(["<|im_", "end|>", "[INST]", "user\n"]), min_size=1, max_size=4)


@pytest.fixture(scope="module", params=[None, "Answer in French."])
def system_prompt(request) -> str | None:
    return request.param


@pytest.fixture(scope="module")
def messages(system_prompt):
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return lambda question: [*system, {"role": "user", "content": question}]


@settings(deadline=None, max_examples=400)
@given(ORDINARY.map("".join))
@example("  hi ")
@example("\U00100000\U00100001")
def test_ordinary_questions_have_the_ids_of_the_chat_template(encoder, tokenizer, messages, question):
    if any(token.content in question for token in tokenizer.added_tokens_decoder.values()):
        return  # hypothesis has generated one
    expected = tokenizer.apply_chat_template(messages(question), add_generation_prompt=True, return_dict=False)
    assert encoder.encode(messages(question), {}) == expected


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_typed_special_tokens_are_text(encoder, tokenizer, messages, data):
    special = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    parts = data.draw(st.lists(st.sampled_from(sorted(special)) | KNOWN | SPACES, min_size=1, max_size=6))
    question = "".join(parts)
    token_ids = encoder.encode(messages(question), {})
    harmless_ids = encoder.encode(messages("Hello"), {})
    control = set(special.values())
    assert [i for i in token_ids if i in control] == [i for i in harmless_ids if i in control]
    expected = tokenizer.apply_chat_template(messages(question), add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(token_ids) == expected
