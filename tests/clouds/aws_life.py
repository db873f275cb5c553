"""The life of a machine at the local AWS: its first boot, its metadata, its end and what that leaves."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.clouds.machines import SYSTEM_PATH, with_variable
from tests.clouds.rented import TICK, Rented
from tests.clouds.shutdown import install_shutdown

if TYPE_CHECKING:
    from tests.clouds.cloud import Cloud as Base
else:
    Base = object

TOKEN = "AQAEAmetadata"  # noqa: S105 - no secret
ROLES = "iam/security-credentials/"
FIRST_BOOT = "TEST_FIRST_BOOT"
NO_SYSTEMD = {"systemctl": "exit 1", "systemd-run": "exit 1"}
"""A machine of the tests must not reach the services of this computer."""


class Life(Base):
    """What happens to machines by themselves."""

    shutting_seconds: float
    stale_seconds: float
    volumes: dict[str, dict[str, Any]]
    spot_requests: dict[str, dict[str, Any]]
    url: str
    key_id: str

    def environment(self, rented: Rented) -> Mapping[str, str]:
        """Return where a machine finds its own metadata."""
        return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{self.url}/imds/{rented.id}"}

    def keys_in(self, asked: Mapping[str, Any]) -> list[str]:
        """Return who may log in, by the user data."""
        return list(config_in(asked).get("ssh_authorized_keys", ()))

    def boot(self, rented: Rented) -> None:
        super().boot(rented)
        task = asyncio.get_running_loop().create_task(self._first_boot(rented))
        self._boots.add(task)
        task.add_done_callback(self._booted)

    async def _first_boot(self, rented: Rented) -> None:
        """Run what the user data says, and watch for an end from within where no sshd comes up."""
        while rented.started is None and rented.ended is None:
            await asyncio.sleep(TICK)
        commands = config_in(rented.facts["asked"]).get("bootcmd", ())
        if self.runs_first_words and not self.sshd_never:
            return
        if rented.ended is not None or not any("sleep" in " ".join(c) for c in commands):
            return
        folder = self.folder / rented.id
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        off = install_shutdown(folder)
        for name, line in NO_SYSTEMD.items():
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / "bin" / name).chmod(0o755)
        (folder / "home").mkdir(exist_ok=True)
        environment = {
            "PATH": f"{folder / 'bin'}:{SYSTEM_PATH}",
            "HOME": str(folder / "home"),
            FIRST_BOOT: rented.id,
        }
        for command in commands:
            await asyncio.to_thread(
                subprocess.run, command, env=environment, stdin=subprocess.DEVNULL, check=False
            )
        while rented.ended is None:
            if rented.id not in self.machines and off.exists():
                await self.power_off(rented)
            await asyncio.sleep(TICK)

    def _end(self, rented: Rented) -> None:
        super()._end(rented)
        for pid in with_variable(f"{FIRST_BOOT}={rented.id}".encode()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def power_off(self, rented: Rented) -> None:
        """Stop or terminate, as the order said: the default is to stop, and then its disk is billed."""
        behaviour = rented.facts["asked"].get("InstanceInitiatedShutdownBehavior", "stop")
        if behaviour == "terminate":
            await self.to_end(rented, "terminated", "Client.InstanceInitiatedShutdown")
            return
        if machine := self.machines.pop(rented.id, None):
            await asyncio.to_thread(machine.kill)
        rented.status = "stopped"

    def announce(self, id: str) -> None:
        """Say on the machine that it will be taken back."""
        self.account[id].facts["notice"] = time.time() + 120

    def preempt(self, id: str) -> None:
        """Take an instance back; it is shutting down for a while, and then it is gone."""
        rented = self.account[id]
        rented.facts["gone_at"] = time.time() + self.shutting_seconds
        rented.facts["reason"] = "Server.SpotInstanceTermination"
        rented.status = "shutting-down"
        self._end(rented)
        self._tidy(rented)

    async def to_end(self, rented: Rented, state: str, reason: str) -> None:
        """End an instance with all that goes with it."""
        rented.facts["changed"] = (
            time.time() + self.stale_seconds,
            rented.status.partition(" ")[0],
        )
        rented.facts["reason"] = rented.facts["reason"] or reason
        self._tidy(rented)
        await self.end(rented, state)
        rented.facts["ended_at"] = time.time()

    def _tidy(self, rented: Rented) -> None:
        id = rented.id.rpartition("/")[2]
        for volume_id, volume in list(self.volumes.items()):
            if volume["instance"] == id and not volume["stays"]:
                del self.volumes[volume_id]
        if request := self.spot_requests.get(rented.facts["request"]):
            request["State"] = "closed"

    def forget_old(self) -> None:
        """Let what was taken back be gone, and what is gone vanish after an hour."""
        for rented in self.all:
            facts = rented.facts
            if rented.status == "shutting-down" and time.time() >= facts.get("gone_at", 0.0):
                rented.status = "terminated"
                facts["ended_at"] = time.time()
            if rented.status == "terminated" and time.time() > facts.get("ended_at", 0.0) + 3600:
                rented.gone = True

    # What a machine asks about itself ---------------------------------------------------------

    async def _imds_token(self, request: Request) -> Response:
        if not request.headers.get("x-aws-ec2-metadata-token-ttl-seconds"):
            return Response(status_code=400)
        return Response(TOKEN)

    async def _imds(self, request: Request) -> Response:
        if request.headers.get("x-aws-ec2-metadata-token") != TOKEN:
            return Response(status_code=401)
        asked = request.path_params
        rented = self.account.get(f"{asked['region']}/{asked['id']}")
        if asked["path"].startswith(ROLES) and rented:
            return self._role(rented, asked["path"].removeprefix(ROLES))
        if asked["path"] != "spot/instance-action" or rented is None:
            return Response(status_code=404)
        at = rented.facts.get("notice")
        if at is None:
            return Response(status_code=404)
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
        return JSONResponse({"action": "terminate", "time": moment})

    def _role(self, rented: Rented, name: str) -> Response:
        """Return the name of a machine's role, or its keys; there are those of the account only."""
        profile = rented.facts["asked"].get("IamInstanceProfile", {}).get("Name")
        if not profile or name not in {"", profile}:
            return Response(status_code=404)
        keys = {"AccessKeyId": self.key_id, "SecretAccessKey": self.key, "Token": "session"}
        return JSONResponse(keys) if name else Response(profile)


def config_in(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an order has for cloud-init."""
    text = base64.b64decode(asked.get("UserData", "")).decode()
    return yaml.safe_load(text) if text.startswith("#cloud-config") else {}
