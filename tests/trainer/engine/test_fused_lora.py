"""LoRA in fewer passes: PEFT's own numbers and gradients, and PEFT's own way where it must be.

Torch is imported by the tests and not with this module: every worker of a test run imports that.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.xdist_group("torch")


@pytest.mark.parametrize("shape", [(2, 5, 12), (3, 12), (0, 12)], ids=str)  # an expert has no token
def test_numbers_and_gradients_are_those_of_peft(shape):
    import torch

    from tests.trainer.engine.lora_pairs import numbers, pair
    from trainer.engine.fused_lora import FusedLinear

    plain, fused = pair()
    x = torch.randn(shape)

    expected, found = numbers(plain, x), numbers(fused, x)

    assert [type(layer) for layer in fused.modules()].count(FusedLinear) == 2
    assert len(expected) == len(found) == 6
    for theirs, ours in zip(expected, found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_gradients_are_those_of_the_numbers():
    import torch

    from tests.trainer.engine.lora_pairs import pair

    _, fused = pair(torch.float64)
    trained = [parameter for parameter in fused.parameters() if parameter.requires_grad]
    x = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x, *_: fused(x), (x, *trained))


@pytest.mark.filterwarnings("ignore:`lora_bias=True`")
@pytest.mark.parametrize(
    ("settings", "autocast"),
    [
        ({"use_dora": True}, False),
        ({"lora_dropout": 0.5}, False),
        ({"lora_bias": True}, False),
        ({}, True),
    ],
    ids=["dora", "dropout", "bias", "autocast"],
)
def test_what_is_not_plain_lora_goes_the_way_of_peft(settings, autocast):
    import torch

    from tests.trainer.engine.lora_pairs import numbers, pair

    plain, fused = pair(**settings)
    x = torch.randn(5, 12)

    expected = numbers(plain, x, autocast=autocast)
    found = numbers(fused, x, autocast=autocast)

    for theirs, ours in zip(expected, found, strict=True):
        assert torch.equal(ours, theirs)


def test_adapters_can_be_switched_off_and_merged():
    import torch

    from tests.trainer.engine.lora_pairs import pair

    plain, fused = pair()
    x = torch.randn(5, 12)

    with plain.disable_adapter(), fused.disable_adapter():
        assert torch.equal(fused(x), plain(x))
    assert plain.state_dict().keys() == fused.state_dict().keys()
    torch.testing.assert_close(fused.merge_and_unload()(x), plain.merge_and_unload()(x))


def test_a_second_adapter_is_added_as_peft_does():
    import peft
    import torch

    from tests.trainer.engine.lora_pairs import pair

    plain, fused = pair()
    x = torch.randn(5, 12)
    for model in (plain, fused):
        torch.manual_seed(3)
        model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["first"]))
        model.base_model.set_adapter(["default", "second"])

    assert torch.equal(fused(x), plain(x))


def test_layers_that_are_trained_themselves_are_left_alone():
    import torch

    from tests.trainer.engine.lora_pairs import numbers, pair

    plain, fused = pair()
    for model in (plain, fused):
        model.base_model.model.first.base_layer.weight.requires_grad_()
    x = torch.randn(5, 12)

    expected, found = numbers(plain, x), numbers(fused, x)

    assert len(expected) == len(found) == 7
    for theirs, ours in zip(expected, found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_what_comes_out_may_be_changed_in_place():
    """As Gemma 3n does with what a layer returns."""
    import torch

    from tests.trainer.engine.lora_pairs import pair

    _, fused = pair()
    x = torch.randn(2, 5, 12, requires_grad=True)

    y = fused.base_model.model.first(x)
    y.mul_(2).sum().backward()

    assert x.grad.abs().max() > 0
