"""Adapters added to their weights for a while: the same numbers, and nothing of it left."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.xdist_group("torch")


def layers(model):
    from peft.tuners import lora

    return [module for module in model.modules() if isinstance(module, lora.Linear)]


def test_numbers_are_those_of_the_adapters_and_nothing_is_left():
    import torch

    from tests.trainer.engine.lora_layers import adapted
    from trainer.engine.summed_lora import summed

    model = adapted()
    x, before = torch.randn(2, 5, 12), {k: v.clone() for k, v in model.state_dict().items()}
    expected = model(x)

    with summed(model), torch.no_grad():
        assert all("forward" in vars(layer) for layer in layers(model))
        found = model(x)

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(x), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any("forward" in vars(layer) for layer in layers(model))


def test_what_is_learned_meanwhile_counts_the_next_time():
    import torch

    from tests.trainer.engine.lora_layers import adapted
    from trainer.engine.summed_lora import summed

    model = adapted()
    x = torch.randn(5, 12)
    with summed(model), torch.no_grad():
        before = model(x)
        for layer in layers(model):
            layer.lora_B["default"].weight.mul_(2)
    with summed(model), torch.no_grad():
        after = model(x)

    torch.testing.assert_close(after, model(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(after, before)


@pytest.mark.filterwarnings("ignore:`lora_bias=True`")
@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({"use_dora": True}, "float32"),
        ({"lora_dropout": 0.5}, "float32"),
        ({"lora_bias": True}, "float32"),
        ({}, "bfloat16"),
    ],
    ids=["dora", "dropout", "bias", "16 bits"],
)
def test_what_would_be_another_number_is_left_alone(settings, dtype):
    import torch

    from tests.trainer.engine.lora_layers import adapted
    from trainer.engine.summed_lora import summed

    model = adapted(getattr(torch, dtype), **settings)

    with summed(model):
        assert not any("forward" in vars(layer) for layer in layers(model))


def test_adapters_that_are_off_or_two_are_left_alone_and_an_error_leaves_nothing():
    import peft

    from tests.trainer.engine.lora_layers import adapted
    from trainer.engine.summed_lora import summed

    model = adapted()
    with model.disable_adapter(), summed(model):
        assert not any("forward" in vars(layer) for layer in layers(model))
    with pytest.raises(KeyError), summed(model):
        raise KeyError
    assert not any("forward" in vars(layer) for layer in layers(model))
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["first", "second"]))
    model.base_model.set_adapter(["default", "second"])
    with summed(model):
        assert not any("forward" in vars(layer) for layer in layers(model))


def test_a_large_model_is_not_copied(monkeypatch):
    from tests.trainer.engine.lora_layers import adapted
    from trainer.engine import summed_lora

    model = adapted()
    size = sum(layer.base_layer.weight.nbytes for layer in layers(model))

    for most, taken in ((size, True), (size - 1, False)):
        monkeypatch.setattr(summed_lora, "MOST", most)
        with summed_lora.summed(model):
            assert any("forward" in vars(layer) for layer in layers(model)) is taken
