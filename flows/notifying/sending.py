"""Send what waits in an outbox: in a thread, alone, and noted as sent once its receiver has it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from blocks.notifiers.message import MessageRefused, NotDelivered
from blocks.notifiers.sending import send
from flows.locks import locked_now
from flows.logger import logger
from flows.notifying.destinations import Destination
from flows.notifying.grouping import pause_after, turn
from flows.notifying.outbox import DAY, Outbox, SentRecord
from flows.notifying.words import message_of
from trainer.contract.errors import OrchestratorError

GIVE_UP_DAYS = 3.0  # after which nobody wants to be told any more
BUSY_SECONDS = 1.0  # until it is looked again at what another process sends


@dataclass(frozen=True, slots=True)
class Sending:
    """What came of looking at an outbox."""

    at: float | None
    """When there is something to do next, in seconds since the epoch; None: nothing waits."""


def send_waiting(outbox: Outbox, *, hurry: bool = False) -> Sending:
    """Send what is due; it takes as long as the receiver does. See `flows.notifying.grouping.turn`.

    Whatever goes wrong is logged, once for an outage, and left for later.
    """
    with locked_now(outbox.lock) as alone:
        if not alone:  # whoever else sends, sends ours too
            return Sending(time.time() + BUSY_SECONDS)
        destination, record, now = outbox.destination(), outbox.record(), time.time()
        if destination is None:
            return Sending(None)
        waiting = _without_old(outbox, record, destination, now)
        due = turn(destination, record, waiting, now, hurry=hurry)
        if not due.now:
            return Sending(due.at)
        try:
            send(destination.to, destination.key, message_of(due.now))
        except OrchestratorError as error:
            return _later(outbox, record, destination, error)
        if record.failures:
            logger().info("%s takes messages again", destination.to)
        record.failures, record.retry_at, record.last = 0, 0.0, time.time()
        outbox.settle(record, [event["id"] for event in due.now])
        return Sending(due.at)


def _later(
    outbox: Outbox, record: SentRecord, destination: Destination, error: OrchestratorError
) -> Sending:
    if not record.failures:  # once per outage
        again = "is kept and sent again"
        logger().warning(
            "%s: a message %s: %s %s", destination.to, again, error.message, error.suggestion
        )
    record.failures += 1
    wait = error.wait if isinstance(error, NotDelivered) else 0.0
    # What is refused is not refused for long once a person has corrected it.
    growing = pause_after(99 if isinstance(error, MessageRefused) else record.failures)
    record.retry_at = time.time() + max(wait, growing)
    outbox.save(record)
    return Sending(record.retry_at)


def _without_old(
    outbox: Outbox, record: SentRecord, destination: Destination, now: float
) -> list[dict[str, object]]:
    """Return what waits, and give up what nobody could be told of for days."""
    waiting = outbox.waiting()
    old = [event["id"] for event in waiting if event["at"] < now - GIVE_UP_DAYS * DAY]
    if not old:
        return waiting
    logger().warning(
        "%s took none of %d messages for %g days; they are given up",
        destination.to,
        len(old),
        GIVE_UP_DAYS,
    )
    outbox.settle(record, old)
    return [event for event in waiting if event["id"] not in old]
