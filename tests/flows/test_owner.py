"""Whose a run is stands at the run; it is written once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from prefect import get_client
from prefect.context import FlowRunContext

from flows.execute import _flow
from flows.owner import OWNER, claim, owned_here
from flows.train import train


@pytest.mark.parametrize("known", [{}, {OWNER: "other@there"}, owned_here()])
async def test_a_run_is_claimed_unless_its_label_says_so(prefect_api, monkeypatch, known):
    async with get_client() as client:
        run = await client.create_flow_run(train, parameters={})
    run.labels = known
    monkeypatch.setattr(FlowRunContext, "get", lambda: SimpleNamespace(flow_run=run, flow=None))

    await claim(run.id)

    async with get_client() as client:
        noted = (await client.read_flow_run(run.id)).labels.get(OWNER)
    assert noted == (None if known == owned_here() else owned_here()[OWNER])


def test_a_run_that_has_the_name_of_its_job_is_not_named_again(home):
    assert _flow(is_named=False).flow_run_name == train.flow_run_name
    assert _flow(is_named=True).flow_run_name is None
