"""What a batch computes is proven on the model, and a slower way is taken where it must be."""

import pytest

from tests.trainer.engine.test_attention import made
from trainer.contract.errors import ConfigError

pytestmark = pytest.mark.xdist_group("torch")
ROWS = [[5, 9, 13, 22, 31, 40, 7], [44, 3, 9, 60, 61], [10, 11, 12, 13]]
OWN = {
    "nemotron": {"num_key_value_heads": 4},
    "phimoe": {"num_local_experts": 4, "sliding_window": 16},
    "gpt_oss": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "sliding_window": 16, "use_sliding_window": True},
    "doge": {"sliding_window": 16},
    "bart": {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4},
    "roberta": {"is_decoder": True},
}


def proof_of(kind, dtype=None, **settings):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from trainer.engine.attention import Isolation, isolation_of
    from trainer.methods.proof import first_proven
    from trainer.methods.ways import ways_of

    model = made(kind, **OWN.get(kind, {}) | settings)
    if dtype is not None:
        model = model.to(dtype)
    found = isolation_of(model)
    candidates = list(dict.fromkeys([found, Isolation.MASK])) if found else []
    padded = DataCollatorForLanguageModeling(pad_token_id=0)
    ways = ways_of(model, candidates, padded, head_can_skip=True)
    return first_proven(model, ways, ROWS, longest=512)


@pytest.mark.parametrize(
    ("kind", "way", "refuted"),
    [
        ("llama", "by document", []),
        ("mixtral", "by document", []),
        ("nemotron", "mask", ["by document"]),  # a layer that does not pass on what it is given
        ("phimoe", "mask", ["by document"]),  # a window that only the mask knows
        ("doge", "mask", ["by document"]),
        ("roberta", "padded", ["by document", "mask"]),  # positions that are made of the tokens
        ("gpt_oss", "padded", ["mask"]),
        ("mamba", "padded", []),
    ],
)
def test_the_fastest_way_that_is_right_is_found(kind, way, refuted):
    proof = proof_of(kind)

    assert (proof.name, list(proof.refuted)) == (way, refuted)
    assert proof.loss_fault is None
    assert proof.difference < 1e-5


@pytest.mark.parametrize(
    ("kind", "way"), [("llama", "by document"), ("mixtral", "by document"), ("nemotron", "mask")]
)
def test_rounding_to_16_bits_is_told_from_a_fault(kind, way):
    import torch

    proof = proof_of(kind, dtype=torch.bfloat16)

    assert proof.name == way
    assert proof.difference < 0.05
    assert proof.loss_fault is None


def test_a_loss_that_teaches_to_copy_is_known():
    proof = proof_of("bart")

    assert proof.name == "padded"
    assert "instead of" in proof.loss_fault


def test_a_model_that_sees_what_comes_later_is_refused():
    with pytest.raises(ConfigError, match=r"RobertaForCausalLM a token sees those that come after"):
        proof_of("roberta", is_decoder=False)


def test_a_model_whose_layers_hide_their_adapters_from_gradients_is_refused():
    import peft
    from transformers import AutoModelForCausalLM

    from tests.trainer.architectures.tiny import tiny_config
    from trainer.engine.deprecations import deprecations_allowed
    from trainer.methods.proof import refuse_without_gradient

    model = AutoModelForCausalLM.from_config(tiny_config("reformer"))
    refuse_without_gradient(model, [1, 2, 3])
    with deprecations_allowed():
        adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear"))

    with pytest.raises(ConfigError, match=r"ReformerModelWithLMHead no gradient comes to the ad"):
        refuse_without_gradient(adapted, [1, 2, 3])
