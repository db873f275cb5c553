"""Let a machine carry a folder to a store or from it, by its own role or by addresses signed here.

No key leaves this computer: an address permits one file, one way, for some hours.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, Literal
from uuid import uuid4

from blocks.stores.store import Store, object_key
from blocks.workplaces.base import Workplace
from flows.logger import logger
from trainer.contract.errors import (
    ConnectionLost,
    DiskFull,
    IntegrityError,
    LinkExpired,
    OrchestratorError,
    StoreAway,
    StoreError,
    from_dict,
)
from trainer.contract.files import NOT_JSON
from trainer.courier.cloud_role import CloudRole
from trainer.courier.orders import FOLDER, CarryingOrder, order_name, result_name

LOOK_SECONDS = 1.0
SILENCE_SECONDS = 90.0  # without a sign of the courier: it is dead
LEAST_SECONDS = 3600.0  # that an address is good for
SLOWEST = 1 << 20  # bytes per second that it has to be good for
LONGEST_SECONDS = 7 * 86_400.0 - 60  # the most that stores allow
LONGEST = 500  # characters of a message that a machine wrote
BIG = 64 << 20  # bytes; the progress of more is logged
REPORT_SECONDS = 10.0  # between two lines about it
SIGNINGS = 3  # of addresses, where they expire before their files are through
Verb = Literal["put", "get"]
Role = Mapping[str, Any]


async def carried(
    store: Store,
    workplace: Workplace,
    python: str,
    verb: Verb,
    folder: str,
    files: Mapping[str, Mapping[str, Any]],
    role: Role | None = None,
) -> None:
    """Let the machine carry files; return when they are where they go.

    Args:
        store: to or from which.
        workplace: where the machine's folder is.
        python: the one there that has the trainer.
        verb: put them into the store, or get them from it.
        folder: in the job directory.
        files: by name, each with its `bytes` and `sha256`; and with its `key` in the bucket, where
            that is not the one that its hash has in a store of ours.
        role: of the machine, by which it is done instead of by signed addresses; see
            `Provider.role_at`.

    Raises:
        StoreError: this store's addresses cannot be signed, or the store refuses the machine.
        IntegrityError: a file is not what it should be.
        ConnectionLost: the machine cannot be reached.
    """
    for left in range(1 if role else SIGNINGS, 0, -1):
        try:
            await _carried_once(store, workplace, python, verb, folder, files, role)
        except LinkExpired as error:
            if left == 1:
                raise
            logger().info("%s: %s", folder, error)
            # What went through before needs no second time.
            if verb == "put":
                absent = await store.missing(files)
                files = {name: files[name] for name in absent}
        else:
            return


async def _carried_once(
    store: Store,
    workplace: Workplace,
    python: str,
    verb: Verb,
    folder: str,
    files: Mapping[str, Mapping[str, Any]],
    role: Role | None,
) -> None:
    if not files:
        return
    size = sum(facts["bytes"] for facts in files.values())
    seconds = min(LONGEST_SECONDS, LEAST_SECONDS + size / SLOWEST)
    keys = [str(facts.get("key") or object_key(facts["sha256"])) for facts in files.values()]
    method: Literal["PUT", "GET"] = "PUT" if verb == "put" else "GET"
    bucket = store.bucket
    if role:
        plain, place = CloudRole(bucket.url.scheme, role), bucket.url
        urls = [plain.address(place.bucket, place.inside(key).path) for key in keys]
    else:
        urls = await bucket.sign(method, keys, seconds)
    order = CarryingOrder(
        verb=verb,
        folder=folder,
        files={
            name: {"bytes": facts["bytes"], "sha256": facts["sha256"], "url": url}
            for (name, facts), url in zip(files.items(), urls, strict=True)
        },
        headers=bucket.put_headers,
        role={**role, "scheme": bucket.url.scheme} if role else None,
    )
    # Another one each time: the result of an earlier one must not be taken for this one's.
    name = f"{verb}-{uuid4().hex[:12]}"
    await workplace.write(order_name(name), order.to_dict())
    try:
        result = await workplace.call(python, {}, "trainer.courier", workplace.folder, name)
        if result.exit_code:
            why = result.stderr.strip().rpartition("\n")[2][-300:]
            raise StoreError(f"The courier cannot be started on the machine: {why}.")
        await _until_done(workplace, name, f"{folder}: ", size)
    finally:
        # Whatever became of it: the order's addresses permit whoever reads them.
        await _removed(workplace, name)


async def _until_done(workplace: Workplace, name: str, what: str, size: int) -> None:
    beat, since = None, time.monotonic()
    said = since
    while True:
        result = _parsed(await workplace.read(result_name(name)))
        if result.get("state") == "done":
            return
        if result.get("state") == "failed":
            raise _of_courier(result.get("error"))
        if result.get("beat") != beat:
            beat, since = result.get("beat"), time.monotonic()
            moved = result.get("bytes")
            is_due = size > BIG and since - said > REPORT_SECONDS
            if is_due and isinstance(moved, int) and 0 <= moved <= size:
                said = since
                logger().info("%s%.0f of %.0f MB", what, moved / 1e6, size / 1e6)
        elif time.monotonic() - since > SILENCE_SECONDS:
            raise StoreAway(f"Nothing was heard of the courier for {SILENCE_SECONDS:g} s.")
        await asyncio.sleep(LOOK_SECONDS)


def _of_courier(record: Any) -> OrchestratorError:
    """Return what a courier failed with; a machine may write anything, but ends no job by it."""
    texts = isinstance(record, dict) and all(isinstance(text, str) for text in record.values())
    error = from_dict(record if texts else {})
    if isinstance(error, StoreError | IntegrityError | DiskFull):
        return error
    return StoreError(f"The courier failed: {error.message[:LONGEST]}")


async def _removed(workplace: Workplace, name: str) -> None:
    try:
        await workplace.remove([order_name(name), result_name(name)])
    except ConnectionLost as error:
        logger().warning("%s may still be on the machine: %s", FOLDER, error)


def _parsed(content: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(content or b"{}")
    except NOT_JSON:  # the machine may write anything
        return {}
    return value if isinstance(value, dict) else {}
