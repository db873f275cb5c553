"""What a job reads from a store gets to its machine straight from there, where the machine can do it.

It is on this computer too, which has read its rows and knows its hashes: by these the machine compares
what it fetches, and what is anything else is uploaded from here.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from blocks.stores.store import Store
from blocks.workplaces.base import Carry, Parcel, Workplace
from flows.logger import logger
from flows.setup.shipping import CarryOf
from flows.setup.staging import found_at
from flows.streaming.carrying import carried
from trainer.config import TrainingConfig
from trainer.config.store_urls import is_store_url, parse_store_url
from trainer.contract.errors import ConfigError, IntegrityError, StoreError

FETCHED = "fetched"  # the folder in the job directory for what has not got to its place yet
WORTH_BYTES = 16 << 20  # less is uploaded before a courier has started


def straight(
    asked: TrainingConfig, here: TrainingConfig, workplace: Workplace, python: str
) -> CarryOf:
    """Return how the parcels of a job get to its machine from the stores that it names.

    Args:
        asked: as the job file gives it, with addresses.
        here: the same, with what lies there on this computer.
        workplace: where it is fetched to.
        python: the one there that has the trainer.
    """
    named = [(asked.model, here.model)]
    pairs = zip(asked.dataset.files(), here.dataset.files(), strict=True)
    named += [(address, path) for (_, address), (_, path) in pairs]
    given_up: list[str] = [] if workplace.carries and python else ["it cannot"]
    addresses = {Path(path): address for address, path in named if is_store_url(address)}

    def carry_of(parcel: Parcel) -> Carry | None:
        address = addresses.get(parcel.path)
        size = sum(facts.bytes for facts in parcel.facts.values())
        # Where it could not fetch one thing, another one would only cost time.
        if given_up or address is None or size < WORTH_BYTES:
            return None
        return partial(_fetched, parcel, address, workplace, python, given_up)

    return carry_of


async def _fetched(
    parcel: Parcel, address: str, workplace: Workplace, python: str, given_up: list[str]
) -> str:
    """Let the machine fetch a parcel; return the folder there, or nothing where it could not.

    Args:
        parcel: what.
        address: of it in its store.
        workplace: where it is fetched to.
        python: the one there that has the trainer.
        given_up: gets the address, if it could not.

    Raises:
        DiskFull: the machine has no room for it.
        ConnectionLost: the machine cannot be reached.
    """
    folder = f"{FETCHED}/{parcel.key}"
    try:
        bucket, entries = await found_at(parcel.field, parse_store_url(address))
        if not bucket.can_sign:
            return ""
        files: dict[str, dict[str, Any]] = {}
        for name, path in parcel.files.items():
            inner = "" if path == parcel.path else path.relative_to(parcel.path).as_posix()
            facts, entry = parcel.facts[name], entries.get(inner)
            # What was added here, or is another one there by now, is uploaded.
            if entry and entry.bytes == facts.bytes:
                known = {"bytes": facts.bytes, "sha256": facts.sha256, "key": entry.key}
                files[f"{parcel.name}/{name}".rstrip("/")] = known
        size = sum(int(facts["bytes"]) for facts in files.values())
        logger().info("the machine fetches %.1f MB of %s by itself", size / 1e6, address)
        await carried(Store(bucket), workplace, python, "get", folder, files)
    except (StoreError, IntegrityError, ConfigError, FileNotFoundError) as error:
        logger().warning("%s goes through this computer: %s", address, error)
        given_up.append(address)
        return ""
    return f"{workplace.folder}/{folder}" if files else ""
