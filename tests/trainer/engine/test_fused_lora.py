"""LoRA in fewer passes: PEFT's own numbers and gradients, and PEFT's own way where it must be."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from trainer.engine.fused_lora import FusedLinear, fuse

pytestmark = pytest.mark.xdist_group("torch")


class Layers(nn.Module):
    """Two layers, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 20)
        self.second = nn.Linear(20, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (…, 8) for (…, 12)."""
        return self.second(torch.relu(self.first(x)))  # type: ignore[no-any-return] # torch's


def pair(dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """Return a model with adapters as PEFT has it, and the same one fused."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["first", "second"], **settings)
    plain = peft.get_peft_model(Layers(), config).to(dtype)
    for name, parameter in plain.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    fused = copy.deepcopy(plain)
    fuse(fused)
    return plain, fused


def numbers(model: nn.Module, x: Tensor, *, autocast: bool = False) -> list[Tensor]:
    """Return the answer, and the gradients of x and of all that is trained."""
    x = x.clone().requires_grad_()
    torch.manual_seed(2)  # of dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = model(x)
    y.float().square().sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [y, *(tensor.grad for tensor in (x, *trained) if tensor.grad is not None)]


@pytest.mark.parametrize("shape", [(2, 5, 12), (3, 12), (0, 12)], ids=str)  # an expert has no token
def test_numbers_and_gradients_are_those_of_peft(shape):
    plain, fused = pair()
    x = torch.randn(shape)

    expected, found = numbers(plain, x), numbers(fused, x)

    assert [type(layer) for layer in fused.modules()].count(FusedLinear) == 2
    assert len(expected) == len(found) == 6
    for theirs, ours in zip(expected, found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_gradients_are_those_of_the_numbers():
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
    plain, fused = pair(**settings)
    x = torch.randn(5, 12)

    expected = numbers(plain, x, autocast=autocast)
    found = numbers(fused, x, autocast=autocast)

    for theirs, ours in zip(expected, found, strict=True):
        assert torch.equal(ours, theirs)


def test_adapters_can_be_switched_off_and_merged():
    plain, fused = pair()
    x = torch.randn(5, 12)

    with plain.disable_adapter(), fused.disable_adapter():
        assert torch.equal(fused(x), plain(x))
    assert plain.state_dict().keys() == fused.state_dict().keys()
    torch.testing.assert_close(fused.merge_and_unload()(x), plain.merge_and_unload()(x))


def test_a_second_adapter_is_added_as_peft_does():
    plain, fused = pair()
    x = torch.randn(5, 12)
    for model in (plain, fused):
        torch.manual_seed(3)
        model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["first"]))
        model.base_model.set_adapter(["default", "second"])

    assert torch.equal(fused(x), plain(x))


def test_layers_that_are_trained_themselves_are_left_alone():
    plain, fused = pair()
    for model in (plain, fused):
        model.base_model.model.first.base_layer.weight.requires_grad_()
    x = torch.randn(5, 12)

    expected, found = numbers(plain, x), numbers(fused, x)

    assert len(expected) == len(found) == 7
    for theirs, ours in zip(expected, found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
