"""Work off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[Event], T]) -> T:
    """Run `work` off the event loop; when cancelled, set its event and wait until it has ended.

    Without the wait a retry could meet the thread still writing to the same file.
    """
    stop = Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # The thread cannot be cancelled, only asked: it looks at the event after every chunk.
        stop.set()
        await asyncio.gather(running, return_exceptions=True)
        raise


async def aside(work: Callable[[Event], T]) -> T:
    """Run `work` in a thread that nobody has to wait for; when cancelled, set its event and leave it.

    The threads of the loop's own pool are waited for when a program ends, for as long as a service
    that hangs keeps them; and there are only a few. What has not begun by then never does.
    """
    outcome: Future[T] = Future()
    given_up = Event()

    def run() -> None:
        if not outcome.set_running_or_notify_cancel():
            return
        try:
            outcome.set_result(work(given_up))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            outcome.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return await asyncio.wrap_future(outcome)
    except asyncio.CancelledError:
        given_up.set()
        raise
