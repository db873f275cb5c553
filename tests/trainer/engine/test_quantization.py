"""Weights of few bits: what they take, and what is needed for them."""

import sys

import pytest

from flows.job_file import load_job
from tests.trainer.jobs import TINY_LLAMA, Job
from trainer.config import TrainingConfig
from trainer.config.extras import check_extras, extras_of
from trainer.config.methods import METHODS
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState

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
    from trainer.engine.model import load_model
    from trainer.engine.quantization import weight_bytes
    from trainer.training.estimate import empty_model

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

    from trainer.engine.model import load_model
    from trainer.engine.quantization import masters_kept

    set_seed(1)
    model = load_model(config(base_model, quantization={"load_in_4bit": True}))
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    with masters_kept(model):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)

    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.thorough
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_trains_on_four_bits_with_masters_in_float32(method, tmp_path):
    from safetensors.torch import load_file

    name = "quickstart.yaml" if method == "sft" else f"methods/{method}.yaml"
    example = load_job(TINY_LLAMA.parent / name).training.model_dump(mode="json")
    example["dataset"]["max_rows"] = 40
    changes = {"quantization": {"load_in_4bit": True}, "peft": {"r": 8, "use_dora": True}}
    job = Job(tmp_path / "job", **{**example, **changes, "max_steps": 3, "report_to": []})

    assert job.train() is JobState.COMPLETED

    adapter = load_file(job.directory.output / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in adapter.values()} == {"torch.float32"}
    gradients = [r["grad_norm"] for r in job.metrics.values() if r.get("grad_norm") is not None]
    assert len(gradients) == 3
    assert min(gradients) > 0


@pytest.mark.parametrize(
    ("layer", "quantization", "words"),
    [
        ("no_such", None, "the model has no layer 'no_such'"),
        ("down_proj", {"load_in_4bit": True}, "down_proj is quantised, and cannot be trained"),
    ],
)
def test_layers_that_cannot_be_trained_in_full_are_named(base_model, layer, quantization, words):
    from trainer.engine.model import load_model

    settings = {"quantization": quantization, "peft": {"modules_to_save": [layer]}}

    with pytest.raises(ConfigError, match=words):
        load_model(config(base_model, **settings))


def test_layers_trained_in_full_are_float32_beside_half_precision(base_model):
    """What a GPU does, here by the CPU's autocast: frozen weights in bfloat16, masters in float32."""
    import torch

    from trainer.engine.model import load_model

    peft = {"r": 4, "modules_to_save": ["norm"]}
    model = load_model(config(base_model, peft=peft, dtype="bfloat16"))
    tokens = torch.arange(20, 40)[None]

    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=tokens, labels=tokens).loss.backward()

    gradients = {p.grad.dtype for p in model.parameters() if p.requires_grad}
    assert gradients == {torch.float32}
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


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
