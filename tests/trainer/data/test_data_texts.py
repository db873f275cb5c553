"""A prompt and its answer are the tokens of one text, which begins once and ends once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from trainer.data.texts import answered, leading_tokens
from trainer.data.tokenization import prepare_datasets

UNKNOWN = {"unk_token": "<unk>"}


@pytest.fixture(scope="module")
def spaced():
    """A tokenizer that puts a space before every text, as SentencePiece's do."""
    core = Tokenizer(models.BPE(**UNKNOWN, byte_fallback=True))
    # As Llama 2 has it.
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    core.train_from_iterator(
        ["Question: Who? Answer: Peter [INST] Name a fish. [/INST] Cod."] * 9,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False),
    )
    core.pre_tokenizer = None
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", **UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


@pytest.fixture
def prepare(make_config, write_rows, tmp_path):
    """Prepare one row with a tokenizer."""

    def prepare(tokenizer, row, **config):
        config = make_config(write_rows([row]), **config)
        [found] = prepare_datasets(config, tokenizer, tmp_path / "cache").train
        return found

    return prepare


def learnt(row):
    return [label for label in row["labels"] if label != -100]


def test_a_completion_has_the_tokens_that_a_model_meets(prepare, spaced):
    row = prepare(spaced, {"prompt": "Answer:", "completion": " Peter"})

    assert row["input_ids"] == spaced("Answer: Peter")["input_ids"] + [spaced.eos_token_id]
    assert spaced.decode(learnt(row)) == "Peter</s>"
    assert spaced.decode(row["input_ids"][1:-1]) == "Answer: Peter"


def test_a_token_that_reaches_from_the_prompt_into_the_answer_is_learned(prepare, spaced):
    row = prepare(spaced, {"prompt": "Answer: ", "completion": "Peter"})

    assert row["input_ids"] == spaced("Answer: Peter")["input_ids"] + [spaced.eos_token_id]
    assert spaced.decode(learnt(row)) == "Peter</s>"


@pytest.mark.parametrize("method", ["sft", "cpt"])
def test_a_text_that_begins_and_ends_by_itself_does_so_once(prepare, spaced, method):
    row = prepare(spaced, {"text": "<s>[INST] Name a fish. [/INST] Cod. </s>"}, method=method)

    assert row["input_ids"].count(spaced.bos_token_id) == 1
    assert row["input_ids"].count(spaced.eos_token_id) == 1
    assert row["input_ids"][0] == spaced.bos_token_id


def test_a_prompt_that_begins_by_itself_does_so_once(prepare, spaced):
    row = prepare(spaced, {"prompt": "<s>[INST] Name a fish. [/INST]", "completion": " Cod. </s>"})

    assert row["input_ids"].count(spaced.bos_token_id) == 1
    assert spaced.decode(learnt(row)).split() == ["Cod.", "</s>"]


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_so_do_answers_that_are_compared(prepare, spaced, method):
    pair = {"prompt": "<s>[INST] Who? [/INST]", "chosen": " Peter </s>", "rejected": " Cod."}

    row = prepare(spaced, pair, method=method)

    for answer in ("chosen_ids", "rejected_ids"):
        whole = row["prompt_ids"] + row[answer]
        assert (whole.count(1), whole.count(2)) == (1, 1)


def test_a_prompt_to_be_answered_begins_once_where_it_is_tokenised_later(prepare, spaced):
    row = {"prompt": "<s>[INST] Who? [/INST]"}
    settings = {"method": "grpo", "reward_functions": ["length"]}

    assert prepare(spaced, row, **settings) == {"prompt": "[INST] Who? [/INST]"}


def test_what_comes_before_a_text_may_be_several_tokens(build_tokenizer):
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> <s> $A </s>",
        special_tokens=[("<|im_start|>", 3), ("<s>", 1), ("</s>", 2)],
    )

    assert leading_tokens(tokenizer) == [3, 1]
    [(ids, asked)] = answered(tokenizer, [("user", " is")])
    assert (ids[:2], ids[-1], asked) == ([3, 1], 2, len(ids) - 2)


@settings(deadline=None, max_examples=200)
@given(
    prompt=st.text(st.characters(codec="utf-8", exclude_characters="<▁"), min_size=1),
    answer=st.text(st.characters(codec="utf-8", exclude_characters="<▁"), min_size=1),
)
def test_every_text_is_what_it_would_be_without_a_seam(spaced, tokenizer, prompt, answer):
    for one in (spaced, tokenizer):
        [(ids, asked)] = answered(one, [(prompt, answer)])

        assert ids == [*one(prompt + answer)["input_ids"], one.eos_token_id]
        # Nothing of the answer is the prompt's.
        before = one.decode(ids[len(leading_tokens(one)) : asked], skip_special_tokens=True)
        assert len(before.lstrip("\ufffd")) <= len(prompt) + 1
