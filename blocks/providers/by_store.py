"""Machines that nothing connects to: they are reached through a bucket into which both sides look."""

from __future__ import annotations

import asyncio
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field
from typing_extensions import override

from blocks.machines.base import Machine
from blocks.machines.mailbox import MailboxMachine
from blocks.machines.mailbox.grants import Grants
from blocks.machines.mailbox.packing import start_script
from blocks.marks import Mark, ours
from blocks.models import Instance, InstanceStatus
from blocks.providers.base import Provider
from blocks.providers.cloud import switched_on
from blocks.stores.access import Access
from blocks.stores.bucket import Bucket
from trainer.config.store_urls import StoreUrl, parse_store_url
from trainer.contract.errors import ConfigError, OrchestratorError, StoreError

logger = logging.getLogger(__name__)

MAILBOX_IDLE = timedelta(hours=1)
"""That a mailbox may lie still: an agent writes to it every ten seconds."""
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST", "AZURE_STORAGE_ENDPOINT")
OWN_HOSTS = (".amazonaws.com", ".googleapis.com", ".core.windows.net")
"""Ends of the hosts of the clouds' own stores."""
LONGEST_URL = 250
"""Characters of a mailbox's address, which a tag of the machine holds."""


class Reached(NamedTuple):
    """How a machine that is about to be ordered will be reached."""

    mailbox: str = ""
    """The address of its mailbox; empty: over SSH."""
    script: str = ""
    """Sh that it runs as root, for as long as it lives; empty: nothing."""


class ByStore(Provider, ABC):
    """A provider of virtual machines, which are reached over SSH or, if that is set, through a bucket.

    The address of such a machine is that of its mailbox, which it bears as it bears its mark: what was
    hired one way is reached that way, whatever is set later.
    """

    store_scheme: ClassVar[str]
    """The scheme of the stores that a role of its machines can be allowed to use."""
    role_variable: ClassVar[str]
    """The variable that gives machines such a role."""
    _boxes: ClassVar[dict[str, str]] = {}
    """The mailboxes of machines that this process has reached, by the machines' ids."""
    _let_go: ClassVar[set[str]] = set()
    """Ids of machines whose end was asked for."""

    connection: str = Field(
        default="",
        description="ssh, or store for machines without inbound network. Empty: NAME_CONNECTION, or "
        "ssh; NAME is the provider's in capitals.",
    )
    mailbox: str = Field(
        default="",
        description="For the connection store: where mailboxes are, such as s3://models/mailboxes. "
        "Empty: NAME_MAILBOX.",
    )
    mailbox_by_role: bool = Field(
        default=False,
        description="Machines reach it by their own role instead of by signed addresses. Also by "
        "NAME_MAILBOX_BY_ROLE.",
    )

    @override
    def machine(self, instance: Instance, *, compress: bool = False) -> Machine:
        """Return a connection, by the mailbox or over SSH."""
        if "://" not in instance.address:
            return super().machine(instance, compress=compress)
        self._boxes[instance.id] = instance.address
        return MailboxMachine(opened(parse_store_url(instance.address)), where=instance.id)

    def _by_store(self) -> bool:
        """Whether machines that are hired from now on are reached through a bucket.

        Raises:
            ConfigError: the setting is neither.
        """
        variable = self._variable("CONNECTION")
        word = (self.connection or os.environ.get(variable, "")).strip().lower() or "ssh"
        if word not in {"ssh", "store"}:
            raise ConfigError(
                f"{variable} = {word!r} is neither ssh nor store.",
                "Set it, or connection of the block, to one of them, or remove it.",
            )
        return word == "store"

    def _role_reads(self) -> bool:
        return self.mailbox_by_role or switched_on(self._variable("MAILBOX_BY_ROLE"))

    @abstractmethod
    def _role_of_machines(self) -> str:
        """Return the role that machines get; empty: none."""

    def _variable(self, name: str) -> str:
        return f"{self.provider_name.upper()}_{name}"

    def _mailboxes(self) -> StoreUrl:
        """Return where mailboxes are.

        Raises:
            ConfigError: it is not set, or nothing that machines could reach.
        """
        variable = self._variable("MAILBOX")
        named = (self.mailbox or os.environ.get(variable, "")).strip()
        url: StoreUrl | None = None
        with suppress(ValueError):
            url = parse_store_url(named)
        kinds = (self.store_scheme,) if self._role_reads() else ("s3", "gs", "az")
        if url is None or url.scheme not in kinds or len(named) > LONGEST_URL - 64:
            what = " or ".join(f"{kind}://BUCKET/PATH" for kind in kinds)
            raise ConfigError(
                f"{variable} = {named!r} is no bucket through which a machine can be reached.",
                f"Set it, or mailbox of the block, to {what}.",
            )
        if self._role_reads() and not self._role_of_machines():
            raise ConfigError(
                f"{self._variable('MAILBOX_BY_ROLE')} is set, and machines get no role.",
                f"Set {self.role_variable}, or remove it.",
            )
        return url

    async def _reached(self, mark: Mark) -> Reached:
        """Prepare the mailbox of a machine that is about to be ordered; nothing, over SSH.

        Raises:
            ConfigError: a setting is missing.
            StoreError: the bucket refuses, or its credentials cannot sign.
        """
        if not self._by_store():
            return Reached()
        url = self._mailboxes().inside(str(mark))
        if self._role_reads():
            return Reached(str(url), start_script(str(url), self._options()))
        bucket = await asyncio.to_thread(opened, url)
        try:
            return Reached(str(url), start_script(await Grants(bucket).begin()))
        except StoreError as error:
            raise type(error)(
                error.message,
                f"{error.suggestion} Or give the machines a role, and set "
                f"{self._variable('MAILBOX_BY_ROLE')}=1.",
            ) from error

    @override
    def role_at(self, url: StoreUrl) -> Mapping[str, Any] | None:
        """Return how machines use a store by their role, where it is one of their own cloud."""
        if url.scheme != self.store_scheme or not self._role_of_machines():
            return None
        options = self._options()
        host = urlsplit(options.get("endpoint", "")).hostname or ""
        # What only speaks the same protocol knows nothing of our roles, and is shown none.
        if host and not host.endswith(OWN_HOSTS) and not is_loopback(host):
            return None
        if self.store_scheme == "az" and not options.get("account_name"):
            return None
        return options

    def _options(self) -> dict[str, Any]:
        """Return what an agent with a role must know of the bucket; nothing secret."""
        variables = {
            "s3": {"region": "AWS_REGION", "endpoint": "AWS_ENDPOINT_URL_S3"},
            "gs": {"endpoint": "STORAGE_EMULATOR_HOST"},
            "az": {"account_name": "AZURE_STORAGE_ACCOUNT", "endpoint": "AZURE_STORAGE_ENDPOINT"},
        }.get(self.store_scheme, {})
        given = {name: os.environ.get(variable, "") for name, variable in variables.items()}
        if "://" not in (given.get("endpoint") or "://"):  # as Google's own libraries read it
            given["endpoint"] = f"http://{given['endpoint']}"
        return {"role": True, **{name: text for name, text in given.items() if text}}

    async def _check_mailboxes(self) -> str:
        """Write to the bucket, sign an address of it, and say so; nothing, over SSH.

        Raises:
            OrchestratorError: it cannot be used.
        """
        if not self._by_store():
            return ""
        url = self._mailboxes()
        bucket = await asyncio.to_thread(opened, url)
        await bucket.put("check", b"")
        # Without this right S3 calls forbidden what is not there yet: no command would be heard.
        await bucket.entries("check")
        await bucket.delete(["check"])
        if not self._role_reads():
            await bucket.sign("GET", ["check"], 60.0)
        way = "by the machines' role" if self._role_reads() else "by signed addresses"
        return f"mailboxes in {url} {way}"

    def _asked_to_end(self, id: str) -> None:
        """Note that a machine's end was asked for: once it is not found any more, it is gone."""
        if id in self._boxes:
            self._let_go.add(id)

    async def _seen(self, found: Instance) -> Instance:
        """Return what was found of a machine; of one that is gone, the mailbox goes too."""
        over = found.status is InstanceStatus.GONE or (
            found.status is InstanceStatus.ABSENT and found.id in self._let_go
        )
        if over and (address := self._boxes.pop(found.id, "")):
            self._let_go.discard(found.id)
            await _emptied(opened(parse_store_url(address)))
        return found

    async def _sweep_mailboxes(self) -> None:
        """Remove mailboxes that belong to no machine, and that nobody has written to for an hour."""
        if not self._by_store():
            return
        try:
            url = self._mailboxes()
            bucket = await asyncio.to_thread(opened, url)
            names = [name for name in await bucket.folders() if ours(name)]
            used = {one.address for one in await self.instances()} if names else set()
            for name in names:
                place = url.inside(name)
                entries = [] if str(place) in used else await bucket.entries(name)
                newest = max((entry.modified for entry in entries), default=datetime.now(UTC))
                if datetime.now(UTC) - newest > MAILBOX_IDLE:
                    await _emptied(opened(place))
        except OrchestratorError as error:  # the next sweep takes them
            logger.info("mailboxes of %s are left: %s", self.provider_name, error)


def is_loopback(host: str) -> bool:
    """Whether a host is this computer."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


async def _emptied(bucket: Bucket) -> None:
    try:
        await bucket.delete([entry.key for entry in await bucket.entries()])
    except OrchestratorError as error:  # a sweep takes it
        logger.info("the mailbox %s is left: %s", bucket.url, error)


def opened(url: StoreUrl, access: Access | None = None) -> Bucket:
    """Return a bucket, the same one each time: finding the credentials takes a while."""
    return _opened(url, access or Access(), tuple(os.environ.get(name, "") for name in ENDPOINTS))


@cache
def _opened(url: StoreUrl, access: Access, endpoints: tuple[str, ...]) -> Bucket:
    del endpoints  # they are what tells one from the other
    return Bucket.at(url, access)
