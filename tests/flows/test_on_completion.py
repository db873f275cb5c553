"""What a job starts when it has completed: refused in time, with real types, once."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from prefect import Flow, flow, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flows import on_completion
from flows.next_deployment import refuse_missing
from flows.on_completion import refuse_unfit, start_next
from flows.run_folder import RunFolder
from tests.flows.flow_runs import make_job
from trainer.config import TrainingJob
from trainer.config.on_completion import OnCompletion, with_results
from trainer.contract.errors import ConfigError

REPORT = {"path": "/result", "metrics": {"eval_loss": 0.5}, "seconds": 2.0, "cost": 0.25}


@flow
def evaluate(model: str, threshold: float, best: float | None = None, tags: list[str] = []) -> None:  # noqa: B006
    """Look at a model."""


def job_with(deployment: str, **parameters) -> TrainingJob:
    wanted = {"deployment": deployment, "parameters": parameters}
    return TrainingJob.model_validate({**make_job().model_dump(), "on_completion": wanted})


async def deploy(what: Flow[..., Any]) -> str:
    """Deploy a flow under a name of its own, for which nobody works; return FLOW/NAME."""
    name = f"at-{uuid4().hex}"
    async with get_client() as client:
        await client.create_deployment(
            await client.create_flow(what),
            name,
            entrypoint="nowhere.py:nothing",
            parameter_openapi_schema=parameter_schema(what).model_dump_for_openapi(),
            enforce_parameter_schema=True,
        )
    return f"{what.name}/{name}"


@pytest.fixture
async def deployed(prefect_api) -> str:
    assert prefect_api
    return await deploy(evaluate)


def test_a_named_result_keeps_its_type_and_a_text_around_it_is_a_text():
    results = {"job.output": "/result", "job.eval_loss": 0.5}
    given = {
        "model": "${job.output}",
        "words": ["${job.eval_loss}", "loss ${job.eval_loss} of $${job.output}", 7, None, True],
        "deep": {"missing": "${job.store}"},
    }
    assert with_results(given, results) == {
        "model": "/result",
        "words": [0.5, "loss 0.5 of ${job.output}", 7, None, True],
        "deep": {"missing": None},
    }


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"deployment": "evaluate"}, "must be FLOW/NAME"),
        ({"deployment": "a/b/c"}, "must be FLOW/NAME"),
        ({"deployment": "a/b?c=d"}, "must be FLOW/NAME"),
        ({"deployment": "a/b", "parameters": {"x": ["${job.outptu}"]}}, "job.outptu} is not known"),
        ({"deployment": "a/b", "parameters": {"x": object()}}, "JSON"),
        ({"deployment": "a/b", "params": {}}, "Extra inputs"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_field(wanted, words):
    with pytest.raises(ValidationError, match=words):
        OnCompletion.model_validate(wanted)


def test_a_name_that_the_form_lacks_or_needs_is_refused_without_prefects_package():
    form = {"properties": {"model": {}, "threshold": {}}, "required": ["model", "threshold"]}
    deployment = {"parameter_openapi_schema": form, "parameters": {"threshold": 1}}
    refuse_missing(OnCompletion(deployment="a/b", parameters={"model": "m"}), deployment)
    for parameters, words in (({"modle": "m"}, "no parameter modle"), ({}, "needs .* model")):
        with pytest.raises(ConfigError, match=words):
            refuse_missing(OnCompletion(deployment="a/b", parameters=parameters), deployment)
    with pytest.raises(ConfigError, match="no such deployment"):
        refuse_missing(OnCompletion(deployment="a/b"), None)
    refuse_missing(OnCompletion(deployment="a/b", parameters={"any": 1}), {})  # of no known form


async def test_a_deployment_that_does_not_fit_is_refused_before_the_training(deployed):
    fits = {"model": "${job.output}", "threshold": 0.7}
    assert await refuse_unfit(job_with(deployed, **fits)) == deployed
    with pytest.raises(ConfigError, match="threshold"):
        await refuse_unfit(job_with(deployed, model="m", threshold="much"))
    with pytest.raises(ConfigError, match="no such deployment"):
        await refuse_unfit(job_with("evaluate/none", **fits))


async def test_it_starts_once_with_real_types_and_one_that_is_gone_harms_nothing(
    deployed, monkeypatch
):
    run = RunFolder(run_id := uuid4())
    monkeypatch.setattr(on_completion, "this_run_id", lambda: run_id)
    given = {"model": "${job.output}", "threshold": 0.7, "best": "${job.eval_loss}", "tags": ["a"]}
    job = job_with(deployed, **given)
    reports = [await start_next(job, run, REPORT) for _ in range(3)]
    assert len({report["next_run"] for report in reports}) == 1
    async with get_client() as client:
        found = await client.read_deployment_by_name(deployed)
        mine = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
        (started,) = await client.read_flow_runs(deployment_filter=mine)
        expected = {"model": "/result", "threshold": 0.7, "best": 0.5, "tags": ["a"]}
        assert started.parameters == expected
        await client.delete_deployment(found.id)
    gone = await start_next(job, run, {**REPORT, "missing": "something"})
    assert gone["missing"].startswith(f"something; {deployed} was not started: ")
