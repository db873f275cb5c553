"""What a provider is to the orchestrator: six calls and a connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from prefect.blocks.core import Block

from blocks.machines.base import Machine
from blocks.models import Instance, Offer
from trainer.config import Resources


class Provider(Block, ABC):
    """Somewhere machines come from: a Prefect block, so that an account can be saved by name.

    No call sleeps for long, retries or waits for a machine to boot: whoever calls does. Every
    call raises errors of `trainer.errors` only: `CredentialsError`, `RateLimited` and
    `ConnectionLost` besides those named. The account is the ledger: the name of an instance
    tells which run owns it, so nothing about it need be kept elsewhere.
    """

    provider_name: ClassVar[str]
    """The name in a job file and in the registry."""

    @abstractmethod
    async def offers(self, resources: Resources) -> list[Offer]:
        """Return the machines for hire that fit, the one to take first at the head.

        Raises:
            CapacityError: none fits; it says what there is and what was asked.
        """

    @abstractmethod
    async def launch(self, offer: Offer, name: str, ssh_public_key: str | None) -> Instance:
        """Hire a machine under our name for it and return at once, booted or not.

        A name that is taken is ours from an earlier attempt whose answer was lost: that
        instance is returned and nothing new is hired.

        Raises:
            CapacityError: the offer is gone.
            QuotaError: the account may not have this.
            FundsError: the account cannot pay.
        """

    @abstractmethod
    async def find(self, name: str) -> Instance | None:
        """Return the instance that bears our name, or None."""

    @abstractmethod
    async def describe(self, id: str) -> Instance:
        """Return an instance as the provider sees it now; one that is absent has status gone."""

    @abstractmethod
    async def terminate(self, id: str) -> None:
        """Give an instance back; fine when it is gone already.

        Raises:
            ProviderError: it refuses to go; it may still cost money.
        """

    @abstractmethod
    async def instances(self) -> list[Instance]:
        """Return every instance that this account has under a name of ours."""

    @abstractmethod
    def machine(self, instance: Instance) -> Machine:
        """Return a connection to an instance, opened when it is first used."""
