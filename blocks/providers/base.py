"""What the orchestrator asks of a provider: six calls and a connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from prefect.blocks.core import Block

from blocks.keys import MachineKeys
from blocks.machines.base import Machine
from blocks.models import Instance, Offer
from trainer.config import Limits, Resources


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s in the plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Provider(Block, ABC):
    """Somewhere machines come from: a Prefect block, so that an account can be saved by name.

    No call waits for a machine to boot; that is left to the caller. Every call raises errors of
    `trainer.contract.errors` only: `CredentialsError`, `RateLimited` and `ConnectionLost` besides those
    named. The account is the ledger: the name of an instance says which run owns it
    (`blocks.names`), so no other record is needed to find it again.
    """

    provider_name: ClassVar[str]
    """The name in a job file and in the registry."""
    is_home: ClassVar[bool] = False
    """Whether its machine is this computer: job directories and checkpoints are at home already,
    stay there after a failure, and cost nothing."""
    set_up_by: ClassVar[str] = ""
    """The environment variable that sets it up, beside a saved block; empty where none does."""
    boot_minutes: ClassVar[float] = 10.0
    """How long a machine may take until SSH answers, before it is given up."""
    settle_seconds: ClassVar[float] = 30.0
    """How long a fresh instance may be missing from the list; until then absence proves nothing."""
    has_network: ClassVar[bool] = False
    """Whether its machines reach each other, so that several can train one job."""
    shutdown_command: ClassVar[str] = "sudo -n shutdown -h now || shutdown -h now || kill 1"
    """One line of sh by which a machine ends itself when its lease expires."""

    @property
    def label(self) -> str:
        """The name under which `blocks.registry.load_provider` finds this very block again."""
        saved = self._block_document_name
        return f"{self.provider_name}/{saved}" if saved else self.provider_name

    def is_configured(self) -> bool:
        """Whether there are credentials, so that it is worth asking for offers."""
        return True

    async def check(self) -> str:
        """Verify the credentials without spending, and say in a few words what was found.

        Raises:
            CredentialsError: naming the key and where to set it.
        """
        return counted(len(await self.instances()), "instance")

    @abstractmethod
    async def offers(self, resources: Resources, limits: Limits) -> list[Offer]:
        """Return the machines for hire that fit and are within the price cap, cheapest first.

        Raises:
            CapacityError: none fits; it says what there is and what was asked.
        """

    def gang_offers(self, offers: Sequence[Offer], nodes: int) -> list[Offer]:
        """Return the offers by which to hire the machines that train one job together.

        Args:
            offers: what is for hire, first choice first; not empty.
            nodes: how many machines.

        Returns:
            `nodes` offers, the same one several times where it stands for a kind of machine. If
            fewer machines than that can be had together, as many offers as there are machines.
        """
        return [offers[0]] * nodes

    @abstractmethod
    async def launch(self, offer: Offer, name: str, ssh_public_key: str | None) -> Instance:
        """Hire a machine under our name for it and return at once, booted or not.

        A name that is taken is ours from an earlier attempt whose answer was lost: that
        instance is returned and nothing new is hired. A create is never sent twice: when its
        answer is lost, the name is looked for during `settle_seconds`.

        Raises:
            CapacityError: the offer is gone, or nothing came of a create without an answer.
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
        """Ask the provider to take an instance back; fine when it is gone already.

        The provider may need a while: it is gone when `describe` says so.

        Raises:
            ProviderError: it refuses to go; it may still cost money.
        """

    @abstractmethod
    async def instances(self) -> list[Instance]:
        """Return every instance of this account, ours or not; callers look at the names."""

    async def rename(self, id: str, name: str) -> bool:
        """Give an instance another name; False where the provider cannot."""
        del id, name
        return False

    def machine(self, instance: Instance, *, compress: bool = False) -> Machine:
        """Return a connection to an instance, opened when it is first used.

        Args:
            instance: what to connect to.
            compress: whether what goes over a network is compressed on its way.
        """
        from blocks.machines.ssh import SshMachine  # a third of a second, for those who need it

        keys = MachineKeys(instance.name)
        return SshMachine(
            instance.address,
            port=instance.port,
            user=instance.user,
            private_key=keys.private_key,
            host_key=keys.host_key,
            compress=compress,
        )
