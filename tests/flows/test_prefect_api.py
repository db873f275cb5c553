"""Calls of Prefect's API wait for one that is away, or do without; none ends a run."""

from __future__ import annotations

import asyncio
import os
import time

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import prefect_api
from flows.prefect_api import asking_once, is_away, prefect_client
from tests.clouds.proxy import Proxy


@pytest.fixture
async def door(prefect_api: str):
    port = int(os.environ["PREFECT_API_URL"].rpartition(":")[2].partition("/")[0])
    async with Proxy("127.0.0.1", port) as proxy:
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{proxy.port}/api"}):
            yield proxy


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(prefect_api, "RETRY_SECONDS", (0.05,))


async def test_a_call_waits_for_an_api_that_is_away(door):
    async with prefect_client() as client:
        door.refuse()
        door.cut()
        asked = asyncio.create_task(client.read_flows(limit=1))
        await asyncio.sleep(0.3)
        assert not asked.done()

        door.accept()
        await asked


@pytest.mark.parametrize("how", ["refuses", "is silent"])
async def test_a_call_that_asks_once_does_without(door, how):
    async with prefect_client() as client:
        door.refuse() if how == "refuses" else door.freeze()
        begun = time.monotonic()
        with asking_once(0.5), pytest.raises(httpx.HTTPError) as caught:
            await client.read_flows(limit=1)
        door.thaw()

    assert is_away(caught.value)
    assert time.monotonic() - begun < 5


def test_a_refusal_is_an_answer():
    request = httpx.Request("GET", "http://localhost")
    refused, broken = (
        httpx.HTTPStatusError("", request=request, response=httpx.Response(code))
        for code in (409, 503)
    )
    assert not is_away(refused)
    assert is_away(broken)


@pytest.mark.usefixtures("prefect_api")
async def test_clients_share_the_settings_that_they_are_made_patient_with():
    async with prefect_client(), prefect_client():
        made = prefect_api._without_retries()
        assert prefect_api._without_retries() is made
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            elsewhere = prefect_api._without_retries().settings

    assert elsewhere.client.max_retries == made.settings.client.max_retries == 0
    assert elsewhere.api.url != made.settings.api.url
