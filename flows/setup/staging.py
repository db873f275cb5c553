"""Bring what a job names in an object store to this computer, once; from here it goes on as any file.

    staged/<key>/<name>     a file or a folder, complete
    staged/.<key>/          one on its way, continued after an interruption

The key changes with the address and with the version of any object, so what changed is fetched anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from blocks.home import home, private_folder
from blocks.stores.bucket import Bucket, Entry
from blocks.stores.opening import open_bucket
from blocks.task_scope import all_of
from blocks.threads import in_thread
from flows.logger import logger
from trainer.config import TrainingConfig, TrainingJob
from trainer.config.store_urls import StoreUrl, is_store_url, parse_store_url
from trainer.contract.errors import ConfigError, HomeDiskFull, StoreAway
from trainer.contract.files import fsync_directory, read_json, replace_json
from trainer.contract.manifest import check_name

PARALLEL = 4  # files at once
KEY_DIGITS = 16  # hexadecimal
SPARE = 256 << 20  # bytes that stay free on our disk
PART = ".part"
Say = Callable[[str], None]


async def staged(config: TrainingConfig, say: Say | None = None) -> TrainingConfig:
    """Return a training's config with what lies in object stores on this computer.

    Args:
        config: as the job file gives it.
        say: called with what takes a while, before it does.

    Raises:
        ConfigError: there is nothing at an address, or its store cannot be opened.
        StoreError: a store refuses, or cannot be reached.
        HomeDiskFull: it does not fit here.
    """
    places: dict[str, str] = {}
    named = [("model", config.model)]
    named += [(f"dataset.{field}", path) for field, path in config.dataset.files()]
    for field, address in named:
        if is_store_url(address) and address not in places:
            found = await _fetched(f"training.{field}", address, say or logger().info)
            places[address] = str(found)
    if not places:
        return config
    return config.model_copy(
        update={
            "model": places.get(config.model, config.model),
            "dataset": config.dataset.with_files(lambda _, path: places.get(path, path)),
        }
    )


def staged_job(job: TrainingJob, say: Say | None = None) -> TrainingJob:
    """Return a job with what lies in object stores on this computer; see `staged`. It blocks."""
    if not any(is_store_url(address) for address in _addresses(job.training)):
        return job
    return job.model_copy(update={"training": asyncio.run(staged(job.training, say))})


def _addresses(config: TrainingConfig) -> list[str]:
    return [config.model, *(path for _, path in config.dataset.files())]


async def _fetched(field: str, address: str, say: Say) -> Path:
    """Return where a file or folder of a store is on this computer, after fetching what is not."""
    try:
        url = parse_store_url(address)
    except ValueError as error:
        raise ConfigError(f"{field} = {error}.") from None
    place = private_folder(home() / "staged")
    name = url.path.rpartition("/")[2] or url.bucket
    noted = place / f"{hashlib.sha256(address.encode()).hexdigest()[:KEY_DIGITS]}.json"
    try:
        bucket, files = await _found(field, url)
    except StoreAway as error:
        # A machine that is paid for does not wait for what was fetched before it was hired.
        known = place / str((read_json(noted) or {}).get("key")) / name
        if not known.exists():
            raise
        logger().warning("%s is taken as it was fetched before: %s", address, error)
        return known
    key = _key_of(address, files)
    target = place / key / name
    replace_json(noted, {"address": address, "key": key}, durable=False)
    if target.exists():
        return target
    size = sum(entry.bytes for entry in files.values())
    if size > shutil.disk_usage(place).free - SPARE:
        raise HomeDiskFull(f"{field}: {address} has {size} bytes, and {place} has no room for it.")
    say(f"fetching {field} {address}: {len(files)} files, {size / 1e6:.1f} MB")
    arriving = place / f".{key}" / name
    waiting = iter(files.items())

    async def some() -> None:
        for inner, entry in waiting:
            await _fetch(bucket, entry, arriving / inner if inner else arriving)

    await all_of(some() for _ in range(PARALLEL))
    target.parent.mkdir(exist_ok=True)
    # Under its own name it is complete; of two that fetch the same, one puts it there.
    if not target.exists():
        arriving.rename(target)
        fsync_directory(target.parent)
    shutil.rmtree(arriving.parent, ignore_errors=True)
    return target


async def _found(field: str, url: StoreUrl) -> tuple[Bucket, dict[str, Entry]]:
    """Return the bucket and the objects at an address, by their names; that of a single one is empty."""
    above, _, last = url.path.rpartition("/")
    bucket = await open_bucket(str(StoreUrl(url.scheme, url.bucket, above)), field=field)
    if last and (entry := await bucket.head(last)):
        return bucket, {"": entry}
    prefix = f"{last}/" if last else ""
    found = {
        entry.key.removeprefix(prefix): entry
        for entry in await bucket.entries(last)
        if entry.key.startswith(prefix)  # but not the object that consoles make for a folder
    }
    for name in found:
        check_name(name)
    if found:
        return bucket, found
    raise ConfigError(
        f"{field} = '{url}': there is no such object, and none below it.",
        "Correct the address, or put the files there.",
    )


def _key_of(address: str, files: dict[str, Entry]) -> str:
    lines: Sequence[Any] = sorted((name, e.bytes, e.version) for name, e in files.items())
    text = "\n".join([address, *map(repr, lines)])
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


async def _fetch(bucket: Bucket, entry: Entry, target: Path) -> None:
    if target.exists():  # noqa: ASYNC240 - a moment
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    await in_thread(lambda stop: _receive(bucket, entry, target, stop))


def _receive(bucket: Bucket, entry: Entry, target: Path, stop: Event) -> None:
    # By process: two that fetch the same must not write to one file.
    part = target.with_name(f"{target.name}.{os.getpid()}{PART}")
    with part.open("wb") as stream:

        def keep(piece: Any) -> None:
            stream.write(piece)

        bucket.read_into(entry.key, keep, stop)
        stream.flush()
        os.fsync(stream.fileno())
    if stop.is_set():
        return
    if part.stat().st_size != entry.bytes:
        raise StoreAway(f"{bucket.url.inside(entry.key)} changed while it was fetched.")
    part.replace(target)
