"""Bring a parcel to a machine, once.

    {data}/<key>/<name>                    a file or a folder, complete
    {data}/.<key>-<installation>-<slot>/   one on its way, continued after an interruption

The key is a hash of the content, so what is there need not be sent again, whichever job sent it.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from blocks.home import home, private_folder
from blocks.machines.base import Machine
from blocks.machines.transfer import PART
from blocks.marks import installation_id
from blocks.task_scope import TaskScope, all_of
from blocks.workplaces.base import FileFacts, Log, Parcel, SourceChanged
from blocks.workplaces.pythons import unwritable
from trainer.contract.errors import IntegrityError, OrchestratorError
from trainer.contract.files import sha256_of

PARALLEL = 4  # files uploaded at once: many small ones would wait for a round trip each
BIG = 64 << 20  # bytes; the progress of a bigger file is logged
REPORT_SECONDS = 10.0  # between two lines about one file
HASH_SECONDS = 1800.0  # for the machine to hash what an earlier attempt brought
MB = 1e6

HASHES = r"""cd "$1" 2>/dev/null && find . -type f ! -name '*.part' -exec sha256sum -- {} +"""
# Another job may bring the same content at the same time. Whichever `mv` comes first wins, and the
# other finds the same bytes in place; -T, or its folder would be moved into the first one's.
PUT_IN_PLACE = r"""
mkdir -p -- "${2%/*}" || exit
[ -e "$2" ] || mv -T -- "$1" "$2" || [ -e "$2" ] || exit
rm -rf -- "${1%/*}"
"""

# Whatever an earlier attempt had put together gives way to what is whole.
TAKE_OVER = r"""
mkdir -p -- "${2%/*}" && rm -rf -- "$2" && mv -T -- "$1" "$2" && rm -rf -- "${1%/*}"
"""


async def deliver(machine: Machine, data: str, parcel: Parcel, log: Log) -> str:
    """Return the place of a parcel on a machine, after bringing there what is not there yet.

    Args:
        machine: where it goes.
        data: absolute path of the folder there that holds what was brought.
        parcel: what is brought.
        log: takes lines about the progress.

    Raises:
        SourceChanged: a file changed here meanwhile.
        DiskFull: there is no room on the machine.
        IntegrityError: a file arrived with other content than it has here.
        ConnectionLost: the machine cannot be reached; what arrived is kept.
    """
    return await _Shipment(machine, data, parcel, log).deliver()


class _Shipment:
    """One file or folder on its way to a machine."""

    def __init__(self, machine: Machine, data: str, parcel: Parcel, log: Log) -> None:
        self.machine = machine
        self.parcel = parcel
        self.log = log
        self.data = data
        self.place = f"{data}/{parcel.key}/{parcel.name}"

    async def deliver(self) -> str:
        """Return the place on the machine, after bringing there what is not there yet."""
        parcel = self.parcel
        what = f"{parcel.field} {parcel.path}"
        # Under its own name it is complete: it is moved there only after its last byte.
        if parcel.name in await self.machine.listing(f"{self.data}/{parcel.key}"):
            self.log(f"{what} is on the machine already")
            return self.place
        size = sum(fact.bytes for fact in parcel.facts.values())
        self.log(f"uploading {what}: {len(parcel.facts)} files, {size / MB:.1f} MB")
        begun = time.monotonic()
        with _slot(parcel.key) as slot:
            staging = f"{self.data}/.{parcel.key}-{installation_id()}-{slot}"
            if parcel.carry and (folder := await parcel.carry()):
                await self._move(f"{folder}/{parcel.name}", f"{staging}/{parcel.name}")
            await self._upload_all(staging)
            await self._put_in_place(f"{staging}/{parcel.name}")
        seconds = time.monotonic() - begun
        self.log(f"uploaded in {seconds:.1f} s, {size / MB / seconds:.1f} MB/s")
        return self.place

    async def _upload_all(self, staging: str) -> None:
        there = await self._hashes_in(staging)
        # One iterator for all workers: each takes the next file, and none is taken twice.
        waiting = iter(self.parcel.facts)

        async def work() -> None:
            for name in waiting:
                remote = f"{self.parcel.name}/{name}".rstrip("/")
                if there.get(remote) != self.parcel.facts[name].sha256:
                    await self._upload(name, f"{staging}/{remote}")

        await all_of(work() for _ in range(PARALLEL))

    async def _hashes_in(self, staging: str) -> dict[str, str]:
        """Return the SHA-256 of what an earlier attempt brought, by name."""
        command = ["sh", "-c", HASHES, "sh", staging]
        try:
            result = await self.machine.run(command, timeout=HASH_SECONDS)
        except TimeoutError:  # to send it again is slower than to hash it, and ends all the same
            return {}
        pairs = (line.split("  ./", 1) for line in result.stdout.splitlines())
        return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}

    async def _upload(self, name: str, remote: str) -> None:
        local, expected = self.parcel.files[name], self.parcel.facts[name]
        try:
            async with _progress(self.machine, remote, expected.bytes, self.log):
                transfer = await self.machine.upload(local, remote)
        except (FileNotFoundError, IntegrityError) as error:
            if await asyncio.to_thread(_is_as_noted, local, expected):
                raise  # the file is as it was, so the transfer is at fault
            raise SourceChanged.of(self.parcel, name) from error
        # The noted hash was of an older content: what arrived must not stay under that key.
        if transfer.sha256 != expected.sha256:
            await self.machine.run(["rm", "-f", "--", remote])
            raise SourceChanged.of(self.parcel, name)

    async def _move(self, fetched: str, staged: str) -> None:
        """Put what the machine has fetched itself where it is put together; else it is uploaded."""
        result = await self.machine.run(["sh", "-c", TAKE_OVER, "sh", fetched, staged])
        if result.exit_code:
            self.log(f"{fetched} is not used: {result.stderr.strip()}")

    async def _put_in_place(self, staged: str) -> None:
        result = await self.machine.run(["sh", "-c", PUT_IN_PLACE, "sh", staged, self.place])
        if result.exit_code:
            raise unwritable(self.place, result.stderr.strip().rpartition("\n")[2])


def _is_as_noted(path: Path, facts: FileFacts) -> bool:
    try:
        return sha256_of(path) == facts.sha256
    except OSError:
        return False


@contextmanager
def _slot(key: str) -> Iterator[int]:
    """Hold a number that no other upload of the same content has while this one runs.

    Two that write to one place would spoil it. After a crash the same number is free again, so
    that the next attempt goes on where this one stopped.
    """
    folder = private_folder(home() / "uploads")
    for slot in itertools.count():
        descriptor = os.open(folder / f"{key}-{slot}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield slot
            return
        finally:
            os.close(descriptor)


@asynccontextmanager
async def _progress(machine: Machine, remote: str, size: int, log: Log) -> AsyncIterator[None]:
    """Log how much of a big file has arrived, every few seconds."""
    if size < BIG:
        yield
        return
    async with TaskScope() as scope:
        scope.start(_tell(machine, remote, size, log))
        yield


async def _tell(machine: Machine, remote: str, size: int, log: Log) -> None:
    name = remote.rpartition("/")[2]
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        with suppress(OrchestratorError):  # the upload itself meets the same trouble, and says so
            result = await machine.run(["stat", "-c", "%s", "--", remote + PART])
            if result.exit_code == 0:
                log(f"{name}: {int(result.stdout) / MB:.0f} of {size / MB:.0f} MB")
