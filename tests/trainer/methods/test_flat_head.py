"""Rows in one sequence get from TRL's head the scores of each row alone, in the places of the padded batch."""

import pytest

from tests.trainer.architectures.tiny import tiny_config

pytestmark = pytest.mark.xdist_group("torch")
SCORES = ("log_probs", "entropy", "mean_logits", "is_top1", "log_sum_sq_probs")
KINDS = ["llama", "cohere", "gemma3_text", "mixtral", "gpt2"]
"""Plain, with scaled logits, with windows, with routers, with learned positions."""


def scored(kind):
    """Return a model with TRL's head, and three rows of tokens with their learned parts."""
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(kind)).eval()
    add_fused_lm_head(model, temperature=0.7, outputs=SCORES)
    rows = [torch.randint(3, 2000, (length,)) for length in (12, 5, 9)]
    return model, rows, [4, 1, 3]


def batch(rows, prompts, side="right"):
    """Return rows padded on one side; prompts learn nothing."""
    import torch

    width = max(map(len, rows))
    given = {"input_ids": [], "attention_mask": [], "labels": []}
    for row, prompt in zip(rows, prompts, strict=True):
        left = width - len(row) if side == "left" else 0
        ends = (left, width - len(row) - left)
        answer = torch.where(torch.arange(len(row)) < prompt, -100, row)
        parts = {"input_ids": (row, 0), "attention_mask": (torch.ones_like(row), 0)}
        for name, (values, filler) in {**parts, "labels": (answer, -100)}.items():
            given[name].append(torch.nn.functional.pad(values, ends, value=filler))
    return {name: torch.stack(values) for name, values in given.items()} | {"fused_lm_head": True}


def flat(model):
    from trainer.engine.attention import Isolation, attend_by_document
    from trainer.methods.flat_head import lay_flat

    attend_by_document(model)
    return lay_flat(model, Isolation.BY_DOCUMENT)


@pytest.mark.parametrize(("side", "kept"), [("left", 2**26), ("right", 2**26), ("left", 0)])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_each_row_alone(kind, side, kept, monkeypatch):
    import torch

    from trainer.methods import flat_head

    monkeypatch.setattr(flat_head, "KEPT", kept)
    model, rows, prompts = scored(kind)
    alone = [model(**batch([r], [p])) for r, p in zip(rows, prompts, strict=True)]
    given = batch(rows, prompts, side)

    flat(model)
    together = model(**given)

    learned = given["labels"][:, 1:] != -100
    assert torch.equal(together.label_mask, learned)
    for name in SCORES:
        plain = torch.cat([one[name][0][one.label_mask[0]] for one in alone])
        assert together[name].shape == learned.shape
        torch.testing.assert_close(together[name][learned], plain, rtol=1e-4, atol=1e-5)
        assert not together[name][~learned].any()


@pytest.mark.parametrize("kept", [2**26, 0], ids=["logits kept", "tiles"])
def test_the_head_is_computed_where_something_is_learned_and_nowhere_else(kept, monkeypatch):
    import torch

    from trainer.methods import flat_head

    model, rows, prompts = scored("llama")
    flat(model)
    seen = []

    def counted(multiply):
        def of(a, *args, **kwargs):
            seen.append(len(a))
            return multiply(a, *args, **kwargs)

        return of

    monkeypatch.setattr(flat_head, "KEPT", kept)
    monkeypatch.setattr(flat_head, "linear", counted(flat_head.linear))
    monkeypatch.setattr(torch, "mm", counted(torch.mm))
    model(**batch(rows, prompts))

    assert seen == [sum(len(row) - prompt for row, prompt in zip(rows, prompts, strict=True))]


def test_gradients_are_those_of_the_padded_batch():
    import torch

    model, rows, prompts = scored("gemma3_text")
    found = []
    for ready in (lambda _: None, flat):
        ready(model)
        model.zero_grad()
        out = model(**batch(rows, prompts))
        weights = torch.linspace(0, 1, out.log_probs.shape[1])
        (weights * (out.log_probs + out.entropy)).sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})

    padded, laid = found
    for name, gradient in padded.items():
        torch.testing.assert_close(laid[name], gradient, rtol=1e-3, atol=1e-5)


def test_a_batch_of_which_nothing_is_learned_still_has_gradients():
    model, rows, _ = scored("llama")
    flat(model)

    out = model(**batch(rows, [len(row) for row in rows]))
    out.log_probs.sum().backward()

    assert not out.log_probs.any()
    assert not model.get_input_embeddings().weight.grad.any()


def test_a_call_with_something_unknown_is_left_to_trl_and_all_of_them_afterwards():
    import torch

    model, rows, prompts = scored("llama")
    given = batch(rows, prompts)
    expected = model(**given).log_probs
    undo = flat(model)
    positions = torch.arange(given["input_ids"].shape[1])[None]

    assert torch.equal(model(**given, position_ids=positions).log_probs, expected)
    undo()
    assert torch.equal(model(**given).log_probs, expected)
