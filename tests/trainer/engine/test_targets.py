"""Adapters are put where the model would learn through them, and nowhere else."""

import pytest

from tests.trainer.architectures.tiny import tiny_config, tiny_model_folder
from trainer.contract.errors import ConfigError, ModelNotFound
from trainer.contract.job_directory import JobState

pytestmark = pytest.mark.xdist_group("torch")


def unfit(kind):
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.engine.targets import unfit_targets

    with torch.device("meta"):
        return set(unfit_targets(AutoModelForCausalLM.from_config(tiny_config(kind))))


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("llama", set()),
        ("bloom", set()),  # names weights in a way that is not taken, and in a slice
        ("falcon", set()),  # a class of its own that is linear
        ("mamba", {"mixer.dt_proj", "mixer.out_proj", "mixer.x_proj"}),
        ("phimoe", {"mlp.router"}),
        pytest.param("deepseek_v4", {"self_attn.o_a_proj"}, marks=pytest.mark.thorough),
    ],
)
def test_layers_that_carry_no_adapter_are_known(kind, layers):
    assert unfit(kind) == layers


@pytest.mark.parametrize(
    ("kind", "taken"),
    [("mamba", "mixer.in_proj"), pytest.param("phimoe", "o_proj", marks=pytest.mark.thorough)],
)
def test_all_linear_leaves_them_out(kind, taken, make_job, tmp_path):
    model = tiny_model_folder(tmp_path / "model", kind)
    job = make_job(tmp_path / "job", model=str(model), max_steps=2, learning_rate=0.01)

    assert job.train() is JobState.COMPLETED

    from safetensors.torch import load_file

    weights = load_file(job.directory.output / "adapter_model.safetensors")
    assert any(f"{taken}.lora_B" in name for name in weights)
    assert all(weights[name].abs().max() > 0 for name in weights)


def test_one_that_is_named_is_refused(make_job, tmp_path):
    model = tiny_model_folder(tmp_path / "model", "mamba")
    wanted = {"r": 4, "lora_alpha": 8, "target_modules": ["in_proj", "out_proj"]}
    job = make_job(tmp_path / "job", model=str(model), peft=wanted)

    with pytest.raises(
        ConfigError, match=r"^training\.peft\.target_modules: out_proj cannot carry an adapter in M"
    ):
        job.train()


def test_a_model_that_transformers_cannot_build_is_named_so(make_job, tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(AttributeError):
        tiny_model_folder(folder, "musicgen")
    job = make_job(tmp_path / "job", model=str(folder), init="random", peft=None)

    with pytest.raises(ModelNotFound, match=r"^training\.model: .* cannot be loaded: 'MusicgenCon"):
        job.train()


@pytest.mark.parametrize("kind", ["gemma3", pytest.param("gemma4", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"]])
def test_every_adapter_of_a_model_with_eyes_learns_from_texts(kind, targets):
    """Several processes would wait for the gradient of one that does not."""
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.config import TrainingConfig
    from trainer.engine.adapters import add_adapters

    model = AutoModelForCausalLM.from_config(tiny_config(kind))
    peft = {"r": 2, "target_modules": targets}
    adapted = add_adapters(model, TrainingConfig(model="m", dataset="d", peft=peft))
    tokens = torch.arange(20, 40)[None]

    adapted(input_ids=tokens, labels=tokens).loss.backward()

    trained = {n: p.grad for n, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert [name for name, gradient in trained.items() if gradient is None] == []


def test_adapters_that_peft_would_lose_on_loading_are_refused(make_job, tmp_path):
    """It renames the weights of Laguna's shared experts as if they were an older checkpoint's."""
    from trainer.engine.model import load_model
    from trainer.training.train import read_config

    model = str(tiny_model_folder(tmp_path / "model", "laguna"))
    lost = [f"shared_experts.{name}_proj" for name in ("down", "gate", "up")]

    with pytest.raises(ConfigError, match=r"loses the adapters of shared_exp") as refused:
        load_model(read_config(make_job(tmp_path / "all", model=model, peft={}).directory))

    assert f"peft: {{exclude_modules: [{', '.join(lost)}]}}" in refused.value.suggestion
    job = make_job(tmp_path / "others", model=model, peft={"exclude_modules": lost})
    names = [name for name, _ in load_model(read_config(job.directory)).named_parameters()]
    assert not [name for name in names if "shared_experts" in name and "lora" in name]
    assert [name for name in names if "g_proj.lora_A" in name]
