"""Which account of AWS, and how machines are ordered there: by a saved block or the environment."""

from __future__ import annotations

import asyncio
import os
from abc import ABC
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from blocks.providers.aws.client import INTERVALS, Aws
from blocks.providers.aws.network import Network
from blocks.providers.boto import Amazon
from blocks.providers.by_store import ByStore
from blocks.providers.cloud import port_of, switched_on
from trainer.contract.errors import ConfigError


class AwsAccount(ByStore, ABC):
    """The settings of the provider aws; those left empty come from the environment."""

    set_up_by: ClassVar[str] = "AWS_PROVIDER"
    store_scheme: ClassVar[str] = "s3"
    role_variable: ClassVar[str] = "AWS_INSTANCE_PROFILE"
    intervals: ClassVar[Mapping[str, float]] = INTERVALS

    profile: str | None = Field(
        default=None, description="Of ~/.aws/config. Empty: by the environment."
    )
    regions: list[str] = Field(
        default_factory=list, description="Empty: AWS_REGIONS, or AWS_REGION, or the profile's."
    )
    image: str | None = Field(
        default=None,
        description="AMI, SSM parameter, or pattern of names. Empty: AWS_IMAGE, or NVIDIA's on Ubuntu.",
    )
    instance_profile: str | None = Field(
        default=None, description="Name or ARN, for what the machine itself may do."
    )
    vpc: str | None = Field(default=None, description="Id or name. Empty: AWS_VPC, or the default.")
    subnet: str | None = Field(default=None, description="Id. Empty: AWS_SUBNET, or any that fits.")
    security_group: str | None = Field(
        default=None, description="Id. Empty: AWS_SECURITY_GROUP, or one of our own."
    )
    ssh_cidr: str | None = Field(
        default=None, description="From where SSH is let in. Empty: AWS_SSH_CIDR."
    )
    ssh_user: str | None = Field(
        default=None, description="Whom to log in as. Empty: AWS_SSH_USER, or ubuntu."
    )
    ssh_port: int | None = Field(
        default=None, description="Port of sshd. Empty: AWS_SSH_PORT, or 22."
    )

    def is_configured(self) -> bool:
        """Whether AWS was chosen on purpose: credentials for it lie about on many computers."""
        return bool(self._block_document_name) or switched_on(self.set_up_by)

    def _role_of_machines(self) -> str:
        return self._setting("instance_profile", "AWS_INSTANCE_PROFILE")

    def _in(self, region: str) -> Aws:
        return Aws(region, self._setting("profile", ""), self.intervals)

    def _setting(self, field: str, variable: str, otherwise: str = "") -> str:
        given = getattr(self, field)
        return str(given or os.environ.get(variable, "")).strip() or otherwise

    def _port(self) -> int:
        return port_of("AWS_SSH_PORT", self.ssh_port)

    def _network(self) -> Network:
        return Network(
            port=self._port(),
            vpc=self._setting("vpc", "AWS_VPC"),
            subnet=self._setting("subnet", "AWS_SUBNET"),
            group=self._setting("security_group", "AWS_SECURITY_GROUP"),
            cidr=self._setting("ssh_cidr", "AWS_SSH_CIDR"),
            private=self._by_store(),
        )

    async def _regions(self) -> list[str]:
        """Return the regions that are used, the first choice first.

        Raises:
            ConfigError: none is set.
        """
        listed = self.regions or os.environ.get("AWS_REGIONS", "").replace(",", " ").split()
        if not listed:
            amazon = Amazon(provider="aws", profile=self._setting("profile", ""))
            listed = [await asyncio.to_thread(amazon.known_region)]
        regions = list(dict.fromkeys(region.strip() for region in listed if region.strip()))
        if not regions:
            raise ConfigError(
                "provider aws needs a region, and none is set.",
                "Set AWS_REGION, or AWS_REGIONS to several: AWS_REGIONS=us-east-1,us-west-2.",
            )
        return regions
