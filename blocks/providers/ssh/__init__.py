"""The machines that a user owns, as a provider: all they need is sshd; instances are folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from blocks.machines.base import Machine
from blocks.machines.hardware import ASK, read_hardware
from blocks.machines.shell import last_of
from blocks.marks import Mark, ours
from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers.base import Provider, counted
from blocks.providers.ssh.asking import ASK_SECONDS, Lines, answers_of, ask, connection
from blocks.providers.ssh.gpus import ASK_GPUS, read_uses
from blocks.providers.ssh.hosts import (
    HOSTS_VARIABLE,
    Host,
    chosen_hosts,
    forget_host,
    note_host,
    noted_host,
    parse_host,
    usable_key,
)
from blocks.providers.ssh.jobs import (
    END,
    LIST,
    MAKE,
    check_name,
    instances_in,
    record_of,
    whole,
)
from blocks.providers.ssh.offers import HostSurvey, fitting_offers
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    ConnectionLost,
    GpusBusy,
    HostKeyChanged,
    OrchestratorError,
    ProviderError,
)

TERM_SECONDS = 10.0  # from SIGTERM to SIGKILL
KILL_SECONDS = 5.0  # for the kernel to clear away what was killed
REMOVE_SECONDS = 120.0  # for the folder of a job to be removed


class SshHost(Provider):
    """Trains on machines that a user owns and reaches by SSH, without root and without Docker."""

    _block_type_name = "SSH Host"
    _block_type_slug = "training-orchestrator-ssh"

    provider_name: ClassVar[str] = "ssh"
    may_be_free: ClassVar[bool] = True
    set_up_by: ClassVar[str] = HOSTS_VARIABLE
    boot_minutes: ClassVar[float] = 2.0
    settle_seconds: ClassVar[float] = 0.0
    has_network: ClassVar[bool] = True
    shutdown_command: ClassVar[str] = ":"
    """An owned machine is never powered off: the lease ends the training and nothing else."""

    hosts: list[str] = Field(
        default_factory=list,
        description="Each as [user@]host[:port], an IPv6 address in brackets. "
        "Empty: SSH_HOSTS, separated by commas.",
    )
    private_key: Path | None = Field(
        default=None,
        description="File of a private key that the hosts know. Empty: SSH_KEY_FILE, or "
        "id_ed25519, id_ecdsa or id_rsa in ~/.ssh.",
    )
    private_addresses: dict[str, str] = Field(
        default_factory=dict,
        description="By which address the other hosts reach a host, for jobs on several: by the "
        "host as in hosts. Without an entry: the address by which we reach it.",
    )
    price_per_hour: float = Field(
        default=0.0, ge=0.0, description="USD per hour that the use of one host costs."
    )

    def is_configured(self) -> bool:
        """Whether hosts are given."""
        return bool(self.hosts_given())

    async def check(self) -> str:
        """Ask every host; see `Provider.check`."""
        hosts = self._hosts()
        surveys, troubles = await self._survey(hosts)
        found = [f"{survey.host} has {survey.in_words()}" for survey in surveys]
        found += [f"{host}: {error.message}" for host, error in troubles.items()]
        return f"{counted(len(hosts), 'host')}, {len(surveys)} reachable: {'; '.join(found)}"

    async def offers(self, resources: Resources, limits: Limits) -> list[Offer]:
        """Return an offer for each GPU that fits, or for each host's CPU; see `Provider.offers`.

        GPUs and hosts without a job of ours come first, then the cheapest, then those with the
        most free memory. A host that cannot be reached hides no other.

        GPUs that others have locked there, that a process uses without that, or that are out of
        use are passed over.

        Raises:
            GpusBusy: some would do, and others have them.
            CapacityError: no host fits, or none can be reached; it lists each with its cause.
        """
        surveys, troubles = await self._survey(self._hosts())
        causes = {str(host): error.message for host, error in troubles.items()}
        offers, reasons = fitting_offers(surveys, resources, limits, self.price_per_hour)
        if not offers:
            causes |= {host: error.message for host, error in reasons.items()}
            listed = "; ".join(f"{host}: {cause.rstrip('.')}" for host, cause in causes.items())
            if any(isinstance(error, GpusBusy) for error in reasons.values()):
                raise GpusBusy(f"No SSH host has a free GPU that fits: {listed}.")
            what = "No SSH host fits" if surveys else "No SSH host can be reached"
            raise CapacityError(f"{what}: {listed}.")
        return offers

    def gang_offers(self, offers: Sequence[Offer], nodes: int) -> list[Offer]:
        """Return the first offer of each host; see `Provider.gang_offers`."""
        first: dict[str, Offer] = {}
        for offer in offers:
            # Several offers may be GPUs of one host, and machines that train together must be
            # several.
            first.setdefault(offer.host, offer)
        return list(first.values())[:nodes]

    async def launch(
        self, offer: Offer, mark: Mark, ssh_public_key: str | None, first_script: str = ""
    ) -> Instance:
        """Make the job directory on the offer's host; see `Provider.launch`.

        It may be repeated: the directory is made once, with the record of the first launch.
        """
        host, name = parse_host(offer.id), check_name(str(mark))
        noted = noted_host(name)
        # An earlier attempt got as far as another host. If its directory is there, it is the
        # instance; a second one would train the same job twice.
        if noted and noted != host and (instance := await self._recorded(noted, name)):
            return instance
        # Before the directory is made: if the answer is lost, `find` must know which host to ask.
        note_host(name, host)
        try:
            if instance := await self._recorded(host, name):
                return instance
            lines = await self._ask(host, MAKE, name, record_of(offer))
        except ConnectionLost as error:  # nothing trains there yet, so going elsewhere is safe
            forget_host(name)
            raise CapacityError(error.message) from error
        return self._read(lines, host)[0]

    async def find(self, mark: Mark) -> Instance | None:
        """Return the instance in the folder of that mark on any host; see `Provider.find`.

        Raises:
            ConnectionLost: the host where it was launched cannot be reached.
        """
        name = check_name(str(mark))
        # The host of the launch must answer. "Not there" from the others would prove nothing.
        if host := noted_host(name):
            return await self._recorded(host, name)
        found = await self._listed(name)
        return next((one for one in found if one.status is InstanceStatus.RUNNING), None)

    async def describe(self, id: str) -> Instance:
        """Return the instance, gone when its host says so; see `Provider.describe`."""
        host, name = _parsed(id)
        status, detail = InstanceStatus.GONE, ""
        try:
            found = self._read(await self._ask(host, LIST, name), host)
        except (ConnectionLost, HostKeyChanged) as error:
            # An owned machine that is switched off, or set up anew, has not given its job
            # directory back.
            found, status, detail = [], InstanceStatus.UNKNOWN, error.message
        if found:
            return found[0]
        return Instance(
            provider=self.provider_name,
            id=id,
            mark=ours(name),
            status=status,
            detail=detail,
            address=host.address,
            port=host.port,
            user=host.user,
            host=str(host),
        )

    async def terminate(self, id: str) -> bool:
        """End the processes of the job directory, then remove it; see `Provider.terminate`."""
        host, name = _parsed(id)
        seconds = ASK_SECONDS + TERM_SECONDS + KILL_SECONDS + REMOVE_SECONDS
        arguments = (name, whole(TERM_SECONDS), whole(KILL_SECONDS))
        lines = await self._ask(host, END, *arguments, seconds=seconds)
        said = {word for word, _ in lines}
        # The words of end.sh; silence is success.
        if "occupied" in said:
            raise ProviderError(
                f"A process that works in the job directory {name} on {host} does not end.",
                "End it by hand; the folder is removed by the next terminate or reconcile.",
            )
        if "left" in said:
            raise ProviderError(
                f"The job directory {name} on {host} cannot be removed.", "Remove it by hand."
            )
        forget_host(name)
        return True

    async def instances(self) -> list[Instance]:
        """Return the instances on every host that can be reached; see `Provider.instances`."""
        return await self._listed("")

    def machine(self, instance: Instance, *, compress: bool = False) -> Machine:
        """Return a connection by the owner's key, not by one of the instance."""
        host = Host(instance.user, instance.address, instance.port)
        return connection(host, usable_key(self.private_key), compress=compress)

    def hosts_given(self) -> list[Host]:
        """Return the hosts of the block, or else of SSH_HOSTS.

        Raises:
            ConfigError: one is not a host.
        """
        return chosen_hosts(self.hosts)

    def _hosts(self) -> list[Host]:
        """Return the hosts, of which there must be at least one."""
        hosts = self.hosts_given()
        if not hosts:
            raise ConfigError(
                "No SSH host is given.", f"Set {HOSTS_VARIABLE} or the block's hosts."
            )
        return hosts

    async def _survey(
        self, hosts: Sequence[Host]
    ) -> tuple[list[HostSurvey], dict[Host, OrchestratorError]]:
        """Ask all hosts at once what they have; return the answers and the errors."""
        usable_key(self.private_key)  # raises here once; per host it would look like their fault

        async def survey(host: Host) -> HostSurvey:
            lines = await self._ask(host, ASK + ASK_GPUS + LIST, "")
            return HostSurvey(host, read_hardware(lines), self._read(lines, host), read_uses(lines))

        answers = await answers_of(survey(host) for host in hosts)
        surveys = [answer for answer in answers if isinstance(answer, HostSurvey)]
        pairs = zip(hosts, answers, strict=True)
        return surveys, {host: one for host, one in pairs if isinstance(one, OrchestratorError)}

    async def _listed(self, name: str) -> list[Instance]:
        """Return the instances of that name, or all, on the hosts that can be reached."""
        hosts = self.hosts_given()
        if hosts:
            usable_key(self.private_key)  # raises here once; per host it would be swallowed
        answers = await answers_of(self._ask(host, LIST, name) for host in hosts)
        pairs = zip(hosts, answers, strict=True)
        return [
            instance
            for host, lines in pairs
            if not isinstance(lines, OrchestratorError)
            for instance in self._read(lines, host)
        ]

    async def _recorded(self, host: Host, name: str) -> Instance | None:
        """Return the instance of a name on a host, if there is one with a record."""
        found = self._read(await self._ask(host, LIST, name), host)
        return next((one for one in found if one.status is InstanceStatus.RUNNING), None)

    def _read(self, lines: Lines, host: Host) -> list[Instance]:
        found = instances_in(lines, host, last_of(lines, "home"), self.price_per_hour)
        # Parsed, so that "box" and "me@box:22" are the same host.
        given = {parse_host(text): address for text, address in self.private_addresses.items()}
        private = given.get(host, host.address)
        return [replace(instance, private_address=private) for instance in found]

    async def _ask(
        self, host: Host, text: str, *arguments: str, seconds: float = ASK_SECONDS
    ) -> Lines:
        key = usable_key(self.private_key)
        return await ask(host, key, text, *arguments, seconds=seconds)


def _parsed(id: str) -> tuple[Host, str]:
    """Return host and name of an instance's id."""
    host, _, name = id.rpartition("/")
    return parse_host(host), check_name(name)
