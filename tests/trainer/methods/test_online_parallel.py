"""grpo, rloo and ppo in several processes: each answers its own prompts, and all learn from all."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.trainer.jobs import Job
from tests.trainer.methods.test_online_resume import SETTINGS, curve
from tests.trainer.supervised import ENVIRONMENT, command
from trainer.contract.manifest import read_manifest

pytestmark = [pytest.mark.xdist_group("torch"), pytest.mark.slow, pytest.mark.thorough]
WATCH = '''
import hashlib
from pathlib import Path

from transformers import TrainerCallback


class Watch(TrainerCallback):
    """Notes what each process has learned; the value head of ppo is with the optimizer alone."""

    def on_step_end(self, args, state, control, **kwargs):
        digest = hashlib.sha256()
        for group in kwargs["optimizer"].param_groups:
            for weights in group["params"]:
                digest.update(weights.detach().numpy().tobytes())
        with (FOLDER / f"weights-{args.process_index}.txt").open("a") as stream:
            stream.write(f"{state.global_step} {digest.hexdigest()}\\n")
'''


def trained(job: Job, processes: int) -> Job:
    limits = {"max_restarts": 0, "stall_timeout_minutes": 1}
    job.write(config=job.config, world={"processes": processes}, limits=limits)
    words = command(job.directory.root)
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, job.directory.log.read_text()
    return job


@pytest.mark.parametrize("method", ["grpo", "rloo", "ppo"])
def test_two_processes_learn_as_one_and_go_on_exactly(tmp_path, make_online, method):
    code = tmp_path / "watch.py"
    code.write_text(WATCH.replace("FOLDER", f"Path({str(tmp_path)!r})"))
    settings = {"method": method, **SETTINGS[method], "max_steps": 8, "save_steps": 3}
    settings |= {"save_total_limit": 5, "callbacks": [f"{code}:Watch"]}
    job = trained(make_online(tmp_path / "job", **settings), 2)

    # Rewards, advantages and the value head are those of all answers, or these would drift apart.
    first, second = ((tmp_path / f"weights-{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    assert len(set(first.split())) > 8
    assert "an optimizer step has 8 examples" in job.directory.log.read_text()

    # Step 3 is in the midst of a rollout, of which each process has its half.
    assert {"rollouts_0.safetensors", "rollouts_1.safetensors"} <= set(
        read_manifest(job.checkpoint(3))["files"]
    )
    again = make_online(tmp_path / "again", **settings)
    shutil.copytree(job.checkpoint(3), again.checkpoint(3))
    trained(again, 2)
    assert curve(again) == {n: r for n, r in curve(job).items() if n > 3}
    assert again.weights == job.weights


def test_another_number_of_processes_answers_anew(tmp_path, make_online):
    settings = {"method": "grpo", **SETTINGS["grpo"], "max_steps": 5, "save_steps": 3}
    job = trained(make_online(tmp_path / "job", **settings, save_total_limit=5), 2)
    alone = make_online(tmp_path / "alone", **settings)
    shutil.copytree(job.checkpoint(3), alone.checkpoint(3))

    trained(alone, 1)

    assert sorted(alone.metrics) == [4, 5]
    assert "reward" in alone.metrics[4]  # of answers that it has just written
    assert json.loads((alone.directory.output / "MANIFEST.json").read_text())
