"""What waits for one client."""

from __future__ import annotations

import asyncio

import pytest

from gateway.streams.messages import MessageType, StreamCursor, message
from gateway.streams.subscription import MOST_BYTES, MOST_MESSAGES, Subscription, TooSlow


def metrics(step, **more):
    return message(MessageType.METRICS, {"step": step, **more}, StreamCursor(step))


def status(number):
    return message(MessageType.STATUS, {"state": "running", "n": number}, StreamCursor(0, number))


async def taken(subscription):
    found = []
    while True:
        try:
            async with asyncio.timeout(0):
                found.append(await subscription.take())
        except TimeoutError:
            return found


async def test_messages_come_in_their_order():
    subscription = Subscription()
    sent = [metrics(1), status(1), metrics(2), metrics(3), status(2)]
    for each in sent:
        subscription.put(each)

    assert await taken(subscription) == sent


async def test_metrics_make_room_for_newer_ones_and_for_every_status():
    subscription = Subscription()
    subscription.put(status(1))
    for step in range(1000):
        subscription.put(metrics(step))
    subscription.put(status(2))

    found = await taken(subscription)

    assert len(found) == MOST_MESSAGES
    assert (found[0], found[-1]) == (status(1), status(2))
    assert found[-2] == metrics(999)
    assert subscription.dropped == 1002 - MOST_MESSAGES
    assert (subscription.take_gap(), subscription.take_gap()) == (0, None)


async def test_a_gap_is_told_only_when_nothing_waits():
    subscription = Subscription()
    for step in range(5, 500):
        subscription.put(metrics(step))

    assert subscription.take_gap() is None
    await taken(subscription)
    assert subscription.take_gap() == 5


async def test_bytes_are_bounded_too():
    subscription = Subscription()
    for step in range(20):
        subscription.put(metrics(step, text="x" * (MOST_BYTES // 10)))

    assert 5 < len(await taken(subscription)) < 10


async def test_a_client_that_lets_states_pile_up_is_cut_off():
    subscription = Subscription()
    for number in range(MOST_MESSAGES):
        subscription.put(status(number))
    assert not subscription.is_cut_off

    subscription.put(status(MOST_MESSAGES))

    with pytest.raises(TooSlow):
        await subscription.take()


async def test_a_waiting_client_is_woken():
    subscription = Subscription()
    waiting = asyncio.create_task(subscription.take())
    await asyncio.sleep(0)

    subscription.put(metrics(1))

    assert await waiting == metrics(1)
