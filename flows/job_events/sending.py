"""Send noted events to Prefect, until it has stored each of them.

Prefect answers as soon as it has an event in memory, and loses that with its process; so one counts
only when Prefect finds it again. One of a known id it stores once, and passes to automations once
within five minutes; therefore it is asked for an event before that is sent again.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.context import FlowRunContext

from flows.beside import working_beside
from flows.job_events import noting
from flows.job_events.spool import EventSpool, Noted, older_than, unfinished
from flows.locks import locked
from flows.logger import logger
from flows.prefect_api import UNANSWERED, asking_once, prefect_client
from flows.run_folder import RunFolder
from flows.wanted import unhurried

LOOK_SECONDS = 1.0
CROWDED_SECONDS = 3.0  # the same, and for the last word of a run, where many share a process
STORED_SECONDS = 6.0  # Prefect stores what it was sent within five
AGAIN_SECONDS = 60.0  # after which it must have lost what it does not find
FINISH_SECONDS = 10.0  # that the flow's end waits for Prefect
CANCELLED_SECONDS = 3.0  # the same when the process must end
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # while Prefect does not take them
PAGE = 50  # events in one answer
PASS_SECONDS = 20.0  # of one pass over what is left: reconcile has more to do
GIVE_UP_DAYS = 6.0  # before the seven after which Prefect deletes events
TIMES = 3  # that one is sent: a Prefect that does not find what it took would have it for ever
REFUSED = {400, 404, 405, 409, 413, 422}  # by which an event is refused, and not by whom it is sent


class Sent(StrEnum):
    """What came of sending."""

    STORED = "stored"
    """Nothing is left to do."""
    TAKEN = "taken"
    """All are sent; whether they are stored is asked later."""
    LATER = "later"


@asynccontextmanager
async def telling(run: RunFolder) -> AsyncIterator[None]:
    """Send what is noted of a run while the body runs; reconcile goes on with what is left then.

    Trouble with it is logged, and harms nothing.
    """
    spool = EventSpool.of(run.run_id)
    if context := FlowRunContext.get():
        assert context.flow_run is not None  # noqa: S101 - a flow that runs has one
        await noting.begin(run, context.flow_run)
    async with working_beside(
        functools.partial(_keep_sending, spool),
        finish_seconds=FINISH_SECONDS,
        cancelled_seconds=CANCELLED_SECONDS,
    ):
        yield


async def _keep_sending(spool: EventSpool, closing: asyncio.Event) -> None:
    closed = asyncio.create_task(closing.wait())
    stamp, failures, result = -1, 0, Sent.STORED
    try:
        while True:
            # Both read first: what is noted while something is being sent gets another turn.
            is_last, now = closing.is_set(), spool.stamp()
            if now != stamp or result is not Sent.STORED:
                result = await send(spool, hurry=is_last)
                failures = failures + 1 if result is Sent.LATER else 0
                stamp = now
            if is_last and result is not Sent.LATER:
                return
            pause = {
                Sent.STORED: LOOK_SECONDS,
                Sent.TAKEN: STORED_SECONDS,
                Sent.LATER: PAUSES[min(failures, len(PAUSES)) - 1],
            }[result]
            if is_last:
                await asyncio.sleep(min(pause, LOOK_SECONDS))
            else:
                await _changed(spool, closed, spool.stamp(), pause)
    finally:
        closed.cancel()


async def _changed(
    spool: EventSpool, closed: asyncio.Task[Any], stamp: int, seconds: float
) -> None:
    """Wait for some seconds, or until something is noted, or the end if these come first."""
    deadline = time.monotonic() + seconds
    while not closed.done() and spool.stamp() == stamp and time.monotonic() < deadline:
        await asyncio.wait({closed}, timeout=LOOK_SECONDS)


@dataclass(slots=True)
class _Posting:
    """What the runs of a process send together: a hundred that begin at once take few requests."""

    spools: dict[Path, EventSpool]
    hurry: asyncio.Event
    done: asyncio.Future[dict[Path, Sent]]


_gathering: WeakKeyDictionary[asyncio.AbstractEventLoop, _Posting] = WeakKeyDictionary()
"""By event loop: the round that is still waiting for others."""


async def send(spool: EventSpool, *, hurry: bool = False) -> Sent:
    """Send what Prefect does not have; whatever goes wrong is logged, and left for later.

    Args:
        spool: what is noted.
        hurry: whether it does not wait for others to send with it.
    """
    loop = asyncio.get_running_loop()
    gathering = _gathering.get(loop)
    if gathering is None:
        gathering = _gathering[loop] = _Posting({}, asyncio.Event(), loop.create_future())
        is_first = True
    else:
        is_first = False
    gathering.spools[spool.file] = spool
    if hurry and unhurried(LOOK_SECONDS, CROWDED_SECONDS) == LOOK_SECONDS:
        gathering.hurry.set()
    if is_first:
        await _lead(gathering)
    # Shielded: one that is cancelled while it waits must not take the result from the others.
    return (await asyncio.shield(gathering.done)).get(spool.file, Sent.LATER)


async def _lead(gathering: _Posting) -> None:
    """Wait a moment for others, and send for all of them."""
    results: dict[Path, Sent] = {}
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(unhurried(LOOK_SECONDS, CROWDED_SECONDS)):
                await gathering.hurry.wait()
        del _gathering[asyncio.get_running_loop()]  # whoever comes now begins the next one
        results = await send_all(list(gathering.spools.values()))
    finally:
        if _gathering.get(asyncio.get_running_loop()) is gathering:
            del _gathering[asyncio.get_running_loop()]
        gathering.done.set_result(results)


async def send_all(spools: Sequence[EventSpool]) -> dict[Path, Sent]:
    """Send what Prefect does not have of several; see `send`."""
    results = dict.fromkeys((spool.file for spool in spools), Sent.LATER)
    try:
        async with AsyncExitStack() as held:
            ours = []
            for spool in spools:
                if await held.enter_async_context(locked(spool.lock, wait=False)):
                    ours.append(spool)
                else:  # whoever else sends, sends ours too
                    results[spool.file] = Sent.TAKEN
            results |= await _send(ours)
    except UNANSWERED as error:
        logger().debug("Prefect does not take the job's events: %s", error)
    except Exception as error:  # noqa: BLE001 - the outer edge: no event is worth a job
        logger().warning("the job's events are sent later (%s: %s)", type(error).__name__, error)
    return results


async def _send(spools: Sequence[EventSpool]) -> dict[Path, Sent]:
    noted = {spool.file: spool.read() for spool in spools}
    waiting = [event for one in noted.values() for event in one.waiting]
    if not waiting:
        return dict.fromkeys(noted, Sent.STORED)
    now = time.time()
    sent = {id: record for one in noted.values() for id, record in one.sent.items()}
    over = {id for id, (times, at) in sent.items() if times >= TIMES and _is_past(at, now)}
    async with prefect_client() as client:
        with asking_once():
            doubted = [event for one in noted.values() for event in one.doubted()]
            stored = await _stored(client, doubted)
            fresh = [
                event
                for event in waiting
                if (id := event["id"]) not in stored | over
                # Not what was sent a moment ago: Prefect is about to store that.
                and (id not in sent or _is_past(sent[id][1], now))
            ]
            refused = await _post(client, fresh)
    ids = {event["id"] for event in fresh}

    def settle(noted: Noted) -> None:
        for event in noted.waiting:
            if event["id"] in ids:
                times, _ = noted.sent.get(event["id"], (0, 0.0))
                noted.sent[event["id"]] = [times + 1, now]
        noted.settle(stored | refused | over)

    return {
        spool.file: Sent.TAKEN if spool.change(settle).waiting else Sent.STORED for spool in spools
    }


def _is_past(sent_at: float, now: float) -> bool:
    """Whether Prefect has had its time to store what it was sent; also after a clock was set."""
    return not 0 <= now - sent_at < AGAIN_SECONDS


async def _stored(client: PrefectClient, events: Sequence[dict[str, Any]]) -> set[str]:
    """Return the ids of those events that Prefect has stored."""
    found: set[str] = set()
    for start in range(0, len(events), PAGE):
        some = events[start : start + PAGE]
        times = [datetime.fromisoformat(event["occurred"]) for event in some]
        wanted = {
            "id": {"id": [event["id"] for event in some]},
            # Without it Prefect looks no farther than its own clock, behind which ours may be.
            "occurred": {
                "since": (min(times) - timedelta(days=1)).isoformat(),
                "until": (max(times) + timedelta(days=1)).isoformat(),
            },
        }
        answer = await client.request(
            "POST", "/events/filter", json={"filter": wanted, "limit": PAGE}
        )
        answer.raise_for_status()
        found |= {str(event["id"]) for event in answer.json()["events"]}
    return found


async def _post(client: PrefectClient, events: Sequence[dict[str, Any]]) -> set[str]:
    """Send events; return the ids of those that Prefect refuses for good."""
    for start in range(0, len(events), PAGE):
        some = events[start : start + PAGE]
        try:
            (await client.request("POST", "/events", json=list(some))).raise_for_status()
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in REFUSED:
                raise
            if len(some) > 1:  # one of them is at fault, and must not keep the others back
                halves = events[start : start + len(some) // 2], events[start + len(some) // 2 :]
                return set().union(*[await _post(client, half) for half in halves])
            logger().error(
                "Prefect refuses the event %s: %s", some[0]["event"], error.response.text
            )
            return {some[0]["id"]} | await _post(client, events[start + 1 :])
    return set()


async def send_leftovers() -> None:
    """Send what flows could not: Prefect was away when they ended, or they died."""
    deadline = time.monotonic() + PASS_SECONDS
    left = await asyncio.to_thread(unfinished)
    for spool in left:
        if old := older_than(spool.read(), GIVE_UP_DAYS):
            logger().warning("%s: %d events are given up", spool.file, len(old))
            spool.change(functools.partial(Noted.settle, ids=old))
    for start in range(0, len(left), PAGE):
        results = await send_all(left[start : start + PAGE])
        if Sent.LATER in results.values() or time.monotonic() > deadline:
            return  # Prefect is away: the others would only wait in vain
