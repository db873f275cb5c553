"""A worker takes runs, also where Prefect gives one without saying so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Pending, Scheduled

from deployments import claims
from deployments.claims import Claims
from flows.train import train


class Taking:
    """Claims, and what they were told to do."""

    def __init__(self, client: PrefectClient) -> None:
        self.client = client
        self.begun: list[UUID] = []
        self.left: list[str] = []
        self.claims = Claims(client, lambda run, *_: self.begun.append(run.id), self.left.append)

    async def run(self) -> FlowRun:
        return await self.client.create_flow_run(train, parameters={}, state=Scheduled())

    async def take(self, run: FlowRun) -> bool:
        return await self.claims.take(run, train, ("GPU-1",))


@pytest.fixture
async def taking(prefect_api: str) -> AsyncIterator[Taking]:
    async with get_client() as client:
        yield Taking(client)


async def test_a_run_that_waits_is_begun(taking: Taking):
    run = await taking.run()

    assert await taking.take(run)
    assert (taking.begun, taking.left) == ([run.id], [])


@pytest.mark.parametrize("state", [Cancelled(), Pending(message="taken by the worker of another")])
async def test_a_run_that_is_not_ours_lets_go_of_its_gpus(taking: Taking, state: Any):
    run = await taking.run()
    await taking.client.set_flow_run_state(run.id, state, force=True)

    assert not await taking.take(run)
    assert (taking.begun, taking.left) == ([], [str(run.id)])


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_run_keeps_its_gpus_until_it_is_known_whether_it_is_ours(
    taking: Taking, monkeypatch: pytest.MonkeyPatch, arrives: bool
):
    run, ask = await taking.run(), claims.propose_state

    async def lost(*words: Any, **named: Any) -> Any:
        if arrives:
            await ask(*words, **named)
        raise httpx.ReadTimeout("no answer")

    monkeypatch.setattr(claims, "propose_state", lost)
    assert not await taking.take(run)
    assert (taking.begun, taking.left) == ([], [])
    assert run.id in taking.claims.unsure
    monkeypatch.setattr(claims, "propose_state", ask)

    assert await taking.claims.settle() == [run]
    assert (taking.begun, taking.left) == ([run.id], [])
    assert await taking.claims.settle() == []
