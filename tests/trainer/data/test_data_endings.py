"""The end of the assistant's turn is learned, wherever a template puts it."""

import pytest

from trainer.data.endings import turn_end
from trainer.data.tally import remarks
from trainer.data.tokenization import prepare_datasets

ASK, SAY = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "four"}
HEADER = "{% if add_generation_prompt %}{{ '<|im_start|>assistant: ' }}{% endif %}"
# Tags around the words alone, and a token at their end that is not the tokenizer's eos.
TAGGED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ': ' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
    "{{ ' <|im_end|>\\n' }}{% endfor %}" + HEADER
)
# As GLM's: a turn ends where the next one begins.
OPEN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ': ' + m.content }}{% endfor %}" + HEADER
)
# As gpt-oss has it: the last turn of all ends in a token of its own.
TWO_ENDS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ': ' + m.content }}"
    "{{ '</s>' if loop.last and m.role == 'assistant' and not add_generation_prompt else '<|im_end|>' }}"
    "{% endfor %}" + HEADER
)
# As DeepSeek's R1 asks: the way of asking is no part of the chat.
THINKS = OPEN.replace("m.content }}", "m.content + '<|im_end|>' }}").replace(
    "assistant: ' }}", "assistant: <think>\\n' }}"
)
BARE = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture
def learnt(make_config, build_tokenizer, write_rows, tmp_path):
    """Return what is learned of a chat of two exchanges, its tokens, and what is remarked."""

    def learnt(template, messages=(ASK, SAY, ASK, SAY), **settings):
        tokenizer = build_tokenizer(template=template)
        config = make_config(write_rows([{"messages": list(messages)}]), **settings)
        data = prepare_datasets(config, tokenizer, tmp_path / "cache")
        [row] = data.train
        said = [label for label in row["labels"] if label != -100]
        return tokenizer.decode(said), tokenizer.decode(row["input_ids"]), data.facts

    return learnt


@pytest.mark.parametrize(
    ("template", "said", "stop"),
    [
        (TAGGED, "four <|im_end|>four <|im_end|>", "<|im_end|>"),
        (OPEN, "four<|im_start|>four<|im_start|>", "<|im_start|>"),
        (TWO_ENDS, "four<|im_end|>four</s>", "</s>"),
        (THINKS, "four<|im_end|>four<|im_end|>", "<|im_end|>"),
    ],
)
def test_the_end_of_every_turn_is_learned(learnt, template, said, stop):
    labels, whole, facts = learnt(template)

    assert labels == said
    assert facts["turn_end"] == stop
    assert remarks(facts) == []
    assert whole.count("<|im_start|>") == (5 if template == OPEN else 4)


def test_an_end_that_the_chat_has_not_is_added_where_all_is_learned(learnt):
    labels, whole, _ = learnt(OPEN, assistant_only_loss=False)

    assert labels == whole
    assert whole.endswith("four<|im_start|>")


def test_nothing_is_added_after_a_question(learnt):
    labels, whole, _ = learnt(OPEN, (ASK, SAY, ASK))

    assert whole.endswith("2+2?")
    assert labels == "four<|im_start|>"


def test_a_template_without_an_end_is_remarked(learnt, build_tokenizer):
    labels, _, facts = learnt(BARE)

    assert labels == "four\nfour\n"
    assert turn_end(build_tokenizer(template=BARE)).stop is None
    assert remarks(facts)[0].startswith("The chat template ends the assistant's turn with no token")


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_answers_that_are_compared_end_too(
    make_config, build_tokenizer, write_rows, tmp_path, method
):
    tokenizer = build_tokenizer(template=OPEN)
    pair = {"prompt": [ASK], "chosen": [SAY], "rejected": [{**SAY, "content": "five"}]}

    config = make_config(write_rows([pair]), method=method)
    [row] = prepare_datasets(config, tokenizer, tmp_path / "cache").train

    assert tokenizer.decode(row["chosen_ids"]).endswith("four<|im_start|>")
    assert tokenizer.decode(row["rejected_ids"]).endswith("five<|im_start|>")
