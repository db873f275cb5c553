"""An instance of a local cloud, and its life from the order to its end."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.clouds.machines import Profile, SshdMachine
from tests.clouds.machines import free_port as free_port
from tests.clouds.shutdown import install_shutdown

if TYPE_CHECKING:
    from tests.clouds.cloud import Cloud

TICK = 0.05  # seconds between two looks at a switch or a file


@dataclass(kw_only=True)
class Rented:
    """One instance, as the provider's books have it."""

    id: str
    name: str
    offer: str
    """The provider's word for the kind of machine."""
    price_per_hour: float
    status: str
    """The provider's own word."""
    public_keys: Sequence[str]
    profile: Profile
    facts: dict[str, Any] = field(default_factory=dict)
    """Anything else that the subclass keeps about it."""
    key: str = field(default_factory=lambda: secrets.token_hex(16))
    """A key that may do no more than end this very instance."""
    port: int = field(default_factory=free_port)
    """Where it is reached, as the provider says."""
    sshd_port: int = 0
    """Where its sshd listens when something is between; 0: at `port`."""
    address: str = "127.0.0.1"
    created: float = field(default_factory=time.time)
    started: float | None = None
    """When it first said that it runs."""
    ended: float | None = None
    """When it stopped being billed."""
    gone: bool = False
    """Whether the account no longer knows it."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while its machine is started or killed."""


async def live(cloud: Cloud, rented: Rented) -> None:
    """Boot an instance as its cloud is set, and keep an eye on it until it ends."""
    for word, share in cloud.states:
        if rented.ended is not None:
            return
        rented.status = word
        await pass_time(cloud, rented, share * cloud.boot_seconds)
    rented.started = time.time()
    await pass_time(cloud, rented, cloud.sshd_delay)
    if cloud.sshd_never or rented.ended is not None:
        return
    machine = await asyncio.to_thread(cloud.machine_for, rented)
    cloud.machines[rented.id] = machine
    cloud.made.append(machine)
    off = install_shutdown(cloud.folder / rented.id)
    await asyncio.to_thread(_start, rented, machine)
    if cloud.bad_key is not None:
        await pass_time(cloud, rented, cloud.bad_key)
        for key in rented.public_keys if rented.ended is None else ():
            machine.authorize(key)
    while rented.ended is None:
        if off.exists():  # somebody on the machine shut it down
            off.unlink()
            await cloud.power_off(rented)
        elif cloud.crash_loop:
            await asyncio.to_thread(machine.kill)
            await pass_time(cloud, rented, 4 * TICK)
            await asyncio.to_thread(_start, rented, machine)
        await asyncio.sleep(TICK)


def _start(rented: Rented, machine: SshdMachine) -> None:
    """Start sshd, unless the instance ended meanwhile."""
    with rented.lock:
        if rented.ended is None:
            machine.start()


def make_sshd(cloud: Cloud, rented: Rented) -> SshdMachine:
    """Return a machine that is reached over SSH."""
    return SshdMachine(
        cloud.folder / rented.id,
        public_keys=rented.public_keys if cloud.bad_key is None else (),
        profile=Profile(
            gpus=rented.profile.gpus,
            python=cloud.profile.python,
            environment={**cloud.profile.environment, **cloud.environment(rented)},
        ),
        address=rented.address,
        port=rented.sshd_port or rented.port,
    )


async def pass_time(cloud: Cloud, rented: Rented, seconds: float) -> None:
    """Wait, unless the instance ends meanwhile; under `never_boot` time stands still."""
    until = time.monotonic() + seconds
    while rented.ended is None:
        left = until - time.monotonic()
        stuck = cloud.never_boot and rented.started is None
        if left <= 0 and not stuck:
            return
        await asyncio.sleep(TICK if stuck else min(left, TICK))
