"""Get a machine for a run: the one it has, one that was kept, or one that is for hire."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any
from uuid import UUID

from blocks.first_script import first_script
from blocks.keys import MachineKeys
from blocks.marks import Mark
from blocks.models import Instance
from blocks.providers.api import Unanswered
from blocks.providers.base import Provider
from blocks.registry import load_provider
from blocks.task_scope import all_of
from blocks.workplaces.base import Lease
from flows.logger import logger
from flows.renting import bad_hosts, keeping
from flows.renting.adopting import as_it_was, note_strangers, still_ours
from flows.renting.booting import boot
from flows.renting.budget import Budget
from flows.renting.choosing import Choosing
from flows.renting.contact import note_contact
from flows.renting.giving_back import close, give_back
from flows.renting.hire import Hire
from flows.renting.journal import Journal
from flows.renting.lifetime import lifetime
from flows.renting.market import Choice, Market, market, providers_of
from flows.renting.prices import refuse_dearer
from flows.renting.recalling import recalled
from flows.renting.turns import in_turn
from flows.renting.unknown_price import price_of
from flows.run_folder import RunFolder
from trainer.config import TrainingJob
from trainer.contract.errors import (
    Action,
    BootError,
    ConnectionLost,
    CredentialsError,
    FundsError,
    HostKeyChanged,
    MachineLost,
    OrchestratorError,
    RateLimited,
)
from trainer.contract.files import read_json

FRESH_SECONDS = 60.0  # older offers are asked for again before one is taken
SHUTDOWN_SECONDS = 60.0  # for a machine whose lease has run out to be gone
SPARE = "not needed"  # the cause that is noted when nothing is wrong with the machine itself


class _GivenUp(Exception):
    """One of several machines did not become ready, and was given back."""


class Hiring:
    """Gets the machine of one run, or the machines that train it together.

    Several are one attempt: all of them become ready, or all are given back.
    """

    def __init__(self, job: TrainingJob, run: RunFolder, journal: Journal, budget: Budget) -> None:
        self._job = job
        self._run_id = UUID(run.run_id)
        self._journal = journal
        self._budget = budget
        self._failures: dict[Mark, OrchestratorError] = {}

    async def machines(self) -> list[Instance]:
        """Return the machines that are ready to install on, by rank.

        Raises:
            CapacityError: no offer led to one; it names each that was tried.
            BudgetExceeded: the money ran out on the way; nothing is left running.
            CredentialsError, FundsError: the only provider does not serve this account.
        """
        # What is paid for already comes first: a machine that may even be training, then one that
        # is warm, and only then a new one.
        return await in_turn(self.adopted) or await self._kept() or await self._hired()

    async def adopted(self) -> list[Instance]:
        """Return the machines that an earlier process of this run hired, where they are usable."""
        # A process may have died between a provider's create and its own note of it. Not asked
        # for a run that has a machine: its provider may be away, and every row precedes its order.
        if not any(hire.is_open and hire.machine for hire in self._journal.hires):
            await note_strangers(self._job, self._run_id, self._journal)
        ready: list[Instance] = []
        attempts = {hire.attempt: hire for hire in self._journal.hires if hire.is_open}
        for attempt in sorted(attempts, reverse=True):
            hires = self._journal.attempt_of(attempts[attempt])
            if ready:  # two attempts are open: the younger one is in use
                await self._spare(hires)
            else:
                ready = await self._as_they_were(hires)
        return ready

    async def _as_they_were(self, hires: list[Hire]) -> list[Instance]:
        """Return the machines of an attempt if all of them are there; else none is left."""
        found: list[tuple[Hire, Instance]] = []
        for hire in hires:
            patience = self._job.limits.lease_minutes * 60
            if instance := await recalled(hire, partial(still_ours, hire), patience):
                logger().info("adopted %s (%s) from an earlier attempt", hire.mark, instance.id)
                found.append((hire, instance))
            else:
                self._journal.end(hire, hire.cause or "never hired")
        # By rank, with none missing: an attempt that lost one machine cannot train.
        if [hire.rank for hire, _ in found] != list(range(self._job.resources.nodes)):
            await self._spare([hire for hire, _ in found])
            return []
        return await self._all_ready(found, adopted=True)

    async def _kept(self) -> list[Instance]:
        """Return a machine that an earlier job of the same shape left for this one."""
        if self._job.resources.nodes > 1:  # machines are kept one by one
            return []
        for provider in await providers_of(self._job):
            try:
                claimed = await keeping.claim(provider, self._job, self._journal)
            except OrchestratorError as error:  # hiring from it will say what to do about it
                logger().warning(
                    "%s cannot be asked for kept machines: %s", provider.label, error.message
                )
                continue
            if claimed:
                hire, instance = claimed
                logger().info("continuing with the kept machine %s", instance.id)
                if ready := await self._ready(hire, instance):
                    return [ready]
        return []

    async def _hired(self) -> list[Instance]:
        """Try offer after offer."""
        choosing = Choosing(self._job.resources.nodes, self._job.limits.max_offers)
        offers, read_at = await in_turn(self._market), time.monotonic()
        while True:
            if time.monotonic() - read_at > FRESH_SECONDS:  # prices and stock move
                offers, read_at = await in_turn(self._market), time.monotonic()
            chosen = choosing.next(offers)
            if not chosen:
                raise choosing.nothing(offers)
            gang: list[tuple[Choice, Hire]] = []
            try:
                ready = await self._all_ready(await self._all_taken(chosen, gang))
            except (CredentialsError, FundsError, ConnectionLost) as error:
                choosing.leave_out(chosen[0].provider.label, error)
                continue
            except OrchestratorError as error:
                if error.action is Action.STOP:  # such as an exhausted budget: no offer helps
                    raise
                ready = []
            if ready:
                return ready
            self._learn(choosing, gang)

    def _learn(self, choosing: Choosing, gang: list[tuple[Choice, Hire]]) -> None:
        """Note what came of each machine of an attempt."""
        for choice, hire in gang:
            if hire.cause.startswith(SPARE):  # another machine of its attempt failed
                continue
            if hire.instance_id:
                choosing.did_not_boot(choice)
            choosing.failed(choice, self._failures.get(hire.mark), hire.cause)

    async def _market(self) -> Market:
        """Return what is for hire.

        Raises:
            RateLimited: nothing is known of it, because a provider asks to wait.
        """
        offers = await market(self._job, read_json(self._journal.run.estimate))
        limited = [one for one in offers.problems.values() if isinstance(one, RateLimited)]
        if limited and not offers.choices:
            raise limited[0]
        return offers

    async def _all_taken(
        self, chosen: list[Choice], gang: list[tuple[Choice, Hire]]
    ) -> list[tuple[Hire, Instance]]:
        """Order the machines of one attempt, all or none.

        Args:
            chosen: by what, in the order of rank.
            gang: takes a row for each that was ordered.
        """
        taken: list[tuple[Hire, Instance]] = []
        last: Hire | None = None
        for choice in chosen:
            # The row comes before the order: a crash in between leaves a row without a machine,
            # which costs nothing, and never a machine without a row.
            price = await price_of(self._job, choice.provider, choice.offer)
            label = choice.provider.label
            last = self._journal.begin(choice.offer, label, beside=last, price=price)
            gang.append((choice, last))
            try:
                taken.append((last, await self._taken(choice, last)))
            except OrchestratorError:
                await self._spare([hire for hire, _ in taken])
                raise
        return taken

    async def _taken(self, choice: Choice, hire: Hire) -> Instance:
        """Order one machine; what comes of an order that fails is given back."""
        try:
            return await in_turn(lambda: self._take(choice, hire))
        except OrchestratorError as error:
            await self._drop(hire, error)
            raise

    async def _take(self, choice: Choice, hire: Hire) -> Instance:
        """Order one machine."""
        logger().info("machine %s: %s", hire.label, choice)
        await self._journal.publish()
        if self._budget.left() <= 0:
            raise self._budget.exceeded()
        provider, limits = choice.provider, self._job.limits
        # A key pair for this machine alone: one that leaks opens nothing else.
        key = None if provider.is_home else MachineKeys.ordered(hire.mark).public_key()
        minutes = limits.boot_timeout_minutes or provider.boot_minutes
        term = (minutes + limits.lease_minutes) * 60
        script = ""
        hire.unattended_seconds = None
        if provider.takes_first_script:
            script = first_script(term, provider.shutdown_command)
            hire.unattended_seconds = _ends_itself_within(provider, term)
        seconds = lifetime(
            self._job,
            boot_seconds=minutes * 60,
            price_per_hour=hire.whole_per_hour,
            usd_left=self._budget.left(),
        )
        offer = dataclasses.replace(choice.offer, lives_seconds=seconds)
        hire.order()
        note_contact(self._journal.run)
        self._journal.save()
        try:
            instance = await provider.launch(offer, hire.mark, key, script)
        except OrchestratorError as error:
            if not isinstance(error, Unanswered):  # then there is certainly nothing
                hire.refused()
            raise
        hire.instance_id = instance.id
        self._journal.billed(hire, instance)
        self._journal.save()
        await _renewed(provider, instance, term)
        return instance

    async def _all_ready(
        self, taken: list[tuple[Hire, Instance]], *, adopted: bool = False
    ) -> list[Instance]:
        """Wait until all machines of an attempt are ready, by rank; none when one is given up."""
        get = self._again if adopted else self._ready
        try:
            return await all_of(_insisted(get(hire, instance)) for hire, instance in taken)
        except (_GivenUp, OrchestratorError) as error:
            # `all_of` has ended the other boots. Those that failed themselves have a cause and are
            # gone; these are well, but useless without them.
            await self._spare([hire for hire, _ in taken if not hire.cause])
            if isinstance(error, OrchestratorError):
                raise
            return []

    async def _again(self, hire: Hire, instance: Instance) -> Instance | None:
        """Return a machine of an earlier process if it is still usable."""
        # With a workspace it was ready once, and may be training: it must not be given up for
        # taking longer than a boot may.
        if not hire.workspace or instance.status.is_lost:
            return await self._ready(hire, instance)
        try:
            return await as_it_was(hire, instance)
        except HostKeyChanged as error:
            await self._drop(hire, error)
            return None

    async def _ready(self, hire: Hire, instance: Instance) -> Instance | None:
        """Wait until a machine is ready; None when it is given up, and given back."""
        hire.instance_id = instance.id
        self._journal.billed(hire, instance)
        provider = await load_provider(hire.provider)
        try:
            refuse_dearer(hire, instance, self._job.limits)
            async with self._budget.guard():
                ready = await boot(provider, hire, instance, self._job)
            self._journal.billed(hire, ready)
            refuse_dearer(hire, ready, self._job.limits)
        except OrchestratorError as error:
            if isinstance(error, BootError | MachineLost):  # the host's fault, not the price's
                bad_hosts.remember(hire.provider, hire.host)
            await self._drop(hire, error)
            if error.action is Action.STOP:
                raise
            return None
        # By its label, because a saved block can be another account than the environment's.
        ready = dataclasses.replace(ready, provider=hire.provider)
        hire.workspace, hire.held, hire.machine = ready.workspace, {}, ready.to_dict()
        # Its lease runs from now on.
        whole = Lease.of(self._job.limits).whole_seconds
        hire.unattended_seconds = _ends_itself_within(provider, whole)
        note_contact(self._journal.run)
        self._journal.save()
        await self._journal.publish()
        return ready

    async def _spare(self, hires: list[Hire]) -> None:
        """Give back machines that are not needed, though nothing is wrong with them."""
        for hire in hires:
            if hire.is_open:
                await give_back(self._journal, hire, SPARE)

    async def _drop(self, hire: Hire, error: OrchestratorError) -> None:
        logger().warning("machine %s: %s", hire.label, error.message)
        self._failures[hire.mark] = error
        cause = f"{type(error).__name__}: {error.message}"
        # A provider says in any other error that it has hired nothing out.
        if not hire.instance_id and not isinstance(error, Unanswered):
            await close(self._journal, hire, cause)
        else:
            await give_back(self._journal, hire, cause)


def _ends_itself_within(provider: Provider, seconds: float) -> float | None:
    """Return how long a machine is billed without a word of ours; None where it is for ever."""
    if provider.is_home or not provider.shutdown_ends_bill:
        return None
    return seconds + SHUTDOWN_SECONDS


async def _renewed(provider: Provider, instance: Instance, seconds: float) -> None:
    """Move the switch that the provider holds, where it can be asked."""
    try:
        await provider.renew(instance.id, seconds)
    except OrchestratorError as error:  # the lease of a machine that is ready renews it again
        logger().warning("%s cannot be renewed at its provider: %s", instance.id, error)


async def _insisted(waiting: Coroutine[Any, Any, Instance | None]) -> Instance:
    if (ready := await waiting) is None:
        raise _GivenUp
    return ready
