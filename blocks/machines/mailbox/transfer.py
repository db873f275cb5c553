"""Files through a mailbox: piece by piece, several on their way at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from blocks.machines.base import Transfer
from blocks.machines.mailbox.post import Post
from blocks.machines.transfer import Part, check_limit, disk_full
from blocks.threads import in_thread
from trainer.contract.errors import DependencyError, DiskFull, IntegrityError, OrchestratorError

PIECE = 4 << 20  # bytes of a file in one object
SMALL = 256 << 10  # bytes; what is smaller goes as one
AT_ONCE = 4  # pieces on their way
SECONDS = 60.0  # for one piece, or anything else that is small
HASH_RATE = 20e6  # bytes a second that even a busy disk reads


def checked(answer: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Return an answer that reports no failure.

    Raises:
        FileNotFoundError: there is no such file.
        DependencyError: the program cannot be started.
        DiskFull: the machine has no room.
        OrchestratorError: the machine refused.
    """
    kind, why = answer.get("error"), str(answer.get("why"))
    if kind is None:
        return answer
    if kind == "missing":
        raise FileNotFoundError(path)
    if kind == "dependency":
        raise DependencyError(why)
    if kind == "full":
        raise DiskFull(f"{path} does not fit on the machine's disk.")
    raise OrchestratorError(f"{path}: the machine refused: {why}.")


async def upload(post: Post, local: Path, remote: str) -> Transfer:
    """Put a file on the machine; see `Machine.upload`."""
    size = (await asyncio.to_thread(local.stat)).st_size
    if size <= SMALL:
        content = await asyncio.to_thread(local.read_bytes)
        wanted = {"do": "put", "path": remote}
        answer, _ = await post.ask(wanted, content, seconds=SECONDS)
        return Transfer(bytes=len(content), sha256=checked(answer, remote)["sha256"])
    answer, _ = await post.ask({"do": "part", "path": remote, "size": size}, seconds=SECONDS)
    there, free = checked(answer, remote)["size"], answer["free"]
    if size - there > free:
        raise disk_full(remote, size, free)
    await _send(post, local, remote, there)
    seconds = SECONDS + size / HASH_RATE
    answer, _ = await post.ask({"do": "finish", "path": remote}, seconds=seconds)
    arrived = checked(answer, remote)
    return Transfer(bytes=arrived["size"], sha256=arrived["sha256"], resumed=there)


async def _send(post: Post, local: Path, remote: str, offset: int) -> None:
    waiting: deque[int] = deque()
    while True:
        piece = await asyncio.to_thread(_piece, local, offset)
        while waiting and (len(waiting) >= AT_ONCE or not piece):
            answer, _ = await post.answer(waiting.popleft(), SECONDS)
            checked(answer, remote)
        if not piece:
            return
        waiting.append(await post.send({"do": "write", "path": remote, "offset": offset}, piece))
        offset += len(piece)


async def download(post: Post, remote: str, local: Path, limit: int | None) -> Transfer:
    """Fetch a file; see `Machine.download`."""
    answer, _ = await post.ask({"do": "size", "path": remote}, seconds=SECONDS)
    size = int(checked(answer, remote)["size"])
    check_limit(remote, size, limit)
    part = Part(local)
    with part.filling(size):
        await in_thread(lambda stop: part.open(size, stop))
        pieces: deque[asyncio.Task[bytes]] = deque()
        asked = part.size
        try:
            while part.size < size:
                while asked < size and len(pieces) < AT_ONCE:
                    pieces.append(asyncio.create_task(_fetch(post, remote, asked, size)))
                    asked += PIECE
                piece = await pieces.popleft()
                await in_thread(partial(_append, part, piece))
        finally:
            for task in pieces:
                task.cancel()
            await asyncio.gather(*pieces, return_exceptions=True)
        return await in_thread(lambda _: part.finish())


def _append(part: Part, piece: bytes, _: object) -> None:
    part.append(piece)


async def _fetch(post: Post, remote: str, offset: int, size: int) -> bytes:
    """Return one piece.

    Raises:
        IntegrityError: it is not there any more.
    """
    wanted = {"do": "read", "path": remote, "offset": offset, "length": PIECE, "wait": 0}
    answer, piece = await post.ask(wanted, seconds=SECONDS)
    checked(answer, remote)
    if len(piece) < min(PIECE, size - offset):
        raise IntegrityError(f"{remote} became shorter while it was fetched.")
    return piece[: size - offset]


def _piece(local: Path, offset: int) -> bytes:
    with local.open("rb") as stream:
        stream.seek(offset)
        return stream.read(PIECE)
