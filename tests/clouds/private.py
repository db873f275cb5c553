"""Clouds whose machines nothing connects to: behind each is a process that runs its first script.

They have neither an address nor an sshd, and a bucket beside the cloud is all that both sides see.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.clouds.agents import AgentMachine
from tests.clouds.aws import AwsCloud
from tests.clouds.aws_life import NO_SYSTEMD, config_in
from tests.clouds.azure import AzureCloud
from tests.clouds.gcp import GoogleCloud
from tests.clouds.machines import NO_NETWORK, write_nvidia_smi
from tests.clouds.plain_s3 import PlainS3
from tests.clouds.rented import Rented
from tests.clouds.shutdown import install_shutdown

if TYPE_CHECKING:
    from tests.clouds.cloud import Cloud as Base
else:
    Base = object

BUCKET = "models"
POLL = "0.2 0.05"  # seconds between two looks of an agent
# A machine of the tests is the user's own: its home folder must not be looked for elsewhere.
HOME_ONLY = {"getent": 'echo "$2:x:0:0::$HOME:/bin/sh"', "chown": "exit 0"}


class PrivateMachine(AgentMachine):
    """A virtual machine that runs its first script, and nothing else of ours."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], script: str, gpus: tuple[str, ...]
    ) -> None:
        programs = folder / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        install_shutdown(folder)
        for name, line in {**NO_SYSTEMD, **HOME_ONLY}.items():
            (programs / name).write_text(f"#!/bin/sh\n{line}\n")
            (programs / name).chmod(0o755)
        if gpus:
            write_nvidia_smi(programs / "nvidia-smi", gpus)
        whole = {**NO_NETWORK, **environment, "TRAINING_ORCHESTRATOR_POLL": POLL}
        super().__init__(folder, whole, str(programs))
        self._script = script

    def start(self, command: Any = ()) -> None:
        """Boot it."""
        super().start(command or ["sh", "-c", f"{self._script}\nwait"])


class Private(Base):
    """What such a cloud has besides."""

    runs_first_words = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(folder, port)
        self.s3 = PlainS3(BUCKET)

    def environ(self) -> dict[str, str]:
        """Return the variables that point the product here."""
        capitals = self.name.upper()
        return {
            **self.s3.environ(),
            **super().environ(),
            f"{capitals}_CONNECTION": "store",
            f"{capitals}_MAILBOX": f"s3://{BUCKET}/mailboxes",
        }

    def start(self) -> None:
        """Listen, and serve the bucket."""
        self.s3.__enter__()
        super().start()

    def stop(self) -> None:
        """Stop listening, and kill all machines."""
        super().stop()
        self.s3.__exit__()

    def machine_for(self, rented: Rented) -> Any:
        """Return what is behind an instance."""
        environment = {**self.profile.environment, **self.environment(rented)}
        script, gpus = self.first_words(rented.facts["asked"]), rented.profile.gpus
        return PrivateMachine(self.folder / rented.id, environment, script, gpus)

    def first_words(self, asked: Mapping[str, Any]) -> str:
        """Return what an order says that its machine runs first."""
        raise NotImplementedError


class PrivateAws(Private, AwsCloud):
    """AWS, with subnets behind a NAT gateway."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(folder, port)
        self.s3.key_id, self.s3.secret = self.key_id, self.key
        for region in self.regions.values():
            region.way_out = {"NatGatewayId": "nat-0a1"}

    def first_words(self, asked: Mapping[str, Any]) -> str:
        [card] = asked["NetworkInterfaces"]
        assert card["AssociatePublicIpAddress"] is False
        assert "Groups" not in card
        assert not config_in(asked)["ssh_authorized_keys"]
        return "\n".join(shlex.join(command) for command in config_in(asked)["bootcmd"])


class PrivateGoogle(Private, GoogleCloud):
    """Google Cloud."""

    def first_words(self, asked: Mapping[str, Any]) -> str:
        [face] = asked["networkInterfaces"]
        items = {one["key"]: one["value"] for one in asked["metadata"]["items"]}
        assert "accessConfigs" not in face
        assert "tags" not in asked
        assert "ssh-keys" not in items
        return str(items["startup-script"])


class PrivateAzure(Private, AzureCloud):
    """Azure."""

    def first_words(self, asked: Mapping[str, Any]) -> str:
        [card] = asked["properties"]["networkProfile"]["networkInterfaceConfigurations"]
        [inner] = card["properties"]["ipConfigurations"]
        assert "publicIPAddressConfiguration" not in inner["properties"]
        return base64.b64decode(asked["properties"]["osProfile"]["customData"]).decode()
