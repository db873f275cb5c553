"""What the orchestrator asks of a provider: six calls and a connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from prefect.blocks.core import Block

from blocks.keys import MachineKeys
from blocks.machines.base import Machine
from blocks.marks import Mark
from blocks.models import Instance, Offer
from blocks.workplaces.base import Workplace
from blocks.workplaces.machine import HomeWorkplace, MachineWorkplace
from trainer.config import Limits, Resources
from trainer.config.store_urls import StoreUrl


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s in the plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Provider(Block, ABC):
    """Somewhere machines come from: a Prefect block, so that an account can be saved by name.

    No call waits for a machine to boot; that is left to the caller. Every call raises errors of
    `trainer.contract.errors` only: `CredentialsError`, `RateLimited` and `ConnectionLost` besides those
    named. The account is the ledger: the mark of an instance says which run owns it
    (`blocks.marks`), so no other record is needed to find it again.

    An instance is a bundle: it exists as long as anything bears its mark that may be billed, such as
    a disk, an address or a request for a spot machine.
    """

    provider_name: ClassVar[str]
    """The name in a job file and in the registry."""
    is_home: ClassVar[bool] = False
    """Whether its machine is this computer: job directories and checkpoints are at home already,
    stay there after a failure, and cost nothing."""
    may_be_free: ClassVar[bool] = False
    """Whether a price of 0 is one. Elsewhere it counts as not known, as None does."""
    set_up_by: ClassVar[str] = ""
    """The environment variable that sets it up, beside a saved block; empty where none does."""
    boot_minutes: ClassVar[float] = 10.0
    """How long a machine may take until SSH answers, before it is given up."""
    settle_seconds: ClassVar[float] = 30.0
    """How long an instance may be missing from what the provider says, though it exists; see
    `blocks.providers.absence`."""
    has_network: ClassVar[bool] = False
    """Whether its machines reach each other, so that several can train one job."""
    shutdown_command: ClassVar[str] = "sudo -n shutdown -h now || shutdown -h now || kill 1"
    """One line of sh by which a machine ends itself when its lease expires."""
    shutdown_ends_bill: ClassVar[bool] = True
    """Whether nothing is billed any more once that line has run; else only reconcile ends the bill."""
    notice_command: ClassVar[str] = ""
    """One line of sh that waits on a machine until the provider announces there that it takes the
    machine back, and then exits with 0; empty: it announces nothing there. It runs as the user we
    log in as, beside the training, which saves a checkpoint at once; one that fails is started
    again after half a minute."""
    instead: ClassVar[Mapping[str, str]] = {}
    """Environment variables, beginning with the provider's name in capitals, by which other programs
    are set up for it, and that are not used here: what to use instead, as half a sentence."""
    keeps_files: ClassVar[bool] = False
    """Whether the files of a job directory can be read when its machine has been taken back."""
    takes_first_script: ClassVar[bool] = False
    """Whether a machine runs `first_script` by itself, before anybody has reached it."""

    @property
    def label(self) -> str:
        """The name under which `blocks.registry.load_provider` finds this very block again."""
        saved = self._block_document_name
        return f"{self.provider_name}/{saved}" if saved else self.provider_name

    def is_configured(self) -> bool:
        """Whether there are credentials, so that it is worth asking for offers."""
        return True

    def secrets(self) -> Mapping[str, str]:
        """Return the secrets that it needs: variable → what a block has in its place, or nothing.

        They are read, wherever they are kept, before it is asked for anything; from then on
        `blocks.secrets.reading.secret` does not block.
        """
        return {}

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
    async def launch(
        self, offer: Offer, mark: Mark, ssh_public_key: str | None, first_script: str = ""
    ) -> Instance:
        """Hire a machine under a mark and return at once, booted or not.

        A mark that is borne already is ours from an earlier attempt whose answer was lost: that
        instance is returned and nothing new is hired. A create is never sent twice: when its
        answer is lost, the mark is looked for by the rule of absence.

        Args:
            offer: one of `offers`, with `lives_seconds` if it is known.
            mark: what the instance, and all that is billed with it, will bear.
            ssh_public_key: who may log in, as in authorized_keys.
            first_script: sh that the machine runs as root in its first second, where
                `takes_first_script`; elsewhere it is not used.

        Raises:
            CapacityError: the offer is gone, or nothing came of a create without an answer.
            QuotaError: the account may not have this.
            FundsError: the account cannot pay.
            Unanswered: the order was sent, and the provider cannot be asked what came of it.
        """

    @abstractmethod
    async def find(self, mark: Mark) -> Instance | None:
        """Return the instance that bears a mark, or None; one look, which proves nothing.

        The account is asked anew, where `describe` and `instances` may be some seconds old.
        """

    @abstractmethod
    async def describe(self, id: str) -> Instance:
        """Return an instance as the provider sees it now, by its list and a direct look-up.

        What neither of them finds has the status absent. An order that the provider accepted and
        failed afterwards has `failure`.
        """

    @abstractmethod
    async def terminate(self, id: str) -> bool:
        """Ask the provider to take an instance back, with all that is billed with it.

        The provider may need a while: the instance is gone when `describe` says so.

        Returns:
            Whether the provider knew it. If not, it is gone already, or not to be seen yet.

        Raises:
            ProviderError: it refuses to go; it may still cost money.
        """

    @abstractmethod
    async def instances(self) -> list[Instance]:
        """Return every instance of this account, ours or not; callers look at the marks."""

    async def remark(self, id: str, mark: Mark) -> bool:
        """Give an instance another mark; False where the provider cannot, or it is gone."""
        del id, mark
        return False

    async def renew(self, id: str, seconds: float) -> None:
        """Have the provider itself end an instance when nobody has called this for so long.

        A switch that the provider holds works where the machine's own cannot, because it was never
        reached, or because shutting it down does not end its bill. It is called with every renewal
        of the lease, so one that is renewed already costs no call. Nothing happens where a provider
        has no such switch.

        Args:
            id: the instance.
            seconds: from now; a provider may take a little longer.
        """
        del id, seconds

    async def regroup(
        self, instance: Instance, resources: Resources, limits: Limits
    ) -> Instance | None:
        """Give an instance other GPUs of its machine, which nobody has; None where that cannot be.

        Only while nothing trains there. What the job directory holds stays.

        Raises:
            GpusBusy: some would do, and jobs have them.
            CapacityError: none will do.
        """
        del instance, resources, limits
        return None

    async def sweep(self) -> None:
        """Remove from the account what is ours, belongs to no instance and is needed no longer."""

    def workplace(self, instance: Instance, *, compress: bool = False) -> Workplace:
        """Return the job directory of an instance, as a place to train.

        Args:
            instance: whose; its `workspace` is empty until it has been ready once.
            compress: whether what goes over a network is compressed on its way.
        """
        kind = HomeWorkplace if self.is_home else MachineWorkplace
        place = kind(
            self.machine(instance, compress=compress),
            instance.workspace,
            where=instance.id,
            shutdown_command=self.shutdown_command,
            notice_command=self.notice_command,
        )
        place.role_at = self.role_at
        return place

    def role_at(self, url: StoreUrl) -> Mapping[str, Any] | None:
        """Return what its machines must know of a store to use it by their own role.

        Nothing of it is secret: see `trainer.courier.cloud_role.CloudRole`. None: they have no role,
        or the store is none of the provider's own cloud. Whether the role may do it shows only there.
        """
        del url
        return None

    def machine(self, instance: Instance, *, compress: bool = False) -> Machine:
        """Return a connection to an instance, opened when it is first used.

        Args:
            instance: what to connect to.
            compress: whether what goes over a network is compressed on its way.
        """
        from blocks.machines.ssh import SshMachine  # a third of a second, for those who need it

        keys = MachineKeys.of(self.provider_name, instance.id, instance.mark)
        return SshMachine(
            instance.address,
            port=instance.port,
            user=instance.user,
            private_key=keys.private_key,
            host_key=keys.host_key,
            compress=compress,
        )
