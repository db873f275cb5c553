"""The key of a judge reaches the trainer's environment, and nothing that is written down."""

from __future__ import annotations

import json
from types import SimpleNamespace
from uuid import uuid4

import pytest

from blocks.models import Instance, InstanceStatus
from flows.run_folder import RunFolder
from flows.streaming.training import RemoteTraining
from tests.flows.flow_runs import EXAMPLES, make_job

CANARY = "judge-canary-51c2"


@pytest.mark.parametrize("variable", ["JUDGE_KEY", None])
async def test_the_key_goes_by_the_environment_and_into_no_file(monkeypatch, variable):
    monkeypatch.setenv("JUDGE_KEY", CANARY)
    job = make_job(
        method="rloo",
        dataset={"path": str(EXAMPLES / "methods" / "prompts.jsonl")},
        max_length=512,
        reward_judge={"model": "judge-1", "api_key_variable": variable},
    )
    machine = Instance(provider="runpod", id="pod", mark=None, status=InstanceStatus.RUNNING)
    away = SimpleNamespace(is_home=False, notice_command="")
    training = RemoteTraining(job, machine, away, RunFolder(uuid4()), python="python3")

    given = await training.environment()

    assert given.get("JUDGE_KEY") == (CANARY if variable else None)
    assert CANARY not in json.dumps(training.job_file(job.training))
