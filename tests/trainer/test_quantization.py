"""Weights of few bits: what they take, and what is needed for them."""

import sys

import pytest

from trainer.config import TrainingConfig
from trainer.extras import check_extras, extras_of
from trainer.job_directory import JobState

pytestmark = pytest.mark.xdist_group("torch")


def config(model, **settings) -> TrainingConfig:
    return TrainingConfig(model=str(model), dataset="d", **settings)


@pytest.mark.parametrize(
    "quantization",
    [
        {"load_in_8bit": True},
        {"load_in_4bit": True, "bnb_4bit_use_double_quant": False},
        {"load_in_4bit": True, "llm_int8_skip_modules": ["lm_head", "down_proj"]},
    ],
)
def test_the_weights_take_what_is_estimated(base_model, quantization):
    from trainer.estimate import empty_model
    from trainer.model import load_model
    from trainer.quantization import weight_bytes

    job = config(base_model, quantization=quantization, peft={"r": 4, "use_dora": True})

    estimated = weight_bytes(empty_model(job), job.quantization)
    plain = weight_bytes(empty_model(job), None)

    assert estimated == pytest.approx(_bytes_held(load_model(job)), rel=0.03)
    assert estimated < 0.75 * plain


def _bytes_held(model) -> int:
    """Return the bytes of all weights, and of the scales that go with those in few bits."""
    total = 0
    for parameter in model.parameters():
        total += parameter.numel() * parameter.element_size()
        if state := getattr(parameter, "quant_state", None):
            scales = [state.absmax, *([state.state2.absmax] if state.nested else [])]
            total += sum(scale.numel() * scale.element_size() for scale in scales)
    return total


def test_trained_weights_are_never_rounded(base_model, tmp_path, make_job):
    """TRL rounds them to bfloat16 when it takes up a quantised model."""
    import torch
    from transformers import set_seed

    from trainer.model import load_model
    from trainer.quantization import masters_kept

    set_seed(1)
    model = load_model(config(base_model, quantization={"load_in_4bit": True}))
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    with masters_kept(model):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)

    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"quantization": {"load_in_8bit": True}}, "training.quantization: "),
        ({"optim": "adamw_8bit"}, "training.optim = 'adamw_8bit': "),
    ],
)
def test_without_bitsandbytes_a_job_ends_with_one_sentence(
    settings, field, tmp_path, make_job, monkeypatch
):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not there
    job = make_job(tmp_path / "job", **settings)

    assert job.main() == 1

    assert job.status.state is JobState.FAILED
    assert job.status.error["class"] == "DependencyError"
    assert job.status.error["message"].startswith(field)
    assert "training-orchestrator[bitsandbytes]" in job.status.error["suggestion"]


def test_who_needs_bitsandbytes_is_told_from_the_name_of_the_optimizer():
    from transformers.trainer_optimizer import _BITSANDBYTES_OPTIMIZERS
    from transformers.training_args import OptimizerNames

    names = [each.value for each in OptimizerNames]
    found = {n for n in names if extras_of(config("m", optim=n)) == ["bitsandbytes"]}

    others = {"galore_adamw_8bit", "galore_adamw_8bit_layerwise"}  # they build on it
    assert found == {each.value for each in _BITSANDBYTES_OPTIMIZERS} | others


def test_another_projects_packages_are_its_own_matter():
    theirs = config("m", trainer="axolotl", quantization={"load_in_4bit": True})

    assert extras_of(theirs) == []
    check_extras(theirs)
