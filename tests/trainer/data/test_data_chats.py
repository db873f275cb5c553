import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from trainer.contract.errors import DataError
from trainer.data.chats import NO_LOSS, ChatEncoder
from trainer.data.formats import Chat
from trainer.data.templates import DEFAULT_TEMPLATE, ensure_chat_template, is_default

PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TAGGED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ m.content + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# As Qwen3 does: only the turns after the last question show that there were (no) thoughts.
FORGETFUL = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Nothing closes a turn but the line break.
BARE = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

WORDS_AND_SPACE = (
    "{{ m.role + ': ' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + ' ' }}{% endgeneration %}"
    "{% else %}{{ m.content + ' ' }}{% endif %}"
)

contents = st.text(st.characters(codec="utf-8", exclude_characters="<|"), min_size=1).filter(
    lambda text: not text.isspace()
)
exchanges = st.lists(st.tuples(contents, contents), min_size=1, max_size=4)


def chat_of(*pairs):
    return [
        {"role": role, "content": content}
        for pair in pairs
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]


@pytest.fixture(scope="session")
def encode(build_tokenizer):
    """Encode one chat with a template; return the tokenizer and the row."""
    tokenizers = {}

    def encode(template, messages, *, assistant_only=True):
        if template not in tokenizers:
            tokenizers[template] = build_tokenizer(template=template)
        tokenizer = tokenizers[template]
        encoder = ChatEncoder(tokenizer, assistant_only=assistant_only)
        (row,) = encoder.encode([("d.jsonl:1", Chat(messages))])
        return tokenizer, row

    return encode


def learnt(tokenizer, row):
    """Return the texts of the runs of labelled tokens."""
    runs, before = [], NO_LOSS
    for token, label in zip(row.input_ids, row.labels, strict=True):
        if label != NO_LOSS:
            assert label == token
            runs = runs if before != NO_LOSS else [*runs, []]
            runs[-1].append(token)
        before = label
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("template", [PLAIN, TAGGED])
@settings(deadline=None, max_examples=150)
@given(pairs=exchanges)
def test_what_is_learnt_is_what_the_assistant_says_and_the_end_of_its_turn(encode, template, pairs):
    tokenizer, row = encode(template, chat_of(*pairs))

    assert learnt(tokenizer, row) == [f"{answer}<|im_end|>" for _, answer in pairs]


@settings(deadline=None, max_examples=150)
@given(pairs=exchanges)
def test_templates_with_and_without_tags_give_the_same_labels(encode, pairs):
    assert encode(TAGGED, chat_of(*pairs))[1] == encode(PLAIN, chat_of(*pairs))[1]


@settings(deadline=None, max_examples=100)
@given(pairs=exchanges)
@example(pairs=[("0", "0")])
def test_tags_mean_what_transformers_takes_them_to_mean(encode, pairs):
    # A token may hold a tag's line break and an answer's first space; whose it is, is a matter of
    # taste, and theirs is another than ours.
    assume(all(answer == answer.strip() for _, answer in pairs))
    tokenizer, row = encode(TAGGED, chat_of(*pairs))

    theirs = tokenizer.apply_chat_template(
        chat_of(*pairs), return_dict=True, return_assistant_tokens_mask=True
    )

    assert row.input_ids == theirs["input_ids"]
    assert [label != NO_LOSS for label in row.labels] == [
        bool(m) for m in theirs["assistant_masks"]
    ]


def test_a_template_that_forgets_thoughts_of_earlier_turns_is_understood(encode):
    tokenizer, row = encode(FORGETFUL, chat_of(("a", "one"), ("b", "two")))

    assert learnt(tokenizer, row) == ["one<|im_end|>", "<think>\n\n</think>\n\ntwo<|im_end|>"]


def test_a_turn_that_only_a_line_break_ends_is_learnt_with_it(encode):
    tokenizer, row = encode(BARE, chat_of(("a", "one"), ("b", "two")))

    assert learnt(tokenizer, row) == ["one\n", "two\n"]


def test_tags_around_the_words_alone_are_widened_to_the_end_of_the_turn(encode):
    template = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}</s>{% endfor %}"
    )
    messages = [{"role": "assistant", "content": "one"}]

    tokenizer, row = encode(template, messages)

    assert learnt(tokenizer, row) == ["one</s>"]


def test_tags_that_end_in_white_space_do_not_make_the_next_question_learnt(encode):
    template = BARE.replace("{{ m.role + ': ' + m.content + '\\n' }}", WORDS_AND_SPACE)

    tokenizer, row = encode(template, chat_of(("a", "one"), ("b", "two")))

    assert learnt(tokenizer, row) == ["one ", "two "]


@pytest.mark.parametrize("template", [PLAIN, TAGGED])
def test_a_chat_may_begin_with_the_assistant(encode, template):
    messages = [{"role": "assistant", "content": "hello"}, *chat_of(("a", "one"))]

    tokenizer, row = encode(template, messages)

    assert learnt(tokenizer, row) == ["hello<|im_end|>", "one<|im_end|>"]


def test_everything_is_learnt_when_not_only_the_assistant_is(encode):
    _, row = encode(PLAIN, chat_of(("a", "one")), assistant_only=False)

    assert row.labels == row.input_ids


def test_a_template_that_renders_parts_otherwise_names_the_remedy(encode):
    counted = PLAIN.replace("m.role + '\\n'", "(messages | length ~ m.role) + '\\n'")

    with pytest.raises(
        DataError, match=r"d.jsonl:1: the chat template.*assistant_only_loss: false"
    ):
        encode(counted, chat_of(("a", "one")))


def test_a_chat_that_the_template_refuses_is_named(encode):
    strict = (
        "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}" + PLAIN
    )

    with pytest.raises(
        DataError,
        match=re.escape(
            "d.jsonl:1: the chat template of the tokenizer refuses this chat: user first"
        ),
    ):
        encode(strict, [{"role": "system", "content": "x"}, *chat_of(("a", "one"))])


@pytest.mark.parametrize("adds_bos", [True, False])
def test_the_default_template_ends_turns_with_eos_and_begins_with_one_bos(
    build_tokenizer, adds_bos
):
    tokenizer = build_tokenizer(adds_bos=adds_bos)

    ensure_chat_template(tokenizer)
    (row,) = ChatEncoder(tokenizer, assistant_only=True).encode([("", Chat(chat_of(("a", "one"))))])

    assert learnt(tokenizer, row) == ["one</s>"]
    assert row.input_ids.count(tokenizer.bos_token_id) == adds_bos
    assert is_default(tokenizer)


def test_the_default_template_shows_calls_of_tools(encode):
    call = {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "add", "arguments": {"a": 2}}}],
    }

    tokenizer, row = encode(DEFAULT_TEMPLATE, [{"role": "user", "content": "a"}, call])

    assert learnt(tokenizer, row) == ['[{"function": {"name": "add", "arguments": {"a": 2}}}]</s>']
