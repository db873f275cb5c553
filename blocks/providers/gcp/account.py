"""What an account of Google Cloud is set up with, by a saved block or the environment."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote

from pydantic import Field, SecretStr

from blocks.models import Offer
from blocks.providers import places
from blocks.providers.by_store import ByStore, Reached
from blocks.providers.cloud import port_of, switched_on
from blocks.providers.gcp.access import GoogleApi, GoogleToken, project_of, source_of
from blocks.providers.gcp.compute import TITLE, Compute
from blocks.providers.gcp.orders import OrderSettings
from blocks.secrets.reading import is_set, secret
from trainer.contract.errors import ConfigError, CredentialsError

KEY_VARIABLE = "GCP_CREDENTIALS"
URL = "https://compute.googleapis.com/compute/v1"
GPU_IMAGE = (
    "projects/deeplearning-platform-release/global/images/family/"
    "common-cu129-ubuntu-2404-nvidia-580"
)
CPU_IMAGE = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64"


class GoogleAccount(ByStore):
    """A project, and who we are in it."""

    set_up_by: ClassVar[str] = "GCP_PROVIDER"
    store_scheme: ClassVar[str] = "gs"
    role_variable: ClassVar[str] = "GCP_SERVICE_ACCOUNT"
    intervals: ClassVar[Mapping[str, float]] = {"": 0.05}
    """Seconds between two calls of the account."""

    project: str | None = Field(
        default=None, description="Project. Empty: GOOGLE_CLOUD_PROJECT, or the key file's own."
    )
    credentials_json: SecretStr | None = Field(
        default=None,
        description="JSON of a service account's key, or its address. Empty: GCP_CREDENTIALS, or "
        "Google's standard credentials.",
    )
    zones: list[str] = Field(
        default=[],
        description="Zones and regions to hire in. Empty: GCP_ZONES, GCP_REGIONS, or any.",
    )
    image: str | None = Field(
        default=None, description="Image family for machines with GPUs. Empty: GCP_IMAGE, or ours."
    )
    cpu_image: str | None = Field(
        default=None,
        description="Image family for machines without. Empty: GCP_CPU_IMAGE, or ours.",
    )
    network: str | None = Field(
        default=None, description="Network. Empty: GCP_NETWORK, or default."
    )
    subnetwork: str | None = Field(
        default=None,
        description="Subnetwork of the region. Empty: GCP_SUBNETWORK, or by the network.",
    )
    ssh_cidr: str | None = Field(
        default=None,
        description="Addresses that may reach port 22, such as 203.0.113.7/32: a firewall rule is "
        "made for them. Empty: GCP_SSH_CIDR, or none, and the network's own rules.",
    )
    public_ip: bool = Field(
        default=True,
        description="Machines get an address of their own; else the network's is used.",
    )
    service_account: str | None = Field(
        default=None,
        description="E-mail of a service account by which a machine deletes itself. Empty: "
        "GCP_SERVICE_ACCOUNT, or none: it powers off, and its disk is billed on.",
    )
    ssh_user: str | None = Field(
        default=None, description="Whom to log in as. Empty: GCP_SSH_USER, or trainer."
    )
    ssh_port: int | None = Field(
        default=None, description="Port of sshd. Empty: GCP_SSH_PORT, or 22."
    )
    disk_gb: float = Field(
        default=100.0, ge=30, description="GB of disk, where a job asks for no more."
    )
    api_url: str | None = Field(
        default=None, description="Base URL. Empty: GCP_API_URL, or Google's own."
    )

    def is_configured(self) -> bool:
        """Whether it was set up on purpose: by a saved block, GCP_PROVIDER or GCP_CREDENTIALS."""
        # Google's own credentials alone do not say that machines may be hired with them.
        return (
            switched_on(self.set_up_by)
            or bool(self._block_document_name)
            or is_set(KEY_VARIABLE, self._key())
        )

    def secrets(self) -> Mapping[str, str]:
        """Return the variable of the key."""
        return {KEY_VARIABLE: self._key()}

    @property
    def shutdown_ends_bill(self) -> bool:  # type: ignore[override] # elsewhere it never depends
        """Whether machines delete themselves; one that only powers off keeps its disk."""
        return bool(self._set("service_account"))

    def _set(self, name: str) -> str:
        return str(getattr(self, name) or os.environ.get(f"GCP_{name.upper()}") or "")

    def _key(self) -> str:
        return self.credentials_json.get_secret_value() if self.credentials_json else ""

    def _given(self) -> str:
        return secret(KEY_VARIABLE, self._key())

    def _project(self) -> str:
        """Return the project.

        Raises:
            CredentialsError: none is set.
        """
        named = self.project or os.environ.get("GOOGLE_CLOUD_PROJECT") or project_of(self._given())
        if not named:
            raise CredentialsError(
                "Google Cloud needs a project, none is set.", "Set GOOGLE_CLOUD_PROJECT to its id."
            )
        return quote(named, safe=":")

    def _places(self) -> list[str]:
        texts = [os.environ.get(name, "") for name in ("GCP_ZONES", "GCP_REGIONS")]
        return self.zones or " ".join(texts).replace(",", " ").split()

    def _network(self) -> str:
        name = self._set("network") or "default"
        return name if "/" in name else f"global/networks/{name}"

    def _image(self, gpu_count: int) -> str:
        if gpu_count:
            return self._set("image") or GPU_IMAGE
        return self._set("cpu_image") or CPU_IMAGE

    def _user(self) -> str:
        return self._set("ssh_user") or "trainer"

    def _port(self) -> int:
        return port_of("GCP_SSH_PORT", self.ssh_port)

    def _cidr(self) -> str:
        """Return who may reach our machines; empty: the network's own rules count.

        Raises:
            ConfigError: it is no range of addresses.
        """
        text = self._set("ssh_cidr")
        try:
            return str(ipaddress.ip_network(text)) if text else ""
        except ValueError as error:
            raise ConfigError(
                f"GCP_SSH_CIDR = {text!r}: {error}.", "Write it as in 203.0.113.7/32."
            ) from error

    def _role_of_machines(self) -> str:
        return self._set("service_account")

    def _public(self) -> bool:
        return self.public_ip and not self._by_store()

    def _settings(self, offer: Offer, tag: str, reached: Reached) -> OrderSettings:
        return OrderSettings(
            user=self._user(),
            image=self._image(offer.gpu_count),
            network=self._network(),
            subnetwork=self._set("subnetwork"),
            public=self.public_ip and not reached.mailbox,
            tag=tag,
            service_account=self._set("service_account"),
            reached=reached,
        )

    def _api(self) -> GoogleApi:
        return self._compute().api

    def _computes(self) -> list[Compute]:
        """Return the project that is set, and then those that machines were ordered in before."""
        project = self._project()
        former = places.others(self.label, [project])
        return [self._compute(one) for one in (project, *former)]

    def _compute(self, project: str = "") -> Compute:
        given, project = self._given(), project or self._project()
        api = GoogleApi(
            TITLE,
            self._set("api_url") or URL,
            {},
            self.intervals,
            account=f"{project} {source_of(given)}",
            auth=GoogleToken(given),
        )
        return Compute(api, project)
