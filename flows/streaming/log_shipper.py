"""Carry the log from its mirror to Prefect: every line, once, in order, in batches.

The mirror is the buffer, so a slow or absent API delays lines, loses none, and costs no memory.
The cursor is kept beside the mirror. When the answer to an API call is lost, the time stamps of
the records show whether the server has stored them.
"""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import LogCreate
from prefect.client.schemas.filters import (
    LogFilter,
    LogFilterFlowRunId,
    LogFilterTimestamp,
)
from prefect.client.schemas.sorting import LogSort

from blocks.task_scope import TaskScope
from blocks.threads import in_thread
from flows.prefect_api import CREATE_SECONDS, asking_once, persistently, prefect_client
from flows.run_folder import RunFolder
from flows.shown import LOGGER
from flows.wanted import unhurried
from trainer.contract.files import read_json, replace_json
from trainer.contract.redaction import redacted
from trainer.contract.tail import TailReader

INTERVAL_SECONDS = 0.4
CROWDED_SECONDS = 4.0  # the same where many runs are executed in one process
SINGLE_LINES = 40  # up to this many new lines, each is a record of its own
RECORD_LINES = 200  # of more lines, this many share a record: the API's cost is by record
RECORD_CHARACTERS = 24_000
LINE_CHARACTERS = 8_000  # a longer line is cut for display; the mirror has it whole
BATCH_RECORDS = 200  # per API call
PAGE = 200  # records that the API returns at once

# Terminal escapes such as colours, and control characters except tab and newline.
_UNSHOWABLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class LogCursor:
    """How far the log is with Prefect."""

    offset: int = 0
    """Bytes of the mirror whose lines are there."""
    timestamp: str = "1970-01-01T00:00:00+00:00"
    """The time of the last record sent; every later record has a later time."""


class LogShipper:
    """Ships the lines of one run's log."""

    def __init__(self, client: PrefectClient, run_id: UUID, run: RunFolder) -> None:
        self._client = client
        self._run_id = run_id
        self._run = run
        self._cursor = LogCursor()
        # Of a log that is still to come nobody has shipped anything.
        self._is_first = not run.log.exists()
        self._closing = False
        self._hurry = asyncio.Event()
        self._finished = asyncio.Event()

    async def run(self) -> None:
        """Ship until cancelled; return after `finish` was called and everything is shipped."""
        await self._restore()
        while True:
            shipped = await self._ship_some()
            if not shipped:
                if self._closing:
                    break
                with suppress(TimeoutError):
                    async with asyncio.timeout(unhurried(INTERVAL_SECONDS, CROWDED_SECONDS)):
                        await self._hurry.wait()
        self._finished.set()
        await asyncio.Event().wait()

    async def finish(self) -> None:
        """Wait until every line of the mirror is with Prefect, the last unfinished one too."""
        self._closing = True
        self._hurry.set()
        await self._finished.wait()

    async def _ship_some(self) -> bool:
        lines = self._next_lines(rest=self._closing)
        if not lines:
            return False
        records = as_records(lines)[:BATCH_RECORDS]
        size = sum(len(line) for part in records for line in part)
        await self._send(["\n".join(shown(line) for line in part) for part in records], size)
        return True

    def _next_lines(self, *, rest: bool) -> list[bytes]:
        """Return the lines that follow the cursor."""
        return TailReader(self._run.log, self._cursor.offset).peek(rest=rest)

    async def _send(self, messages: list[str], size: int) -> None:
        last = datetime.fromisoformat(self._cursor.timestamp)
        # Strictly increasing, by a microsecond each, even when our clock was set back: the order
        # of the lines in Prefect and the count in `_stored` both depend on it.
        first = max(datetime.now(UTC), last + timedelta(microseconds=1))
        logs = [
            LogCreate(
                name=LOGGER,
                level=logging.INFO,
                message=message,
                timestamp=first + timedelta(microseconds=number),
                flow_run_id=self._run_id,
            )
            for number, message in enumerate(messages)
        ]
        first_try = True

        async def store() -> None:
            nonlocal first_try
            # After a failed try, look whether the records arrived and only the answer was lost.
            # A patient client would send them again by itself, without looking first.
            with asking_once(CREATE_SECONDS):
                if first_try or not (await self._stored())[0]:
                    first_try = False
                    await self._client.create_logs(logs)

        await persistently(store)
        await self._advance(size, logs[-1].timestamp.isoformat())

    async def _advance(self, size: int, timestamp: str) -> None:
        self._cursor = LogCursor(self._cursor.offset + size, timestamp)
        record = asdict(self._cursor)
        # In a thread: a busy disk may take a second for it, and everything else waits meanwhile.
        await in_thread(lambda _: replace_json(self._run.log_cursor, record, durable=False))

    async def _restore(self) -> None:
        """Go on where an earlier process stood; its last batch may be on the server unnoticed."""
        record = read_json(self._run.log_cursor)
        if record:
            self._cursor = LogCursor(**record)
        elif self._is_first:
            return
        lines, timestamp = await persistently(self._stored)
        if lines:
            stored = self._next_lines(rest=True)[:lines]
            await self._advance(sum(map(len, stored)), timestamp)

    async def _stored(self) -> tuple[int, str]:
        """Return how many lines the server has beyond the cursor, and the time of the last.

        That is 0, or the one batch whose answer was lost with the process that sent it.
        """
        after = datetime.fromisoformat(self._cursor.timestamp)
        lines, latest, offset = 0, after, 0
        while True:
            page = await self._client.read_logs(
                log_filter=LogFilter(
                    flow_run_id=LogFilterFlowRunId(any_=[self._run_id]),
                    timestamp=LogFilterTimestamp(after_=after),
                ),
                limit=PAGE,
                offset=offset,
                sort=LogSort.TIMESTAMP_ASC,
            )
            for log in page:
                # `after_` includes records of that very time, and ours are among other loggers'.
                if log.name == LOGGER and log.timestamp > after:
                    lines += log.message.count("\n") + 1
                    latest = max(latest, log.timestamp)
            offset += PAGE
            if len(page) < PAGE:
                return lines, latest.isoformat()


async def ship_rest(run_id: UUID, run: RunFolder) -> None:
    """Ship what Prefect lacks of the log of a run whose flow is not running any more."""
    if _is_shipped(run):
        return
    async with prefect_client() as client:
        shipper = LogShipper(client, run_id, run)
        async with TaskScope() as scope:
            scope.start(shipper.run())
            await scope.result_of(shipper.finish())


def _is_shipped(run: RunFolder) -> bool:
    record = read_json(run.log_cursor)
    if record is None or not run.log.exists():
        return False
    return int(record["offset"]) >= run.log.stat().st_size


def as_records(lines: list[bytes]) -> list[list[bytes]]:
    """Group lines into records: one line each while they are few, many each when they are not."""
    if len(lines) <= SINGLE_LINES:
        return [[line] for line in lines]
    records: list[list[bytes]] = [[]]
    characters = 0
    for line in lines:
        size = min(len(line), LINE_CHARACTERS)
        if records[-1] and (
            len(records[-1]) >= RECORD_LINES or characters + size > RECORD_CHARACTERS
        ):
            records.append([])
            characters = 0
        records[-1].append(line)
        characters += size
    return records


def shown(line: bytes) -> str:
    """Return a line made harmless to show: no escapes, no control characters, not too long."""
    # A character of UTF-8 has up to 4 bytes; a chunk cut in the middle of one shows a replacement.
    text = line[: 4 * LINE_CHARACTERS].decode("utf-8", errors="replace")
    # Of a progress bar that redraws itself, only what follows the last carriage return was seen.
    text = redacted(_UNSHOWABLE.sub("", text.rstrip("\r\n").rpartition("\r")[2]))
    return text if len(text) <= LINE_CHARACTERS else f"{text[:LINE_CHARACTERS]}… (cut)"
