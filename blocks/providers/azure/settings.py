"""Which account of Azure, and how machines are ordered there: by a saved block or the environment."""

from __future__ import annotations

import ipaddress
import os
import re
from abc import ABC
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, SecretStr

from blocks.marks import installation_id
from blocks.providers.api import Api
from blocks.providers.azure.login import Identity, login_of
from blocks.providers.azure.resources import Group
from blocks.providers.by_store import ByStore
from blocks.providers.cloud import port_of, switched_on
from blocks.secrets.reading import secret
from trainer.config import Resources
from trainer.contract.errors import ConfigError

URL = "https://management.azure.com"
PRICES_URL = "https://prices.azure.com"
LOCATION = re.compile(r"[a-z0-9]{2,40}")
SECRET_VARIABLE = "AZURE_CLIENT_SECRET"  # noqa: S105 - its name
SUBNET = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Network/virtualNetworks/[^/]+"
    r"/subnets/[^/]+",
    re.IGNORECASE,
)
LOGIN = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
IMAGE = "microsoft-dsvm:ubuntu-hpc:2204:latest"
"""With NVIDIA's driver for data centres, CUDA and NCCL; of generation 2, as the sizes are."""


class AzureAccount(ByStore, ABC):
    """The settings of the provider azure; those left empty come from the environment."""

    title: ClassVar[str] = "Azure"
    set_up_by: ClassVar[str] = "AZURE_PROVIDER"
    store_scheme: ClassVar[str] = "az"
    role_variable: ClassVar[str] = "AZURE_MACHINE_IDENTITY"
    intervals: ClassVar[Mapping[str, float]] = {}
    instead: ClassVar[Mapping[str, str]] = {
        "AZURE_SSH_KEY_NAME": "each machine gets a key pair of its own, which is removed with it"
    }

    subscription_id: str = Field(default="", description="Empty: AZURE_SUBSCRIPTION_ID.")
    resource_group: str = Field(
        default="",
        description="Where everything is made. Empty: AZURE_RESOURCE_GROUP, or one of this "
        "installation.",
    )
    locations: list[str] = Field(
        default_factory=list, description="Such as westeurope. Empty: AZURE_LOCATIONS."
    )
    zones: list[str] = Field(
        default_factory=list,
        description="Only these zones, such as 1. Empty: any, which has more chances.",
    )
    ssh_from: list[str] = Field(
        default_factory=list,
        description="Networks that may reach port 22, such as 203.0.113.0/24. Empty: "
        "AZURE_SSH_FROM.",
    )
    subnet: str = Field(
        default="",
        description="For the connection store: resource id of the subnet, in each location of "
        "`locations`, that leads to the mailbox. Empty: AZURE_SUBNET, or one of our own.",
    )
    ssh_user: str = Field(default="", description="Empty: AZURE_SSH_USER, or azureuser.")
    ssh_port: int | None = Field(default=None, description="Empty: AZURE_SSH_PORT, or 22.")
    image: str = Field(
        default="", description=f"publisher:offer:sku:version. Empty: AZURE_IMAGE, or {IMAGE}."
    )
    disk_gb: int = Field(default=128, ge=64, description="GiB where a job asks for less.")
    identity: str = Field(
        default="",
        description="Resource id of the managed identity by which machines delete themselves. "
        "Empty: AZURE_MACHINE_IDENTITY, or none.",
    )
    tenant_id: str = Field(default="", description="Empty: by azure-identity's standard chain.")
    client_id: str = Field(default="", description="Of the app registration that logs in.")
    client_secret: SecretStr | None = Field(default=None, description="Its secret.")
    authority: str = Field(default="", description="Empty: AZURE_AUTHORITY_HOST, or the public.")
    api_url: str = Field(default="", description=f"Empty: AZURE_API_URL, or {URL}.")
    prices_url: str = Field(default="", description=f"Empty: AZURE_PRICES_URL, or {PRICES_URL}.")

    def is_configured(self) -> bool:
        """Whether it was set up on purpose: many a computer is logged in to Azure for other ends."""
        return bool(self._block_document_name) or switched_on(self.set_up_by)

    def secrets(self) -> Mapping[str, str]:
        """Return the secret of a block; what stands in the environment is azure-identity's affair."""
        given = self.client_secret.get_secret_value() if self.client_secret else ""
        return {SECRET_VARIABLE: given} if given else {}

    def _group(self) -> Group:
        """Return the resource group of this installation.

        Raises:
            ConfigError: the subscription is not set.
        """
        subscription = _set(self.subscription_id, "AZURE_SUBSCRIPTION_ID")
        if not subscription or "/" in subscription:
            raise ConfigError(
                f"Azure: subscription_id = {subscription!r} is not a subscription.",
                "Set AZURE_SUBSCRIPTION_ID, as `az account show --query id` prints it.",
            )
        own = f"training-orchestrator-{installation_id()}"
        name = _set(self.resource_group, "AZURE_RESOURCE_GROUP") or own
        if "/" in name:
            raise ConfigError(
                f"Azure: resource_group = {name!r} is not a name.",
                "Set AZURE_RESOURCE_GROUP to the name alone, without the path.",
            )
        return Group(subscription, name)

    def _url(self) -> str:
        return _set(self.api_url, "AZURE_API_URL", URL).rstrip("/")

    def _api(self) -> Api:
        given = self.secrets().get(SECRET_VARIABLE, "")
        identity = Identity(
            tenant_id=self.tenant_id,
            client_id=self.client_id,
            client_secret=secret(SECRET_VARIABLE, given) if given else "",
            authority=self.authority,
        )
        return Api(
            self.title,
            self._url(),
            {},
            self.intervals,
            account=f"{identity.digest()} {self._group().subscription}",
            auth=login_of(identity, f"{self._url()}/.default"),
        )

    def _prices_api(self) -> Api:
        url = _set(self.prices_url, "AZURE_PRICES_URL", PRICES_URL)
        return Api("Azure's price list", url, {}, account="retail")

    def _given_locations(self) -> list[str]:
        given = self.locations or _listed("AZURE_LOCATIONS")
        return [location.strip().lower() for location in given]

    def _locations(self, resources: Resources | None = None) -> list[str]:
        """Return where to look for machines, of what is set and what a job asks for.

        Raises:
            ConfigError: neither says anything.
        """
        allowed = self._given_locations()
        for name in allowed:
            if not LOCATION.fullmatch(name):
                raise ConfigError(
                    f"Azure: location {name!r} is not a name such as westeurope.",
                    "Write it as `az account list-locations --query [].name` prints it.",
                )
        regions = [region.strip().lower() for region in resources.regions] if resources else []
        # A job that may go to several providers names the regions of all.
        wanted = [region for region in regions if LOCATION.fullmatch(region)]
        if regions and not wanted:
            return []
        if not allowed and not wanted:
            raise ConfigError(
                "Azure: no location is set.",
                "Set AZURE_LOCATIONS, such as westeurope,swedencentral, or resources.regions.",
            )
        # A machine goes nowhere but where it was allowed, whatever a job asks for.
        return [one for one in wanted or allowed if not allowed or one in allowed]

    def _ssh_from(self) -> list[str]:
        """Return the networks from which machines may be reached; none where nothing connects to them.

        Raises:
            ConfigError: there is none, or one is no network.
        """
        if self._by_store():
            return []
        given = self.ssh_from or _listed("AZURE_SSH_FROM")
        for one in given:
            try:
                ipaddress.ip_network(one)
            except ValueError as error:
                raise ConfigError(
                    f"Azure: ssh_from = {one!r} is not a network: {error}.",
                    "Write it as 203.0.113.0/24.",
                ) from error
        if not given:
            raise ConfigError(
                "Azure: AZURE_SSH_FROM is not set, so nobody could reach a machine.",
                "Set it to the network of this computer, such as 203.0.113.0/24; 0.0.0.0/0 is any.",
            )
        return given

    def _user(self) -> str:
        name = _set(self.ssh_user, "AZURE_SSH_USER", "azureuser")
        if not LOGIN.fullmatch(name):
            raise ConfigError(
                f"Azure: ssh_user = {name!r} is not a login name.",
                "Set AZURE_SSH_USER to lower-case letters and digits, such as azureuser.",
            )
        return name

    def _port(self) -> int:
        return port_of("AZURE_SSH_PORT", self.ssh_port)

    def _subnet(self) -> str:
        """Return the id of a subnet of the account's own; empty: by one of ours.

        Raises:
            ConfigError: it is no id.
        """
        given = _set(self.subnet, "AZURE_SUBNET").rstrip("/") if self._by_store() else ""
        if given and not SUBNET.fullmatch(given):
            raise ConfigError(
                f"Azure: subnet = {given!r} is not the id of a subnet.",
                "Set AZURE_SUBNET as `az network vnet subnet show --query id` prints it.",
            )
        return given

    def _role_of_machines(self) -> str:
        return self._identity()

    def _identity(self) -> str:
        return _set(self.identity, "AZURE_MACHINE_IDENTITY")

    def _image(self) -> dict[str, str]:
        """Return the image as an order has it.

        Raises:
            ConfigError: it is not named in four parts.
        """
        name = _set(self.image, "AZURE_IMAGE", IMAGE)
        parts = name.split(":")
        if len(parts) != 4 or not all(parts):
            raise ConfigError(
                f"Azure: image = {name!r} is not publisher:offer:sku:version.",
                f"Write it as {IMAGE}.",
            )
        return dict(zip(("publisher", "offer", "sku", "version"), parts, strict=True))


def _set(given: str, variable: str, otherwise: str = "") -> str:
    return given.strip() or os.environ.get(variable, "").strip() or otherwise


def _listed(variable: str) -> list[str]:
    return [one.strip() for one in os.environ.get(variable, "").split(",") if one.strip()]
