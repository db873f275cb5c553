"""Rows that lie in one sequence do not see each other, in whatever kind of model."""

from itertools import pairwise
from types import SimpleNamespace

import pytest

from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError
from trainer.engine.attention import Isolation, attend_by_document, choose_attention, isolation_of

pytestmark = pytest.mark.xdist_group("torch")
LENGTHS = (5, 40, 1, 300, 150, 3)  # three rectangles, see `trainer.data.collation.ALIKE`
ROUNDING = 2e-6  # of logits up to about 1

MODELS = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen3": {},
    "gemma3_text": {"sliding_window": 16},
    "phi3": {},
    "gpt2": {},
}


def made(kind: str, **settings):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(kind, **sizes | MODELS.get(kind, {}) | settings)
    return AutoModelForCausalLM.from_config(config).eval()


def documents():
    import torch

    draw = torch.Generator().manual_seed(1)
    return [torch.randint(3, 64, (length,), generator=draw).tolist() for length in LENGTHS]


def difference(model, isolation: Isolation) -> float:
    """Return by how much logits in one sequence differ from those of each document alone."""
    import torch

    from trainer.data.collation import FlatCollator

    rows = [{"input_ids": ids, "labels": ids} for ids in documents()]
    batch = FlatCollator(isolation, head_can_skip=False)(rows)
    del batch["labels"], batch["shift_labels"]
    with torch.no_grad():
        together = model(**batch, use_cache=False).logits[0]
        alone = [model(torch.tensor([ids]), use_cache=False).logits[0] for ids in documents()]
    return float((together - torch.cat(alone)).abs().max())


@pytest.mark.parametrize("kind", MODELS)
def test_documents_in_one_sequence_are_as_if_alone(kind):
    model = made(kind)
    assert isolation_of(model) is Isolation.BY_DOCUMENT

    by_mask = difference(model, Isolation.MASK)
    attend_by_document(model)
    by_document = difference(model, Isolation.BY_DOCUMENT)

    assert max(by_mask, by_document) < ROUNDING


def test_without_isolation_the_documents_would_differ():
    import torch

    model = made("llama")
    joined = torch.tensor([[token for ids in documents() for token in ids]])
    last = torch.tensor([documents()[-1]])

    with torch.no_grad():
        together = model(joined, use_cache=False).logits[0, -LENGTHS[-1] :]
        alone = model(last, use_cache=False).logits[0]

    assert (together - alone).abs().max() > 1000 * ROUNDING


class TorchKernel:
    """Flash attention by the signatures of its kernels, in PyTorch."""

    @staticmethod
    def flash_attn_func(q, k, v, *, softmax_scale=None, causal=False):
        from torch.nn.functional import scaled_dot_product_attention

        heads_first = (states.transpose(1, 2) for states in (q, k, v))
        return scaled_dot_product_attention(
            *heads_first, is_causal=causal, scale=softmax_scale, enable_gqa=True
        ).transpose(1, 2)

    @classmethod
    def flash_attn_varlen_func(
        cls, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **settings
    ):
        import torch

        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        assert int(cu_seqlens_q.diff().max()) == max_seqlen_q == max_seqlen_k
        documents = [
            cls.flash_attn_func(*(states[None, start:end] for states in (q, k, v)), **settings)[0]
            for start, end in pairwise(cu_seqlens_q.tolist())
        ]
        return torch.cat(documents)


@pytest.fixture
def hub(monkeypatch):
    """What the Hub holds, by repository; stands in for the download alone, which needs a GPU."""
    from transformers import modeling_flash_attention_utils
    from transformers.integrations import hub_kernels

    held: dict[str, object] = {}
    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: True)
    monkeypatch.setattr(hub_kernels, "get_kernel", lambda name, **_: held[name])
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)
    return held


@pytest.mark.parametrize("name", ["kernels-community/flash-attn2", "kernels-community/flash-attn"])
def test_a_kernel_of_the_hub_is_flash_attention(hub, name):
    hub[name] = TorchKernel
    model = made("llama")

    choose_attention(model, name)

    assert isolation_of(model) is Isolation.FLASH
    assert difference(model, Isolation.FLASH) < ROUNDING


def test_a_kernel_with_an_entry_of_its_own_is_not_given_bounds(hub):
    def passed_over(module, query, key, value, attention_mask, **_):
        return query.transpose(1, 2), None

    hub["kernels-community/flash-own"] = SimpleNamespace(
        flash_attn_forward=passed_over, supports_flash_attn=lambda: True
    )
    model = made("llama")

    choose_attention(model, "kernels-community/flash-own")

    assert isolation_of(model) is not Isolation.FLASH


@pytest.mark.parametrize(
    "kind",
    [
        "mamba",  # a state goes from token to token
        "bloom",  # does not attend by transformers' interface
    ],
)
def test_a_model_that_cannot_keep_documents_apart_is_known(kind):
    assert isolation_of(made(kind)) is None


@pytest.mark.parametrize(
    "name", ["flash_attention_2", "flash_atention", "kernels-community/flash-attn2"]
)
def test_an_attention_that_cannot_be_had_is_refused_by_its_field(name):
    with pytest.raises(
        ConfigError, match=rf"^training\.attn_implementation: {name} is not available"
    ):
        choose_attention(made("llama"), name)


@pytest.mark.parametrize("field", ["packing", "padding_free"])
def test_rows_in_one_sequence_are_refused_where_nothing_keeps_them_apart(field):
    from trainer.methods.ways import isolations

    wanted = TrainingConfig.model_validate({"model": "m", "dataset": "d", field: True})

    with pytest.raises(ConfigError, match=rf"^training\.{field}: the attention of BloomFor"):
        isolations(made("bloom"), wanted)
    assert isolations(made("bloom"), wanted.model_copy(update={field: None})) == []


@pytest.mark.parametrize("parallelism", ["fsdp", "deepspeed"])
def test_rows_of_a_model_that_is_split_are_padded_unless_the_job_asks_otherwise(parallelism):
    from trainer.methods.ways import isolations

    config = TrainingConfig(model="m", dataset="d", parallelism=parallelism)
    asked = config.model_copy(update={"padding_free": True})

    assert isolations(made("llama"), config) == []
    assert isolations(made("llama"), asked)[0] is Isolation.BY_DOCUMENT
    assert isolations(made("llama"), config.model_copy(update={"parallelism": "ddp"})) != []
