"""A reward model scores the very tokens that it has learned from."""

import pytest

from trainer.data.tokenization import prepare_datasets
from trainer.rewards.scorer import Scorer

pytestmark = pytest.mark.xdist_group("torch")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + ': ' + m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)
ASK = [{"role": "user", "content": "2+2?"}]


def said(text):
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        ("2+2= ", "four", "five</s>"),
        ("<s>2+2=", " four", " five"),
        (ASK, said("four"), said("five")),
    ],
    ids=["texts", "texts with their first token", "chats"],
)
def test_what_is_scored_is_what_was_learned(
    tmp_path, make_config, write_rows, build_tokenizer, prompt, chosen, rejected, adds_bos
):
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = build_tokenizer(adds_bos=adds_bos, template=TEMPLATE)
    path = write_rows([{"prompt": prompt, "chosen": chosen, "rejected": rejected}])
    config = make_config(path, method="reward")
    [row] = prepare_datasets(config, tokenizer, tmp_path / "cache").train
    tokenizer.save_pretrained(tmp_path / "scorer")
    tiny = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,  # so that other tokens have a clearly different score
    )
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(tiny).eval()
    model.save_pretrained(tmp_path / "scorer")
    with torch.no_grad():
        learned = [
            float(model(input_ids=torch.tensor([row[f"{name}_ids"]])).logits[0, 0])
            for name in ("chosen", "rejected")
        ]

    scores = Scorer(str(tmp_path / "scorer"), "cpu")([prompt] * 2, [chosen, rejected])

    assert scores == pytest.approx(learned, abs=1e-5)
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)
