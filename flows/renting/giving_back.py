"""Give a machine back: it is gone when the provider says so, not when the request is accepted."""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum

from blocks.keys import MachineKeys
from blocks.marks import Mark
from blocks.models import Instance, InstanceStatus
from blocks.providers.absence import Absence, look
from blocks.providers.base import Provider
from blocks.registry import load_provider
from flows.logger import logger
from flows.renting.hire import Hire
from flows.renting.journal import Journal
from trainer.contract.errors import OrchestratorError

PATIENCE_SECONDS = 120.0
LOOKS_AFTER = 2  # that must agree once the provider has accepted a machine's end
LOOK_SECONDS = 1.0  # between two looks; the first ones are closer together
AGAIN_SECONDS = 10.0  # between two requests: one may have been accepted and ignored


class Ending(StrEnum):
    """What came of asking for a machine's end."""

    GONE = "gone"
    ANOTHERS = "another's"
    """It bears another mark of ours: it belongs to another run now, or waits for the next job."""
    STAYS = "stays"
    """The provider has not ended it, or cannot be asked."""


RUNS_ON = {
    InstanceStatus.QUEUED,
    InstanceStatus.PROVISIONING,
    InstanceStatus.RUNNING,
    InstanceStatus.UNKNOWN,
}
"""What a machine is seen as that has not begun to end, or not yet as far as lists that lag show."""


class Unbilled:
    """What is noted of the end of a machine that stands in no journal: nothing."""

    def asked(self) -> None:
        """The provider is about to be asked for its end."""

    def accepted(self) -> None:
        """The provider has accepted its end."""

    def seen(self, found: Instance | None) -> None:
        """A look has shown this; None: the machine was not found."""


class EndOfBill(Unbilled):
    """Notes in a journal until when a machine is billed whose end was asked for.

    Should we die before it is seen to be gone, whoever sees that later does not bill the time between.
    """

    def __init__(self, journal: Journal, hire: Hire) -> None:
        self._journal, self._hire = journal, hire
        self._is_asked = self._is_accepted = False
        self._seconds: float | None = None

    def asked(self) -> None:
        """Take it from now on for ended as soon as it is not found, whether or not an answer comes."""
        self._is_asked = True

    def accepted(self) -> None:
        """Take it for ended now, unless it is seen to run on."""
        # Counted anew for each request: one that was accepted and ignored has ended nothing.
        self._is_accepted, self._seconds = True, self._billed()

    def seen(self, found: Instance | None) -> None:
        """Note the end that is believed: none while it is seen to run on."""
        runs_on = found is not None and found.status in RUNS_ON
        if not self._is_accepted:
            self._seconds = (
                self._seconds or self._billed() if self._is_asked and not found else None
            )
        believed = None if runs_on else self._seconds
        if believed != self._hire.accepted_seconds:
            self._hire.accepted_seconds = believed
            self._journal.save()

    def _billed(self) -> float:
        self._hire.exists()
        self._hire.accepted_seconds = None
        return self._hire.seconds()


async def give_back(journal: Journal, hire: Hire, cause: str) -> bool:
    """Terminate the machine of a row and close the row; return whether nothing of it is left.

    One that does not go is reported, keeps being charged to the job, and is tried again by the
    next reconcile.
    """
    try:
        provider = await load_provider(hire.provider)
        ends_bill = provider.shutdown_ends_bill
        ending, instance = await until_gone(
            provider, hire.mark, hire.instance_id, EndOfBill(journal, hire)
        )
    except OrchestratorError as error:
        ending, instance, ends_bill = Ending.STAYS, None, False
        logger().warning("%s", error)
    if instance:  # what an order without an answer made is paid for too
        hire.instance_id = instance.id
    match ending:
        case Ending.GONE:
            journal.end(hire, cause)
            await journal.publish()
        case Ending.ANOTHERS:
            await _hand_over(journal, hire, instance, ends_bill=ends_bill)
        case Ending.STAYS:
            hire.accepted_seconds = None
            hire.cause = f"{cause} (the provider has not ended it)"
            journal.save()
            logger().error(
                "%s of %s is not gone yet and may cost %.4g USD/h; reconcile will ask again",
                hire.instance_id or hire.mark,
                hire.provider,
                hire.price_per_hour,
            )
            await journal.publish()
    return ending is not Ending.STAYS


async def close(journal: Journal, hire: Hire, cause: str) -> None:
    """Close the row of a machine that is known to be gone, or never was."""
    journal.end(hire, cause)
    _remove_keys(hire.provider, hire.mark, hire.instance_id)
    await journal.publish()


def _remove_keys(provider: str, mark: Mark, id: str) -> None:
    keys = MachineKeys.of(provider, id, mark) if id else MachineKeys.ordered(mark)
    keys.remove()


async def give_back_all(journal: Journal, cause: str) -> None:
    """Terminate every machine that is still open; what they hold must be at home."""
    for hire in [hire for hire in journal.hires if hire.is_open]:
        await give_back(journal, hire, cause)


async def _hand_over(
    journal: Journal, hire: Hire, instance: Instance | None, *, ends_bill: bool
) -> None:
    """Let go of a machine that bears another mark: a process died before it had noted that."""
    mark = instance.mark if instance else None
    if mark and mark.run_id is None:
        journal.keep(hire, mark, ends_bill=ends_bill)
    else:
        journal.end(hire, f"taken over as {mark}")
    await journal.publish()


async def until_gone(
    provider: Provider,
    mark: Mark,
    id: str = "",
    bill: Unbilled | None = None,
) -> tuple[Ending, Instance | None]:
    """Ask for a machine's end again and again until the provider says gone; then its keys go too.

    Args:
        provider: whose it is.
        mark: what it must bear; what bears another mark of ours is left alone.
        id: the provider's own name for it, where it is known.
        bill: where the end of its bill is noted; None: nowhere.

    Returns:
        What came of it, and the machine as it was seen last, if it was seen.
    """
    ending, seen = await _ended(provider, mark, id, bill or Unbilled())
    # Not before: a machine that stays must stay reachable.
    if ending is Ending.GONE:
        _remove_keys(provider.provider_name, mark, seen.id if seen else id)
    return ending, seen


async def _ended(
    provider: Provider, mark: Mark, id: str, bill: Unbilled
) -> tuple[Ending, Instance | None]:
    # An order without an answer may come true late, so what is not seen is waited for as long as
    # the provider may hide it.
    patience = max(PATIENCE_SECONDS, 1.5 * provider.settle_seconds)
    deadline = time.monotonic() + patience
    absence, changed = Absence(provider.settle_seconds), Absence(provider.settle_seconds)
    asked_at: float | None = None
    is_ending, seen = False, None
    looks = 0  # in a row that did not find it
    pause = LOOK_SECONDS / 5
    while True:
        try:
            found = await look(provider, mark, id)
            absence.seen(found)
            looks = looks + 1 if found is None else 0
            bill.seen(found)
            anothers = found is not None and found.mark not in {mark, None}
            if found:
                id, seen = found.id, found
                # For as long as lists lag, it may be the mark that it bore before.
                changed.seen(None if anothers else found)
            # Once the provider has accepted its end, absence is what was announced.
            if absence.is_proven or (is_ending and looks >= LOOKS_AFTER) or _is_gone(found):
                return Ending.GONE, seen
            if anothers and changed.is_proven:
                return Ending.ANOTHERS, seen
            now = time.monotonic()
            due = asked_at is None or now - asked_at >= AGAIN_SECONDS
            if found and not anothers and due:
                asked_at = now
                bill.asked()
                if await provider.terminate(id):
                    is_ending = True
                    bill.accepted()
        except OrchestratorError as error:
            logger().warning("%s", error.message)
            asked_at = None  # whether the request arrived is unknown: send it again at once
        if time.monotonic() >= deadline:
            return Ending.STAYS, seen
        await asyncio.sleep(pause)
        pause = min(2 * pause, LOOK_SECONDS)


def _is_gone(found: Instance | None) -> bool:
    return found is not None and found.status is InstanceStatus.GONE
