"""From a job file to TRL's arguments: nothing is dropped, and nothing is set twice."""

import dataclasses
import types
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer.config import TrainingConfig, argument_kinds, argument_table
from trainer.config.methods import METHODS
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobDirectory
from trainer.engine.arguments import (
    class_of_arguments,
    faster_here,
    split_batch,
    training_arguments,
)
from trainer.supervision.restart_decision import next_divisor

pytestmark = pytest.mark.xdist_group("torch")


@pytest.fixture
def arguments(tmp_path):
    """Return a maker of TRL's arguments from settings."""

    def make(divisor: int = 1, **settings: Any) -> Any:

        config = TrainingConfig.model_validate({"model": "m", "dataset": "d"} | settings)
        directory = JobDirectory(tmp_path)
        return training_arguments(config, directory, batch_divisor=divisor)

    return make


def test_what_the_job_says_arrives(arguments):
    made = arguments(
        learning_rate=0.5, per_device_train_batch_size=3, warmup_steps=0.1, seed=9, optim="sgd"
    )

    assert (made.learning_rate, made.per_device_train_batch_size) == (0.5, 3)
    assert (made.warmup_steps, made.seed, made.data_seed, made.optim) == (0.1, 9, 9, "sgd")


def test_further_arguments_arrive(arguments):
    made = arguments(arguments={"neftune_noise_alpha": 5, "adam_beta2": 0.9})

    assert (made.neftune_noise_alpha, made.adam_beta2) == (5, 0.9)


def test_the_learning_rate_depends_on_what_is_trained(arguments):
    assert arguments().learning_rate == 2e-4
    assert arguments(peft=None).learning_rate == 2e-5
    assert arguments(method="dpo").learning_rate == 1e-5


def test_what_trl_would_choose_in_silence_is_said(arguments):
    made = arguments()

    assert (made.gradient_checkpointing, made.logging_steps, made.push_to_hub) == (False, 1, False)
    assert made.logging_nan_inf_filter is False


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"tf32": True, "use_liger_kernel": True}),
        ({"dtype": "float32"}, {"tf32": False, "use_liger_kernel": True}),
        ({"method": "dpo"}, {"tf32": True, "use_liger_kernel": False}),
    ],
)
def test_a_gpu_does_what_it_does_faster(monkeypatch, settings, expected):
    for there in (
        "torch.cuda.is_available",
        "transformers.utils.is_torch_tf32_available",
        "transformers.utils.is_liger_kernel_available",
    ):
        monkeypatch.setattr(there, lambda: True)

    assert faster_here(TrainingConfig(model="m", dataset="d", **settings)) == expected


@pytest.mark.parametrize("method", METHODS)
def test_every_argument_of_the_installed_releases_is_in_one_table(method, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # as the trainer does
    there = {field.name for field in dataclasses.fields(class_of_arguments(method)) if field.init}
    passed = argument_table.ANY_METHOD | argument_table.OF_METHOD[method]
    refused = {*argument_table.INSTEAD, *argument_table.NOT_WITH.get(method, {})}
    fields = set(TrainingConfig.model_fields)

    assert there - passed - refused - fields == set()
    assert passed - there == set()
    assert passed & (refused | fields) == set()
    assert there & set(argument_table.FORMER) == set()


def kinds_of(hint):
    """Return the classes of which a value may be, as a type says it; None is always one."""
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        return {kind for each in typing.get_args(hint) for kind in kinds_of(each)}
    return {hint} - {type(None)}


@pytest.mark.parametrize("method", METHODS)
def test_every_number_and_flag_is_known_as_such(method, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    passed = argument_table.ANY_METHOD | argument_table.OF_METHOD[method]
    hints = typing.get_type_hints(class_of_arguments(method))
    found = {name: kinds_of(hints[name]) for name in passed}

    flags = {name for name, kinds in found.items() if kinds == {bool}}
    whole = {name for name, kinds in found.items() if kinds == {int}}
    numbers = {name for name, kinds in found.items() if kinds in ({float}, {int, float})}

    assert flags == argument_kinds.FLAGS & passed
    assert whole == argument_kinds.WHOLE & passed
    assert numbers == argument_kinds.NUMBERS & passed


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("adam_epsilon", "1e-8", "is a text: write the number without quotes"),
        ("adam_epsilon", "small", "write a number"),
        ("adam_epsilon", True, "write a number"),
        ("adam_epsilon", float("nan"), "write a finite number"),
        ("lr_scheduler_kwargs", {"min_lr": "1e-6"}, "min_lr is a text: write the number without"),
        ("lr_scheduler_kwargs", {"min_lr": float("inf")}, "min_lr: write a finite number"),
        ("dataloader_drop_last", "no", "write true or false"),
        ("dataloader_drop_last", 0, "write true or false"),
        ("dataloader_num_workers", 1.5, "write a whole number"),
        ("dataloader_num_workers", "2", "is a text: write the number without quotes"),
    ],
)
def test_a_value_of_another_kind_is_refused_before_anything(name, value, said):
    with pytest.raises(ValidationError, match=rf"arguments.{name} = .*: {said}"):
        TrainingConfig(model="m", dataset="d", arguments={name: value})


@pytest.mark.parametrize(
    "values",
    [
        {"adam_epsilon": 1e-8, "lr_scheduler_kwargs": {"min_lr": 1e-6, "mode": "min"}},
        {"neftune_noise_alpha": 5, "dataloader_num_workers": 2, "run_name": "7"},
        {"dataloader_prefetch_factor": None, "dataloader_drop_last": False},
    ],
)
def test_values_of_their_kind_are_passed_on(values):
    assert TrainingConfig(model="m", dataset="d", arguments=values).arguments == values


@pytest.mark.parametrize("method", METHODS)
def test_the_arguments_of_every_method_are_checked_before_it_starts(method, tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # as the trainer does
    from trainer.training.estimate import check_arguments

    rewards = {"reward_functions": ["length"]} if METHODS[method].generates else {}
    config = TrainingConfig(model="m", dataset="d", method=method, **rewards)

    check_arguments(config, JobDirectory(tmp_path))
    bad = config.model_copy(update={"arguments": {"adam_beta1": "x", "no_such": 1}})
    with pytest.raises(ConfigError, match="no_such"):
        check_arguments(bad, JobDirectory(tmp_path))


@pytest.mark.parametrize("name", ["optim", "lr_scheduler_type"])
def test_a_name_that_transformers_does_not_know_is_refused(arguments, name):
    with pytest.raises(ConfigError, match=rf"^training\.{name}: adamm is not a valid "):
        arguments(**{name: "adamm"})


@pytest.mark.parametrize("divisor", [1, 2, 4])
def test_a_divided_batch_is_accumulated(arguments, divisor):
    made = arguments(divisor, per_device_train_batch_size=4, gradient_accumulation_steps=3)

    assert made.per_device_train_batch_size == 4 // divisor
    assert made.per_device_train_batch_size * made.gradient_accumulation_steps == 12


@given(batch=st.integers(1, 500), accumulation=st.integers(1, 64))
def test_however_often_the_batch_is_divided_the_product_stays(batch, accumulation):
    divisor: int | None = 1
    while divisor is not None:
        smaller, more = split_batch(batch, accumulation, divisor)

        assert smaller >= 1
        assert smaller * more == batch * accumulation
        divisor = next_divisor(batch, divisor)
    assert smaller == 1
