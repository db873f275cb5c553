"""A model split across processes learns what a whole one learns, and any number of them goes on.

The processes are on the CPU, over gloo; FSDP is the same on GPUs, where nobody has tried it yet.
"""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from flows.streaming.parts_mirror import PARTS, put_together
from tests.trainer.jobs import Job
from tests.trainer.supervised import ENVIRONMENT, command
from trainer.contract import checkpoints
from trainer.contract.manifest import read_manifest
from trainer.supervision.network import free_port

pytestmark = [pytest.mark.xdist_group("torch"), pytest.mark.slow, pytest.mark.thorough]
SETTINGS = {
    "data": {"eval_fraction": 0.2},  # 24 rows to train on
    "max_steps": 8,
    "save_steps": 3,
    "eval_steps": 4,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "save_total_limit": 5,
    "peft": None,
}
TOLERANCE = 1e-4
"""Relative, of losses and gradient norms: other processes add the same float32 numbers up in another
order, each sum is rounded, and Adam passes the difference on (measured: 2e-5)."""


def trained(jobs: list[Job], processes: int) -> Job:
    """Let each job directory be a machine with so many processes; return the first."""
    port, running = free_port(), []
    for node, job in enumerate(jobs):
        world = {"processes": processes * len(jobs)}
        if len(jobs) > 1:
            world |= {"nodes": len(jobs), "node_rank": node, "master_port": port}
        limits = {"max_restarts": 0, "stall_timeout_minutes": 1}
        job.write(config=job.config, world=world, limits=limits)
        words = command(job.directory.root)
        running.append(subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL))
    codes = [process.wait(240) for process in running]
    assert codes == [0] * len(jobs), jobs[0].directory.log.read_text()
    return jobs[0]


def holds(job: Job, other: Job, *, since: int = 0) -> None:
    """Compare the curves of two jobs from a step on."""
    expected, found = (
        {
            (n, k): v
            for n, r in one.curve.items()
            for k, v in r.items()
            if n > since and v is not None
        }
        for one in (other, job)
    )
    assert found == pytest.approx(expected, rel=TOLERANCE)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, make_job) -> Job:
    job = make_job(tmp_path_factory.mktemp("one") / "job", parallelism="fsdp", **SETTINGS)
    return trained([job], 2)


def going_on(job: Job, checkpoint: Path) -> Job:
    """Put the checkpoint of step 3 into a job directory that has trained nothing yet."""
    shutil.copytree(checkpoint, job.directory.checkpoints / "checkpoint-3")
    return job


def test_split_and_whole_models_learn_the_same(tmp_path, make_job, undisturbed):
    whole = trained([make_job(tmp_path / "ddp", **SETTINGS)], 2)

    holds(undisturbed, whole)
    weights, others = (
        load_file(j.directory.output / "model.safetensors") for j in (undisturbed, whole)
    )
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert (tensor - others[name]).abs().max() < 1e-4
    sizes = {path.stat().st_size for path in undisturbed.checkpoint(8).glob("shards/__*")}
    assert len(sizes) == 1  # each process has written half


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_goes_on(tmp_path, make_job, undisturbed, processes):
    job = make_job(tmp_path / "job", parallelism="fsdp", **SETTINGS)

    trained([going_on(job, undisturbed.checkpoint(3))], processes)

    holds(job, undisturbed, since=3)
    assert min(job.metrics) == 4
    same = job.curve == {n: r for n, r in undisturbed.curve.items() if n > 3}
    assert same is (processes == 2)
    said = "a step keeps its 4 examples" in job.directory.log.read_text()
    assert said is (processes == 4)
    assert read_manifest(job.checkpoint(8))["batch"]["examples"] == 4


def test_two_machines_have_parts_and_others_go_on_from_them(tmp_path, make_job, undisturbed):
    make = partial(make_job, parallelism="fsdp", **SETTINGS)
    pair = [make(tmp_path / f"node{node}") for node in (0, 1)]

    holds(trained(pair, 1), undisturbed)

    for part, job in enumerate(pair):
        checkpoints.check(job.checkpoint(3))
        assert {p.name for p in job.checkpoint(3).glob("shards/__*")} == {f"__{part}_0.distcp"}
        shutil.copytree(job.checkpoint(3), tmp_path / "home" / PARTS / str(part))
    home = tmp_path / "home"
    put_together(home, [home / PARTS / str(part) for part in (0, 1)])
    checkpoints.check(home.rename(tmp_path / "checkpoint-3"))
    four = [make(tmp_path / f"other{node}") for node in (0, 1)]
    for job in four:
        going_on(job, tmp_path / "checkpoint-3")

    holds(trained(four, 2), undisturbed, since=3)
    assert min(four[0].metrics) == 4


def test_every_machine_of_a_hybrid_has_the_whole_model(tmp_path, make_job, undisturbed):
    settings = {**SETTINGS, "gradient_accumulation_steps": 1, "parallelism": "fsdp_hybrid"}
    pair = [make_job(tmp_path / f"node{node}", **settings) for node in (0, 1)]

    holds(trained(pair, 2), undisturbed)

    newest = pair[0].checkpoint(8)
    checkpoints.check(newest)
    assert {p.name for p in newest.glob("shards/__*")} == {"__0_0.distcp", "__1_0.distcp"}
    assert not list(pair[1].directory.checkpoints.iterdir())


def test_adapters_on_a_split_model_are_the_best_ones_and_whole(tmp_path, make_job):
    """With what FSDP wraps the layers in for gradient checkpointing."""
    settings = {
        **SETTINGS,
        "peft": {"r": 4},
        "learning_rate": 0.01,
        "eval_steps": 2,
        "save_steps": 2,
        "early_stopping_patience": 1,
        "gradient_checkpointing": True,
    }
    split = trained([make_job(tmp_path / "split", parallelism="fsdp", **settings)], 2)
    whole = trained([make_job(tmp_path / "whole", **settings)], 2)

    file = "adapter_model.safetensors"
    weights, others = (load_file(job.directory.output / file) for job in (split, whole))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert tensor.any()
        assert (tensor - others[name]).abs().max() < 1e-4
    assert "the best evaluation" in split.directory.log.read_text()

    shutil.rmtree(split.directory.output)
    split.directory.status.unlink()
    trained([split], 2)  # killed when only the output was missing
    assert load_file(split.directory.output / file).keys() == others.keys()
