"""Calls of Prefect's API wait for one that is away, or do without; none ends a run."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress

import httpx
import pytest
from prefect import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import prefect_api
from flows.prefect_api import asking_once, is_away, make_patient, prefect_client
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


class Asked:
    """What takes the place of the line to Prefect: counts who is under way at a time."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.times = self.under_way = self.most = 0

    async def send(self, request: httpx.Request, **_: object) -> httpx.Response:
        self.times += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        code = self.answers.pop(0) if self.answers else 200
        answer = httpx.Response(code, json=[], request=request)
        if code >= 400:
            raise httpx.HTTPStatusError("", request=request, response=answer)
        return answer


@pytest.mark.parametrize(
    ("method", "path", "most"),
    [
        ("PATCH", "/flow_runs/1/labels", prefect_api.WRITES_AT_ONCE),
        ("POST", "/logs/", prefect_api.WRITES_AT_ONCE),
        ("POST", "/flow_runs/filter", prefect_api.READS_AT_ONCE),
        ("GET", "/flow_runs/1", prefect_api.READS_AT_ONCE),
    ],
)
async def test_few_requests_of_a_process_are_under_way_at_a_time(prefect_api, method, path, most):
    line = Asked()
    async with get_client() as client, get_client() as other:
        for each in (client, other):
            each._client.send = line.send
            make_patient(each)
        await asyncio.gather(*(each.request(method, path) for each in (client, other) * 20))

    assert (line.times, line.most) == (40, most)


@pytest.mark.parametrize(("method", "times"), [("PATCH", 3), ("GET", 3), ("POST", 1)])
async def test_a_busy_database_is_asked_again_where_nothing_is_done_twice(
    prefect_api, monkeypatch, method, times
):
    monkeypatch.setattr("flows.prefect_api.BUSY_SECONDS", (0.0, 0.0))
    line = Asked(503, 503)
    async with get_client() as client:
        client._client.send = line.send
        make_patient(client)
        with asking_once(), suppress(httpx.HTTPStatusError):
            await client.request(method, "/flow_runs/1/labels")

    assert line.times == times
