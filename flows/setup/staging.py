"""Bring what a job names in an object store to this computer, once; from here it goes on as any file.

    staged/<key>/<name>     a file or a folder, complete
    staged/.<key>/          one on its way, continued after an interruption
    staged/.<key>.lock      held by who fetches it; another one waits

The key changes with the address and with the version of any object, so what changed is fetched anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from threading import Event
from typing import Any
from uuid import uuid4

from blocks.home import home, private_folder
from blocks.stores.bucket import Bucket, Entry
from blocks.stores.opening import open_bucket
from blocks.task_scope import all_of
from blocks.threads import in_thread
from flows.locks import locked
from flows.logger import logger
from trainer.config import TrainingConfig, TrainingJob
from trainer.config.store_urls import StoreUrl, is_store_url, parse_store_url
from trainer.contract.errors import ConfigError, HomeDiskFull, StoreAway
from trainer.contract.files import fsync_directory, read_json, replace_json
from trainer.contract.manifest import MANIFEST, MAX_FILES, check_name

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
        bucket, files = await found_at(field, url)
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
    # Jobs that are started together often name the same.
    async with locked(place / f".{key}.lock"):
        if not target.exists():
            await _fetch_all(field, address, bucket, files, place / f".{key}" / name, say)
            # What was read may be newer than what the key was made of, and of two versions.
            if _key_of(address, (await found_at(field, url))[1]) != key:
                shutil.rmtree(place / f".{key}", ignore_errors=True)
                raise StoreAway(f"{address} changed while it was fetched.")
            # Under its own name it is complete.
            target.parent.mkdir(exist_ok=True)
            (place / f".{key}" / name).rename(target)
            fsync_directory(target.parent)
            shutil.rmtree(place / f".{key}", ignore_errors=True)
    return target


async def _fetch_all(
    field: str, address: str, bucket: Bucket, files: dict[str, Entry], arriving: Path, say: Say
) -> None:
    place = arriving.parent.parent
    size = sum(entry.bytes for entry in files.values())
    if size > shutil.disk_usage(place).free - SPARE:
        raise HomeDiskFull(f"{field}: {address} has {size} bytes, and {place} has no room for it.")
    say(f"fetching {field} {address}: {len(files)} files, {size / 1e6:.1f} MB")
    waiting = iter(files.items())

    async def some() -> None:
        for inner, entry in waiting:
            # Beside the folder, so that none that was broken off becomes a part of it; and under a
            # name of its own, for a thread that was left to itself may write a little more.
            part = arriving.parent / f"{uuid4().hex}{PART}"
            await _fetch(bucket, entry, arriving / inner if inner else arriving, part)

    await all_of(some() for _ in range(PARALLEL))


async def found_at(field: str, url: StoreUrl) -> tuple[Bucket, dict[str, Entry]]:
    """Return the bucket and the objects at an address, by their names; that of a single one is empty.

    Raises:
        ConfigError: there is nothing, or its store cannot be opened.
        StoreError: the store refuses, or cannot be reached.
    """
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
    for name in found.keys() - {MANIFEST}:  # which an artifact of ours has
        check_name(name)
    if len(found) > MAX_FILES:
        raise ConfigError(
            f"{field} = '{url}': there are {len(found)} objects below it, and {MAX_FILES} is the most.",
            "Name the folder that holds the files alone.",
        )
    # Nor those of the folders in it, which are empty.
    folders = {str(parent) for name in found for parent in PurePosixPath(name).parents}
    found = {name: entry for name, entry in found.items() if name not in folders or entry.bytes}
    if both := folders & found.keys():
        raise ConfigError(
            f"{field} = '{url}': {min(both)!r} is an object, and there are others below it.",
            "No folder can hold both: rename one of them.",
        )
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


async def _fetch(bucket: Bucket, entry: Entry, target: Path, part: Path) -> None:
    if target.exists():  # noqa: ASYNC240 - a moment
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    await in_thread(lambda stop: _receive(bucket, entry, target, part, stop))


def _receive(bucket: Bucket, entry: Entry, target: Path, part: Path, stop: Event) -> None:
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
