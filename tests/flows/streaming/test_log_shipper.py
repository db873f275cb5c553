"""The log reaches Prefect whole, once and in order, whatever happens to the process that sends."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

import httpx
import pytest
from prefect import flow, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import LogCreate

from flows.prefect_api import prefect_client
from flows.run_folder import RunFolder
from flows.streaming import log_shipper
from flows.streaming.log_shipper import (
    LINE_CHARACTERS,
    RECORD_CHARACTERS,
    LogShipper,
    as_records,
    ship_rest,
    shown,
)
from tests.flows.flow_runs import shipped_lines
from tests.waiting import PATIENCE
from trainer.contract.tail import CHUNK


@flow
async def nothing() -> None:
    """A flow to own the log lines."""


@pytest.fixture
async def run_id(prefect_api) -> UUID:
    async with get_client() as client:
        return (await client.create_flow_run(nothing)).id


async def ship_all(run_id: UUID, client=None) -> None:
    async with get_client() as own:
        shipper = LogShipper(client or own, run_id, RunFolder(run_id))
        running = asyncio.create_task(shipper.run())
        finishing = asyncio.create_task(shipper.finish())
        await asyncio.wait({running, finishing}, return_when="FIRST_COMPLETED")
        running.cancel()
        finishing.cancel()
        result = await asyncio.gather(running, return_exceptions=True)
        if isinstance(result[0], Exception):
            raise result[0]


async def test_a_rest_that_cannot_be_shipped_is_said_and_not_waited_for(run_id):
    run = RunFolder(run_id)
    run.log.write_text("step 1/2\n")
    run.log_cursor.mkdir()

    async with asyncio.timeout(PATIENCE):
        with pytest.raises(IsADirectoryError):
            await ship_rest(run_id, run)


async def test_prefect_is_asked_for_nothing_of_a_log_that_is_new_or_all_there(run_id, monkeypatch):
    run = RunFolder(run_id)
    new = LogShipper(cast("PrefectClient", None), run_id, run)
    run.log.write_text("step 1/2\n")
    await new._restore()
    await ship_all(run_id)
    monkeypatch.setattr(log_shipper, "prefect_client", None)
    await ship_rest(run_id, run)


class LosesTheAnswer:
    """A client whose next `create_logs` is carried out, but whose answer never comes."""

    def __init__(self, client, error: BaseException) -> None:
        self._client = client
        self._error: BaseException | None = error

    def __getattr__(self, name):
        return getattr(self._client, name)

    async def create_logs(self, logs: list[LogCreate]) -> None:
        await self._client.create_logs(logs)
        if self._error:
            error, self._error = self._error, None
            raise error


async def test_thousands_of_lines_arrive_in_order(run_id):
    lines = [f"step {number} loss {number / 7:.4f}" for number in range(12_345)]
    RunFolder(run_id).log.write_text("\n".join(lines))

    await ship_all(run_id)

    assert await shipped_lines(run_id) == lines


async def test_a_lost_answer_doubles_no_line(run_id, monkeypatch):
    monkeypatch.setattr("flows.prefect_api.RETRY_SECONDS", (0.01,))
    monkeypatch.setattr("flows.prefect_api.logger", quiet_logger)
    lines = [f"line {number}" for number in range(500)]
    RunFolder(run_id).log.write_text("\n".join(lines) + "\n")

    async with get_client() as client:
        await ship_all(run_id, LosesTheAnswer(client, httpx.ReadTimeout("no answer")))

    assert await shipped_lines(run_id) == lines


async def test_prefects_client_does_not_send_again_what_was_stored(run_id, monkeypatch):
    """It tries again by itself where the connection ends before the answer."""
    monkeypatch.setattr("flows.prefect_api.RETRY_SECONDS", (0.01,))
    monkeypatch.setattr("flows.prefect_api.logger", quiet_logger)
    RunFolder(run_id).log.write_text("one\ntwo\n")
    answered = []

    async with prefect_client() as client:
        transport = client._client._transport
        carry_out = transport.handle_async_request

        async def cut_the_first_answer(request: httpx.Request) -> httpx.Response:
            response = await carry_out(request)
            if request.url.path.endswith("/logs/"):
                answered.append(response)
                if len(answered) == 1:
                    await response.aclose()
                    raise httpx.ReadError("the connection was cut")
            return response

        monkeypatch.setattr(transport, "handle_async_request", cut_the_first_answer)
        await ship_all(run_id, client)

    assert len(answered) == 1
    assert await shipped_lines(run_id) == ["one", "two"]


async def test_a_process_killed_before_it_noted_a_batch_doubles_no_line(run_id):
    log = RunFolder(run_id).log
    log.write_text("".join(f"line {number}\n" for number in range(300)))

    async with get_client() as client:
        with pytest.raises(RuntimeError, match="killed"):
            await ship_all(run_id, LosesTheAnswer(client, RuntimeError("killed")))
    with log.open("a") as stream:
        stream.write("the last line\n")
    await ship_all(run_id)

    expected = [*(f"line {number}" for number in range(300)), "the last line"]
    assert await shipped_lines(run_id) == expected


async def test_lines_of_others_are_not_counted_as_ours(run_id):
    RunFolder(run_id).log.write_text("one\ntwo\n")
    async with get_client() as client:
        await client.create_logs(
            [
                LogCreate(
                    name="prefect.flow_runs",
                    level=20,
                    message="not the training log",
                    timestamp=datetime.now(UTC),
                    flow_run_id=run_id,
                )
            ]
        )

    await ship_all(run_id)

    assert await shipped_lines(run_id) == ["one", "two"]


async def test_the_cursor_ends_at_the_size_of_the_log(run_id):
    run = RunFolder(run_id)
    run.log.write_bytes(b"caf\xc3\xa9\n\n\xff\xfe broken\nno newline at the end")

    await ship_all(run_id)

    assert json.loads(run.log_cursor.read_text())["offset"] == run.log.stat().st_size
    assert await shipped_lines(run_id) == ["café", "", "�� broken", "no newline at the end"]


async def test_a_last_line_at_the_edge_of_a_chunk_is_shipped_whole(run_id):
    long = "x" * (CHUNK // 2)
    RunFolder(run_id).log.write_text(f"{long}\n{long}\nthe last line")

    await ship_all(run_id)

    cut = f"{long[:LINE_CHARACTERS]}… (cut)"
    assert await shipped_lines(run_id) == [cut, cut, "the last line"]


def test_few_lines_are_records_of_their_own_and_many_share():
    assert as_records([b"a", b"b"]) == [[b"a"], [b"b"]]
    many = as_records([b"x" * 100] * 1_000)
    assert sum(len(record) for record in many) == 1_000
    assert len(many) <= 10
    assert all(sum(map(len, record)) <= RECORD_CHARACTERS for record in many)


def test_what_is_shown_is_harmless():
    assert shown(b"\x1b[31mred\x1b[0m \x00bell\x07") == "red bell"
    assert shown(b" 10%\r 50%\r100%\r") == "100%"
    assert len(shown(b"y" * 10_000_000)) < LINE_CHARACTERS + 20


def quiet_logger():
    import logging

    return logging.getLogger("quiet")
