"""Whether a machine that cannot be reached still exists: the provider knows, the lease decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from blocks.models import Instance, InstanceStatus
from blocks.providers.absence import Absence
from blocks.providers.base import Provider
from blocks.task_scope import TaskScope
from blocks.workplaces.base import Workplace
from flows.full_disk import save_again, say_once
from flows.logger import logger
from flows.renting.journal import Journal
from flows.renting.prices import give_up_dearer
from trainer.config import Limits, TrainingJob
from trainer.contract.errors import (
    ConnectionLost,
    HomeDiskFull,
    MachineLost,
    OrchestratorError,
    StoreAway,
    TimeUp,
)

T = TypeVar("T")
LOOK_SECONDS = 5.0
CONFIRMED = 2  # how many looks in a row must say "gone" or "taken back" in so many words
PAUSE_SECONDS = 2.0


async def watch_provider(
    job: TrainingJob, provider: Provider, instance: Instance, journal: Journal
) -> None:
    """Ask now and then whether the machine is still ours, and what it costs.

    Runs until it is cancelled.

    A preempted machine often keeps its connections open for minutes.

    Raises:
        MachineLost: the provider says twice that it is not, its absence is proven, or it costs
            more than the job's `max_price_per_hour` by now.
    """
    looks = 0
    absence = Absence(provider.settle_seconds)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = await _described(provider, instance)
        save_again()
        if now is None:
            continue
        # Spot prices and storage can change the bill while a machine runs; the budget counts it.
        if hire := journal.of_instance(instance):
            journal.billed(hire, now)
        give_up_dearer(now, job.limits)
        looks = looks + 1 if now.status.is_lost else 0
        absence.seen(now)
        if looks >= CONFIRMED or absence.is_proven:
            raise _lost(instance, now)


class Contact:
    """Contact with one machine: made, lost, made again, or lost for good."""

    def __init__(self, job: TrainingJob, provider: Provider, instance: Instance) -> None:
        self._limits = job.limits
        self._provider = provider
        self._instance = instance
        self._lost_at: float | None = None
        self._absence = Absence(provider.settle_seconds)
        self._fruitless: tuple[object, float] | None = None

    def made(self) -> None:
        """Note that the machine answers."""
        if self._lost_at is not None:
            seconds = time.monotonic() - self._lost_at
            logger().info("%s answers again after %.0f s", self._instance.id, seconds)
        self._lost_at = None

    async def lost(self, error: ConnectionLost) -> None:
        """Return when it is worth trying again; the training goes on, as far as we know.

        While the provider says that the machine runs, no second one may be hired: the first one
        trains. It stops by itself when its lease has not been renewed; after that it is lost.

        Raises:
            MachineLost: the provider says that it is gone, or its lease has expired.
        """
        self._lost_at = self._lost_at or time.monotonic()
        logger().warning("no contact with %s: %s", self._instance.id, error.message)
        await self._ask_provider()
        silent = time.monotonic() - self._lost_at
        # The training there first saves and stops by its lease; only after both have passed is it
        # certain that two machines would not train the same job.
        term = self._limits.lease_minutes * 60 + self._limits.stop_grace_seconds
        if silent > term and not self._provider.is_home:
            raise MachineLost(
                f"{self._instance.id} was not reached for {silent / 60:.0f} minutes; its lease has "
                "expired and the training there has stopped."
            )
        await asyncio.sleep(PAUSE_SECONDS)

    def fruitless(self, arrived: object, error: ConnectionLost) -> None:
        """Note that something failed again, and how much had arrived by then.

        A machine that answers and gives nothing is not waited for any longer than a silent one.

        Args:
            arrived: anything that changes when more has.
            error: how it failed.

        Raises:
            MachineLost: nothing more has arrived for as long as a lease lasts.
        """
        now = time.monotonic()
        if self._fruitless is None or self._fruitless[0] != arrived:
            self._fruitless = arrived, now
        elif now - self._fruitless[1] > self._limits.lease_minutes * 60:
            raise MachineLost(
                f"{self._instance.id} answers, but nothing has come or gone for "
                f"{self._limits.lease_minutes:g} minutes: {error.message}"
            )

    async def _ask_provider(self) -> None:
        looks = 0
        while True:
            now = await _described(self._provider, self._instance)
            if now is None:
                return
            looks = looks + 1 if now.status.is_lost else 0
            self._absence.seen(now)
            if looks >= CONFIRMED or self._absence.is_proven:
                raise _lost(self._instance, now)
            # Absence takes longer to prove than one call may: the next one goes on.
            if not now.status.is_lost:
                return
            await asyncio.sleep(PAUSE_SECONDS)


async def in_contact(
    job: TrainingJob,
    provider: Provider,
    instance: Instance,
    journal: Journal,
    work: Callable[[Workplace], Awaitable[T]],
    *,
    arrived: Callable[[], object] | None = None,
) -> T:
    """Return what `work` returns; it is done again when the connection was lost meanwhile.

    The provider is asked meanwhile whether the machine is still there, as while it trains.

    Args:
        job: whose limits hold.
        provider: whose the machine is.
        instance: the machine.
        journal: the run's.
        work: done again from where it stood, so that it gets on.
        arrived: what `work` has got done, as anything that changes; None: it may take any time.

    Raises:
        MachineLost: the machine is gone for certain, or `work` gets nowhere for a lease's time.
        OSError: this computer prevents it for as long; HomeDiskFull: its disk does.
    """
    contact = Contact(job, provider, instance)

    async def attempt() -> T:
        async with provider.workplace(instance, compress=job.ssh_compression) as workplace:
            await workplace.greet()  # so that the clock of a loss an hour ago starts anew
            contact.made()
            return await work(workplace)

    since: float | None = None
    while True:
        try:
            if provider.is_home:
                return await attempt()
            async with TaskScope() as scope:
                scope.start(watch_provider(job, provider, instance, journal))
                return await scope.result_of(attempt())
        except ConnectionLost as error:
            if arrived:
                contact.fruitless(arrived(), error)
            await contact.lost(error)
        except (OSError, HomeDiskFull) as error:
            since = since or time.monotonic()
            if arrived and time.monotonic() - since > job.limits.lease_minutes * 60:
                raise  # what prevents it here may be mended by then: the run is executed again
            await trouble_here(error)


async def in_time(limits: Limits, work: Callable[[], T]) -> T:
    """Return what `work` returns, in a thread; done again while this computer's disk prevents it.

    Raises:
        OSError: it has for as long as a lease lasts.
    """
    since = time.monotonic()
    while True:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            if time.monotonic() - since > limits.lease_minutes * 60:
                raise  # what prevents it may be mended by then: the run is executed again
            await trouble_here(error)


async def trouble_here(error: OSError | HomeDiskFull | StoreAway) -> None:
    """Wait before another try at what this computer or a store prevented: a disk may be full.

    The machine, and a training there, go on meanwhile.
    """
    say_once(error, "the job goes on, and this is tried again")
    await asyncio.sleep(PAUSE_SECONDS)


def bytes_in(*folders: Path) -> int:
    """Return how much is in folders, and in those within them."""
    files = (path for folder in folders for path in folder.rglob("*"))
    return sum(path.lstat().st_size for path in files if path.exists())


async def _described(provider: Provider, instance: Instance) -> Instance | None:
    """Return what the provider says, or None while it does not answer, which proves nothing."""
    try:
        return await provider.describe(instance.id)
    except OrchestratorError as error:
        logger().debug("%s does not answer about %s: %s", provider.label, instance.id, error)
        return None


def _lost(instance: Instance, now: Instance) -> MachineLost:
    gone = {InstanceStatus.GONE, InstanceStatus.ABSENT}
    how = "is gone" if now.status in gone else "was taken back"
    kind = TimeUp if now.time_is_up else MachineLost
    return kind(
        f"{instance.id} {how}, according to its provider{f': {now.detail}' if now.detail else ''}."
    )
