"""What runs beside others ends with them, whichever way that is."""

from __future__ import annotations

import asyncio

import pytest

from blocks.task_scope import TaskScope, all_of, ended


class Worker:
    """Works until it is ended, and says then that it was; it may take its time for that."""

    def __init__(self, leaving: float = 0.0) -> None:
        self.began = asyncio.Event()
        self.ended = False
        self._leaving = leaving

    async def work(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(self._leaving)
            self.ended = True


async def fail() -> None:
    raise LookupError("it failed")


async def test_what_runs_in_the_background_ends_with_the_body():
    worker = Worker(leaving=0.05)
    async with TaskScope() as scope:
        task = scope.start(worker.work())
        await worker.began.wait()
        assert not task.done()

    assert worker.ended
    assert task.cancelled()


async def test_it_ends_with_a_body_that_fails_and_the_bodys_failure_is_raised():
    worker = Worker()

    async def body() -> None:
        async with TaskScope() as scope:
            scope.start(worker.work())
            scope.start(fail())
            await worker.began.wait()
            raise ValueError("the body")

    with pytest.raises(ValueError, match="the body"):
        await body()

    assert worker.ended


async def test_it_ends_with_a_body_that_is_cancelled_even_twice():
    worker, at_work = Worker(leaving=0.2), asyncio.Event()

    async def body() -> None:
        async with TaskScope() as scope:
            scope.start(worker.work())
            await worker.began.wait()
            at_work.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(body())
    await at_work.wait()
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert len(asyncio.all_tasks()) == 1


async def test_a_result_comes_though_a_helper_has_ended_well():
    async def soon() -> int:
        await asyncio.sleep(0.02)
        return 7

    async with TaskScope() as scope:
        scope.start(asyncio.sleep(0))
        assert await scope.result_of(soon()) == 7


async def test_a_helper_that_fails_is_raised_and_ends_what_was_waited_for():
    async def body() -> None:
        async with TaskScope() as scope:
            scope.start(fail())
            await scope.result_of(Worker().work())

    with pytest.raises(LookupError, match="it failed"):
        await body()

    assert len(asyncio.all_tasks()) == 1


async def test_a_helper_that_fails_after_another_has_ended_well_is_raised_too():
    async def fail_later() -> None:
        await asyncio.sleep(0.02)
        await fail()

    async def body() -> None:
        async with TaskScope() as scope:
            scope.start(asyncio.sleep(0))
            scope.start(fail_later())
            await scope.result_of(Worker().work())

    with pytest.raises(LookupError):
        await body()


async def test_what_is_waited_for_raises_what_it_fails_with():
    async with TaskScope() as scope:
        scope.start(Worker().work())
        with pytest.raises(LookupError):
            await scope.result_of(fail())


async def test_all_of_returns_in_order_and_the_first_failure_ends_the_others():
    async def number(value: int) -> int:
        await asyncio.sleep(0.01 * (3 - value))
        return value

    assert await all_of(number(value) for value in range(3)) == [0, 1, 2]

    worker = Worker(leaving=0.05)
    with pytest.raises(LookupError):
        await all_of([worker.work(), fail()])
    assert worker.ended


async def test_ended_waits_for_one_that_takes_its_time():
    worker = Worker(leaving=0.05)
    task = asyncio.create_task(worker.work())
    await worker.began.wait()

    await ended([task])

    assert worker.ended
