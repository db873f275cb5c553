"""Hiring a machine as the flow does, without a training: seconds instead of a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import TypeVar
from uuid import uuid4

import pytest

from blocks.machines.base import Machine
from blocks.models import Instance
from blocks.registry import load_provider
from flows.renting import giving_back
from flows.renting.budget import Budget
from flows.renting.hiring import Hiring
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from tests.faults.proof import Figures
from tests.faults.scene import Scene
from trainer.contract.errors import OrchestratorError

E = TypeVar("E", bound=OrchestratorError)
SECONDS = 90  # no fault may hold a hunt for longer


class Hunt:
    """The hunt for the machine of one run."""

    def __init__(self, scene: Scene, figures: Figures) -> None:
        self.scene = scene
        self.figures = figures
        self.job = scene.job()
        self.run = RunFolder(uuid4())
        self.seconds = 0.0
        """What the last hunt took."""
        self.is_over = False

    def wants(self, **changes: object) -> None:
        """Hunt for another job; `changes` are those of `Scene.job`."""
        self.job = self.scene.job(**changes)

    @property
    def journal(self) -> Journal:
        """The run's journal, read anew."""
        return Journal.of(self.run)

    async def machine(self) -> Instance:
        """Hunt as a fresh process does, which knows no more than the journal and the accounts."""
        begun, journal = time.monotonic(), self.journal
        hiring = Hiring(self.job, self.run, journal, Budget(self.job, journal))
        try:
            [instance] = await asyncio.wait_for(hiring.machines(), SECONDS)
            self.figures.end = "hired"
        except OrchestratorError as error:
            self.figures.end = type(error).__name__
            raise
        finally:
            self.seconds = self.figures.recover = time.monotonic() - begun
        return instance

    async def fails(self, kind: type[E], words: str) -> E:
        """Hunt in vain: for this very reason, told in these words, with a suggestion."""
        with pytest.raises(kind, match=words) as caught:
            await self.machine()
        assert type(caught.value) is kind
        assert caught.value.suggestion
        return caught.value

    def outcomes(self) -> Sequence[str]:
        """Return what the table of attempts says of each machine, the first one first."""
        return [str(row["outcome"]) for row in self.journal.table()]

    async def connected(self, instance: Instance) -> Machine:
        return (await load_provider(instance.provider)).machine(instance)

    async def over(self, *others: Hunt, unbooked: Collection[str] = ()) -> None:
        """Give back what is hired, and prove that nothing is left and the books are right.

        Args:
            others: hunts in the same account.
            unbooked: ids of instances that were gone before anybody of ours knew of them.
        """
        self.is_over, booked = True, set(unbooked)
        for journal in [hunt.journal for hunt in (self, *others)]:
            for hire in [hire for hire in journal.hires if hire.is_open]:
                assert await giving_back.give_back(journal, hire, "done"), self.outcomes()
            booked |= {hire.instance_id for hire in journal.hires}
        for cloud in self.scene.clouds:
            self.figures.leaked += len(cloud.alive())
            assert cloud.alive() == []
            assert cloud.errors == []
            assert set(cloud.account) <= booked
