"""A file of 1 GiB from a machine over SSH, hashed on the way, against scp and sha256sum.

ours    `SshMachine.download`, a fresh connection each time: the bytes, their SHA-256, and fsync
        before the file is put at its place.
scp     `scp` as it comes, then `sha256sum` of what arrived. It does not sync.
gcm     the same with the cipher that ours prefers: how much of a difference is the cipher's.

The file, the sshd, the key and the disk are the same; content is random, so nothing compresses.
Uploads are told, and not held against a goal: `SshMachine.upload` hashes at both ends and syncs;
`scp` is followed by `sha256sum` on the machine. Every SHA-256 must be right, or this fails.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from common import conclude, fail, median, options, place, spread
from ssh_machine import Remote, finished, remote_machine

GOAL = 1.0
MIB = 1 << 20
CIPHER = ("-c", "aes128-gcm@openssh.com")


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", mebibytes=1024)
    mebibytes = 64 if given.quick else given.mebibytes
    with place() as here, remote_machine(here) as remote:
        there, arrived = remote.home / "there", here.folder / "arrived"
        digest = random_file(there, mebibytes)
        arms: dict[str, Callable[[], str]] = {
            "ours down": lambda: asyncio.run(downloaded(remote, there, arrived)),
            "scp down": lambda: copied_here(remote, there, arrived),
            "gcm down": lambda: copied_here(remote, there, arrived, *CIPHER),
            "ours up": lambda: asyncio.run(uploaded(remote, there, arrived)),
            "scp up": lambda: copied_there(remote, there, arrived),
        }
        spent: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(given.rounds):
            # Every other round backwards, so that none is always the one after a busy disk.
            for name in list(arms)[:: 1 if number % 2 == 0 else -1]:
                os.sync()
                began = time.monotonic()
                if arms[name]() != digest:
                    fail(f"{name}: another SHA-256 than that of the file")
                spent[name].append(time.monotonic() - began)
                arrived.unlink()
                rate = mebibytes / spent[name][-1]
                print(f"round {number + 1}: {name:9} {rate:7.1f} MiB/s", flush=True)
    for name, seconds in spent.items():
        print(f"{name:9} {spread([mebibytes / s for s in seconds], 'MiB/s')}")
    print(f"upload against scp: {median(spent['scp up']) / median(spent['ours up']):.2f}")
    ratio = median(spent["scp down"]) / median(spent["ours down"])
    conclude("remote_download_speed", ratio, ">=", GOAL)


def random_file(path: Path, mebibytes: int) -> str:
    """Write a file of random bytes and return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for _ in range(mebibytes):
            block = os.urandom(MIB)
            digest.update(block)
            stream.write(block)
    return digest.hexdigest()


async def downloaded(remote: Remote, source: Path, target: Path) -> str:
    """Fetch by the product and return the SHA-256 that it found."""
    async with remote.connect() as machine:
        return (await machine.download(str(source), target)).sha256


async def uploaded(remote: Remote, source: Path, target: Path) -> str:
    """Send by the product and return the SHA-256 that both ends found."""
    async with remote.connect() as machine:
        return (await machine.upload(source, str(target))).sha256


def copied_here(remote: Remote, source: Path, target: Path, *settings: str) -> str:
    """Fetch by scp, then hash."""
    finished(remote.scp(f":{source}", target, *settings))
    return finished(["sha256sum", str(target)]).split()[0]


def copied_there(remote: Remote, source: Path, target: Path) -> str:
    """Send by scp, then hash on the machine."""
    finished(remote.scp(source, f":{target}"))
    return finished(remote.ssh(f"sha256sum {target}")).split()[0]


if __name__ == "__main__":
    main()
