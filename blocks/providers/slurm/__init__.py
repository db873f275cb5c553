"""Slurm: allocations of a cluster that others run, ordered with sbatch on a login node."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from blocks.machines.base import Machine
from blocks.marks import Mark
from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers.absence import absent
from blocks.providers.api import Unanswered
from blocks.providers.base import Provider, counted
from blocks.providers.lost_answer import came_of
from blocks.providers.slurm import offers as market
from blocks.providers.slurm import order, shared
from blocks.providers.slurm import queue as listed
from blocks.providers.slurm.login import (
    LOGIN_VARIABLE,
    asked,
    folder_of,
    login_host,
    login_of,
    opened,
)
from blocks.providers.slurm.machine import NodeMachine
from blocks.providers.slurm.queue import SlurmJob, first_of, instances_of, parsed_id, rows_of
from blocks.providers.slurm.workplace import SlurmWorkplace
from blocks.workplaces.base import Workplace
from blocks.workplaces.machine import base_of
from trainer.config import Limits, Resources
from trainer.contract.errors import ConfigError, OrchestratorError, ProviderError

logger = logging.getLogger(__name__)

LIST_SECONDS = 4.0  # how old the list of jobs may be; all runs of a process share it
ADDRESS_SECONDS = 3600.0  # the same of the nodes' addresses

NOTICE = 'until [ -e "${TRAINING_ORCHESTRATOR_TAKEN_BACK:?}" ]; do sleep 1; done'
SHUTDOWN = 'kill -USR2 "${TRAINING_ORCHESTRATOR_AGENT#*.}" || scancel "$SLURM_JOB_ID"'


class Slurm(Provider):
    """Trains in allocations of a Slurm cluster; job directories lie on its shared file system."""

    _block_type_name = "Slurm"
    _block_type_slug = "training-orchestrator-slurm"

    provider_name: ClassVar[str] = "slurm"
    may_be_free: ClassVar[bool] = True
    set_up_by: ClassVar[str] = LOGIN_VARIABLE
    boot_minutes: ClassVar[float] = 10.0
    settle_seconds: ClassVar[float] = 30.0
    has_network: ClassVar[bool] = True
    keeps_files: ClassVar[bool] = True
    shutdown_command: ClassVar[str] = SHUTDOWN
    notice_command: ClassVar[str] = NOTICE
    _jobs: ClassVar[
        dict[str, tuple[float, list[SlurmJob]]]
    ] = {}  # by account; when it was asked for
    _addresses: ClassVar[dict[str, tuple[float, dict[str, str]]]] = {}
    _bases: ClassVar[dict[str, str]] = {}
    _ending: ClassVar[dict[str, str]] = {}  # ids that are to be removed, and their job directories

    login: str = Field(
        default="",
        description="The login node, as [user@]host[:port], or local for this computer. "
        "Empty: SLURM_LOGIN_NODE.",
    )
    private_key: Path | None = Field(
        default=None,
        description="File of a private key that the login node knows. Empty: SSH_KEY_FILE, or "
        "id_ed25519, id_ecdsa or id_rsa in ~/.ssh.",
    )
    folder: str = Field(
        default="",
        description="A folder that login node and compute nodes share; it stands for the home folder of "
        "all that runs there. Empty: SLURM_FOLDER, or the home folder itself.",
    )
    commands: str = Field(
        default="", description="Folder of sbatch and the others, where the PATH lacks it."
    )
    partition: str = Field(
        default="", description="Separated by commas. Empty: SBATCH_PARTITION, or the default."
    )
    account: str = Field(default="", description="Empty: SBATCH_ACCOUNT.")
    qos: str = Field(default="", description="Empty: SBATCH_QOS.")
    gres: str = Field(
        default="",
        description="Instead of gpu:<type>:<count>, or beside it. Empty: SBATCH_GRES.",
    )
    constraint: str = Field(default="", description="Empty: SBATCH_CONSTRAINT.")
    time_limit: str = Field(
        default="",
        description="Of one allocation; the job goes on in the next. Empty: SBATCH_TIMELIMIT, else as "
        "long as the job may need, or the partition allows.",
    )
    warn_seconds: int = Field(
        default=300,
        ge=0,
        description="How long before its time limit an allocation saves. 0: not at all.",
    )
    options: list[str] = Field(
        default_factory=list, description="More for sbatch, such as --cpus-per-task=8."
    )
    price_per_hour: float = Field(
        default=0.0, ge=0.0, description="USD per hour that the use of one node costs."
    )

    def is_configured(self) -> bool:
        """Whether there is a login node."""
        return bool(login_of(self.login))

    async def check(self) -> str:
        """Ask the cluster for its partitions and the user's jobs; see `Provider.check`."""
        there = counted(len(await self.instances()), "job")
        found = market.nodes_of(await self._ask(*market.LIST))
        names = sorted({one.partition for one in found})
        async with self._login() as login:
            base = await self._base(login)
        return f"{there}, partitions {', '.join(names) or 'none'}, job directories in {base}/jobs"

    async def offers(self, resources: Resources, limits: Limits) -> list[Offer]:
        """Return an offer for each kind of node that fits, free now or not; see `Provider.offers`."""
        found = market.nodes_of(await self._ask(*market.LIST))
        named = order.told(self.partition, "SBATCH_PARTITION").split(",")
        partitions = [name.strip() for name in named if name.strip()]
        return market.offers_of(
            found, resources, limits, partitions=partitions, price_per_hour=self.price_per_hour
        )

    def gang_offers(self, offers: Sequence[Offer], nodes: int) -> list[Offer]:
        """Return the first offer for all nodes: they are ordered as one job, all or none."""
        return [market.together(offers[0], nodes) if nodes > 1 else offers[0]] * nodes

    async def launch(
        self, offer: Offer, mark: Mark, ssh_public_key: str | None, first_script: str = ""
    ) -> Instance:
        """Submit a job; of several nodes the first one's mark orders them all."""
        if instance := await self.find(mark):
            return instance
        if mark.rank:
            raise ProviderError(f"The job of {mark}, in which it is node {mark.rank}, has ended.")
        folder = folder_of(self.folder)
        limits = {
            one.partition: one.seconds for one in market.nodes_of(await self._ask(*market.LIST))
        }
        async with self._login() as login:
            base = await self._base(login)
            words = order.sbatch(
                offer,
                mark,
                self._terms(),
                partition_seconds=limits.get(offer.region),
                log=f"{base}/slurm/%j.log",
            )
            text = order.script(base, folder)
            try:
                said = await asked(login, *words, text=text, folder=self.commands)
                number = order.number_in(said)
            except Unanswered as error:
                return await came_of(self, mark, error)
            finally:
                self._forget()
        return offer.as_instance(
            number,
            mark,
            status=InstanceStatus.QUEUED,
            detail="submitted",
            host="",
            price_per_hour=self.price_per_hour,
        )

    async def find(self, mark: Mark) -> Instance | None:
        """Return the node of the job that bears a mark, if it has not ended; see `Provider.find`."""
        self._forget()
        rows = [row for row in await self._rows() if _is_there(row)]
        if found := first_of(rows, mark):
            row, rank = found
            return (await self._instances(row))[rank]
        return None

    async def describe(self, id: str) -> Instance:
        """Return the node as its job is; see `Provider.describe`."""
        job, rank = parsed_id(id)
        row = next((row for row in await self._rows() if row.id == job), None)
        if row is None:
            # Not in the list, which lacks what ended long ago; the controller itself may know more.
            if await self._knows(job):
                return Instance(
                    provider=self.provider_name, id=id, mark=None, status=InstanceStatus.UNKNOWN
                )
            return absent(self.provider_name, id)
        found = await self._instances(row)
        # Of a job that was given fewer nodes than asked for, the rest is not there.
        instance = found[rank] if rank < len(found) else absent(self.provider_name, id)
        if instance.status is InstanceStatus.GONE and id in self._ending:
            await self._remove(job, self._ending.pop(id))
        return instance

    async def terminate(self, id: str) -> bool:
        """Cancel the job with all its nodes; what it leaves is removed when it has ended."""
        job, _ = parsed_id(id)
        instance = await self.describe(id)
        if instance.status in {InstanceStatus.ABSENT, InstanceStatus.GONE}:
            name = str(instance.mark) if instance.mark and instance.mark.run_id else ""
            await self._remove(job, name)
            return False
        self._ending[id] = str(instance.mark) if instance.mark else ""
        try:
            async with self._login() as login:
                # It ends faster then; where this fails, Slurm ends it all the same.
                with suppress(OrchestratorError, TimeoutError):
                    await shared.over(login, await self._base(login), job)
                await asked(login, "scancel", job, folder=self.commands)
        except ProviderError as error:
            if "invalid job id" not in error.message.casefold():
                raise
            return False
        finally:
            self._forget()
        return True

    async def instances(self) -> list[Instance]:
        """Return every node of the user's jobs that have not ended; see `Provider.instances`."""
        rows = [row for row in await self._rows() if _is_there(row)]
        return [instance for row in rows for instance in await self._instances(row)]

    async def remark(self, id: str, mark: Mark) -> bool:
        """Change comment and name of the job; False when it has ended, or has several nodes."""
        job, rank = parsed_id(id)
        row = next((row for row in await self._rows() if row.id == job), None)
        if row is None or rank or row.nodes > 1 or not _is_there(row):
            return False
        words = ("scontrol", "update", f"JobId={job}", f"JobName={mark}", f"Comment={mark}")
        try:
            await self._ask(*words)
        except ProviderError:
            return False
        finally:
            self._forget()
        return True

    async def sweep(self) -> None:
        """Remove what ended jobs left on the shared file system; see `Provider.sweep`."""
        known = {row.id for row in await self._rows() if _is_there(row)}
        async with self._login() as login:
            base = await self._base(login)
            for job, names in await shared.left(login, base):
                if job not in known:
                    for name in names or [""]:
                        await shared.remove(login, base, job, name)

    def workplace(self, instance: Instance, *, compress: bool = False) -> Workplace:
        """Return the job directory on the shared file system, worked at on a node."""
        login = self._login(compress=compress)
        return SlurmWorkplace(
            self._node(login, instance),
            instance.workspace,
            login=login,
            place=self._place(instance),
            where=instance.id,
            shutdown_command=self.shutdown_command,
            notice_command=self.notice_command,
        )

    def machine(self, instance: Instance, *, compress: bool = False) -> Machine:
        """Return a node, by the login node's files and the agent of the allocation."""
        return self._node(self._login(compress=compress), instance)

    def _node(self, login: Machine, instance: Instance) -> Machine:
        return NodeMachine(login, self._place(instance), where=f"job {instance.id} of Slurm")

    def _place(self, instance: Instance) -> str:
        """Return the folder of a node's agent; it is known once anything was asked of the account."""
        job, rank = parsed_id(instance.id)
        # Every instance came from an answer of the account, or was ready once.
        base = self._bases.get(self._account()) or base_of(instance.workspace)
        return f"{base}/slurm/{job}/{rank}"

    def _terms(self) -> order.OrderTerms:
        return order.OrderTerms(
            account=order.told(self.account, "SBATCH_ACCOUNT"),
            qos=order.told(self.qos, "SBATCH_QOS"),
            constraint=order.told(self.constraint, "SBATCH_CONSTRAINT"),
            gres=order.told(self.gres, "SBATCH_GRES"),
            time_limit=order.told(self.time_limit, "SBATCH_TIMELIMIT"),
            warn_seconds=self.warn_seconds,
            options=tuple(self.options),
        )

    async def _rows(self) -> list[SlurmJob]:
        """Return the user's jobs, from the last list while it is young."""
        account = self._account()
        known, began = self._jobs.get(account), time.monotonic()
        if known and began - known[0] < LIST_SECONDS:
            return known[1]
        if known:  # one asks, and the others make do with the last list meanwhile
            self._jobs[account] = began, known[1]
        try:
            async with self._login() as login:
                await self._base(login)
                rows = rows_of(await asked(login, *listed.LIST, folder=self.commands))
        except BaseException:
            self._jobs.pop(account, None)
            raise
        self._jobs[account] = began, rows
        return rows

    async def _instances(self, row: SlurmJob) -> list[Instance]:
        addresses = await self._node_addresses() if row.nodes > 1 else {}
        return instances_of(row, self.provider_name, self.price_per_hour, addresses)

    async def _node_addresses(self) -> dict[str, str]:
        """Return where the cluster's nodes are reached, by their names."""
        account = self._account()
        asked_at, known = self._addresses.get(account, (-ADDRESS_SECONDS, {}))
        if time.monotonic() - asked_at >= ADDRESS_SECONDS:
            lines = (await self._ask(*market.ADDRESSES)).splitlines()
            known = dict(line.strip().split("|", 1) for line in lines if "|" in line)
            self._addresses[account] = time.monotonic(), known
        return known

    async def _knows(self, job: str) -> bool:
        """Whether the controller knows a job that is not in the list."""
        if not job.isdecimal():
            return False
        try:
            said = await self._ask("scontrol", "show", "job", "--oneliner", job)
        except ProviderError as error:
            if "invalid job id" in error.message.casefold():
                return False
            raise
        return f"JobId={job} " in said

    async def _base(self, login: Machine) -> str:
        """Return our folder on the shared file system, absolute; it is there.

        Raises:
            ProviderError: it cannot be made.
        """
        account = self._account()
        if account not in self._bases:
            self._bases[account] = await shared.made(login, folder_of(self.folder))
        return self._bases[account]

    async def _remove(self, job: str, name: str) -> None:
        """Remove what a job left; a sweep does it where this fails."""
        try:
            async with self._login() as login:
                base = await self._base(login)
                await shared.remove(login, base, job, name)
        except (OrchestratorError, TimeoutError) as error:
            logger.info("what job %s left is not removed: %s", job, error)

    def _forget(self) -> None:
        self._jobs.pop(self._account(), None)

    def _account(self) -> str:
        return f"{login_of(self.login)} {folder_of(self.folder)} {self.commands}"

    def _login(self, *, compress: bool = False) -> Machine:
        named = login_of(self.login)
        if not named:
            raise ConfigError(
                "No login node of a Slurm cluster is given.",
                f"Set {LOGIN_VARIABLE} to [user@]host, or to local where sbatch is on this computer.",
            )
        return opened(login_host(named), self.private_key, compress=compress)

    async def _ask(self, *words: str) -> str:
        async with self._login() as login:
            return await asked(login, *words, folder=self.commands)


def _is_there(row: SlurmJob) -> bool:
    """Whether a job may still do something."""
    return listed.STATES.get(row.state) is not InstanceStatus.GONE
