from __future__ import annotations

import asyncio

import pytest

from flows.beside import working_beside


async def test_the_work_finishes_after_the_body():
    said = []

    async def work(closing):
        await closing.wait()
        await asyncio.sleep(0)
        said.append("finished")

    async with working_beside(work, finish_seconds=60, cancelled_seconds=60):
        said.append("body")

    assert said == ["body", "finished"]


async def test_work_that_does_not_finish_is_broken_off():
    ended = asyncio.Event()

    async def work(closing):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with working_beside(work, finish_seconds=0, cancelled_seconds=60):
        await asyncio.sleep(0)  # it has begun

    assert ended.is_set()


async def test_a_body_that_is_cancelled_waits_less():
    async def work(closing):
        await asyncio.Event().wait()

    async def body():
        async with working_beside(work, finish_seconds=600, cancelled_seconds=0.01):
            begun.set()
            await asyncio.Event().wait()

    begun = asyncio.Event()
    task = asyncio.create_task(body())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(60):
            await task
