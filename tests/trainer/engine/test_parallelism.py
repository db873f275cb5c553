"""What is said to transformers of several processes, and what is refused before they start."""

import pytest

from trainer.config import TrainingConfig, TrainingJob
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobDirectory
from trainer.engine.arguments import training_arguments
from trainer.engine.parallelism import check_parallelism, deepspeed_config, shares
from trainer.results.summary import batch_in_words

pytestmark = pytest.mark.xdist_group("torch")


ONLINE = {"method": "grpo", "reward_functions": ["exact_match"]}


def config(**settings):
    return TrainingConfig.model_validate({"model": "m", "dataset": "d"} | settings)


def job(resources, **settings):
    training = {"model": "m", "dataset": "d"} | settings
    return TrainingJob.model_validate({"name": "j", "training": training, "resources": resources})


@pytest.mark.parametrize(("kind", "checkpointing"), [("fsdp", True), ("fsdp_hybrid", False)])
def test_fsdp_is_of_version_2_and_gathers_nothing_to_save_it(tmp_path, kind, checkpointing):
    asked = config(parallelism=kind, gradient_checkpointing=checkpointing)

    made = training_arguments(asked, JobDirectory(tmp_path))

    assert made.fsdp is True
    assert made.gradient_checkpointing is False
    plugin = made.fsdp_plugin_args
    assert (plugin["fsdp_version"], plugin["reshard_after_forward"]) == (2, True)
    assert (plugin["state_dict_type"], plugin["auto_wrap_policy"]) == (
        "SHARDED_STATE_DICT",
        "TRANSFORMER_BASED_WRAP",
    )
    assert plugin["activation_checkpointing"] is checkpointing


def test_ddp_is_the_default_and_looks_for_no_unused_parameters(tmp_path):
    made = training_arguments(config(), JobDirectory(tmp_path))

    assert not made.fsdp
    assert made.deepspeed is None
    assert made.ddp_find_unused_parameters is False
    assert made.average_tokens_across_devices  # else rows with few tokens would weigh more


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_gathers_weights_that_it_shares_out(stage):
    zero = deepspeed_config(config(parallelism="deepspeed", zero_stage=stage))["zero_optimization"]

    assert zero["stage"] == stage
    assert zero.get("stage3_gather_16bit_weights_on_model_save", False) is (stage == 3)


@pytest.mark.parametrize(
    ("settings", "processes", "complaint"),
    [
        ({"parallelism": "fsdp"}, 1, "parallelism: fsdp .* one process trains"),
        ({"parallelism": "fsdp_hybrid"}, 2, "fsdp_hybrid .* only one of this machine trains"),
        ({"parallelism": "deepspeed"}, 2, "parallelism: deepspeed .* here there is no GPU"),
    ],
)
def test_a_trainer_refuses_what_its_machine_cannot_do(monkeypatch, settings, processes, complaint):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    with pytest.raises(ConfigError, match=complaint):
        check_parallelism(config(**settings), processes)


@pytest.mark.parametrize(
    ("resources", "settings", "complaint"),
    [
        ({}, {"parallelism": "fsdp"}, "gpu_count: 2 or more"),
        ({"nodes": 2}, {"parallelism": "fsdp_hybrid"}, "gpu_count: 2 or more"),
        ({"nodes": 2, "gpu_count": 2}, {"parallelism": "deepspeed"}, "machines was never tried"),
        ({"gpu_count": 1}, {"parallelism": "deepspeed"}, "gpu_count: 2 or more"),
        ({"gpu_count": 2, "cpu_processes": 2}, {}, "Remove cpu_processes"),
        ({"cpu_processes": 2}, {}, "set gpu_count: 0"),  # there may be one GPU, for one process
        ({"gpu_count": 2}, {**ONLINE, "parallelism": "fsdp"}, "grpo writes answers with the whole"),
    ],
)
def test_a_job_that_cannot_be_is_refused_before_a_machine_is_hired(resources, settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        job(resources, **settings)


@pytest.mark.parametrize(
    ("resources", "kind", "sharing"),
    [
        ({"nodes": 2, "gpu_count": 1}, "fsdp", 2),
        ({"nodes": 2, "gpu_count": 4}, "fsdp", 8),
        ({"nodes": 2, "gpu_count": 4}, "fsdp_hybrid", 4),
        ({"gpu_count": 0, "cpu_processes": 2}, "fsdp", 2),
    ],
)
def test_a_model_is_split_across_all_machines_or_within_each(resources, kind, sharing):
    assert job(resources, parallelism=kind).sharing == sharing


@pytest.mark.parametrize(
    ("resources", "processes"),
    [({}, 1), ({"gpu_count": 4}, 4), ({"gpu_count": 0, "cpu_processes": 2}, 2)],
)
def test_every_gpu_has_its_process(resources, processes):
    assert job(resources).processes_per_machine == processes


def test_the_users_batch_is_that_of_a_device():
    asked = config(per_device_train_batch_size=4, gradient_accumulation_steps=3)

    assert batch_in_words(asked, 1) == "12 examples: 4 per device × 3 accumulated"
    assert batch_in_words(asked, 2) == "24 examples: 4 per device × 3 accumulated × 2 processes"
    assert batch_in_words(asked, 2, 4) == "24 examples: 1 per device × 12 accumulated × 2 processes"


def test_what_is_shared_out_needs_less_memory():
    assert shares(config(), 4) == {"gradients": 2.0}
    assert shares(config(), 1) == {"gradients": 1.0}
    assert shares(config(parallelism="deepspeed", zero_stage=2), 4) == {
        "optimizer": 0.25,
        "gradients": 0.25,
    }
    assert shares(config(parallelism="fsdp"), 4)["weights"] == 0.25
