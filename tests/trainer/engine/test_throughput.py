"""What makes training faster changes neither its result nor the exactness of a resume."""

import time
from types import ModuleType, SimpleNamespace

import pytest

from tests.trainer.jobs import PausesAfter
from trainer.contract.job_directory import Desired, JobState
from trainer.contract.manifest import verify

pytestmark = pytest.mark.xdist_group("torch")
DATA = {"max_rows": 25, "eval_fraction": 0.2}  # 20 rows to train on: epochs of 5 steps
SETTINGS = {
    "data": DATA,
    "peft": {"r": 4, "lora_alpha": 8},
    "per_device_train_batch_size": 4,
    "max_steps": 8,
    "eval_steps": 4,
    "learning_rate": 0.01,
}


def usage() -> ModuleType:
    """Return a module that imports torch, which only one worker of a test run should do."""
    from trainer.training import usage

    return usage


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory, make_job):
    """One finished run without padding, as it is by default."""
    job = make_job(tmp_path_factory.mktemp("flat") / "job", **SETTINGS)
    assert job.train() is JobState.COMPLETED
    return job


def test_without_padding_the_losses_are_those_of_padded_batches(tmp_path, make_job, flat):
    padded = make_job(tmp_path / "job", padding_free=False, **SETTINGS)
    padded.train()

    for step, expected in padded.metrics.items():
        for name in {"train_loss", "eval_loss", "grad_norm"} & expected.keys():
            assert flat.metrics[step][name] == pytest.approx(expected[name], rel=1e-5), (step, name)
    assert sorted(flat.metrics) == sorted(padded.metrics)


def test_memory_and_time_are_predicted_and_held_against_what_was_used(
    tmp_path, make_job, monkeypatch
):
    # Seconds of the processor: those of the clock depend on what else this computer does.
    monkeypatch.setattr(usage(), "time", SimpleNamespace(monotonic=time.process_time))
    job = make_job(tmp_path / "job", **SETTINGS | {"data": {}, "eval_steps": None, "max_steps": 20})
    job.train()

    found = verify(job.directory.output)["usage"]
    assert found["seconds"] == pytest.approx(found["seconds_predicted"], rel=0.5)
    assert found["seconds"] > 0.05
    assert 0.3 < found["memory_gb_predicted"] < 1.5


def test_the_time_is_of_the_steps_after_the_first_and_of_no_evaluation(monkeypatch):
    now, state = [100.0], SimpleNamespace(global_step=0)
    monkeypatch.setattr(usage(), "time", SimpleNamespace(monotonic=lambda: now[0]))
    measured = usage().Usage({"peak": 1.0})

    def step(seconds: float) -> None:
        now[0] += seconds
        state.global_step += 1
        measured.on_step_end(None, state, None)

    for seconds in [9.0] + 10 * [1.0]:
        step(seconds)
    now[0] += 30
    measured.on_evaluate(None, state, None, metrics={"eval_runtime": 30.0})
    for seconds in 10 * [2.0]:
        step(seconds)
    measured.on_train_end(None, state, None)

    assert measured.facts["seconds"] == 30
    assert measured.facts["seconds_predicted"] == 20


@pytest.mark.thorough
def test_all_modules_train_though_the_root_says_it_does(make_job, tmp_path):
    """PEFT wraps a model that was loaded for inference: its own flag is set, the others are not."""
    code = tmp_path / "watch.py"
    code.write_text(
        "from transformers import TrainerCallback\n"
        "class Watch(TrainerCallback):\n"
        "    def on_step_end(self, args, state, control, model=None, **kwargs):\n"
        "        assert all(module.training for module in model.modules())\n"
        "        assert all(p.grad is None for p in model.parameters())\n"
    )
    job = make_job(tmp_path / "job", max_steps=2, callbacks=[f"{code}:Watch"])

    assert job.train() is JobState.COMPLETED


VARIANTS = {
    "packing": {"packing": True, "max_length": 96, "per_device_train_batch_size": 1},
    "by length": {"arguments": {"train_sampling_strategy": "group_by_length"}},
    "gradient checkpointing": {"gradient_checkpointing": True, "gradient_accumulation_steps": 2},
    "workers": {
        "arguments": {
            "dataloader_num_workers": 1,
            "dataloader_prefetch_factor": 4,
            "dataloader_persistent_workers": True,
            "dataloader_multiprocessing_context": "spawn",
        }
    },
    "compiled": {"arguments": {"torch_compile": True}},
}


@pytest.mark.parametrize(
    "variant",
    [pytest.param(n, marks=pytest.mark.thorough) for n in VARIANTS],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_a_resume_is_exact_with(variant, tmp_path, make_job):
    settings = SETTINGS | VARIANTS[variant] | {"max_steps": 7, "eval_steps": 7}
    straight, paused = (make_job(tmp_path / name, **settings) for name in ("straight", "paused"))
    straight.train()

    assert paused.train(PausesAfter(paused.directory, 6)) is JobState.PAUSED  # in the second epoch
    paused.directory.request(Desired.RUN)
    assert paused.train() is JobState.COMPLETED

    assert paused.curve == straight.curve
    assert paused.weights == straight.weights
