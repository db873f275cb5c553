"""Object stores at the terminal: whether one can be used, what it holds, and what it keeps for how long."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from blocks.stores.bucket import Bucket
from blocks.stores.looking import check_usable, set_rule, unfinished_uploads
from blocks.stores.opening import open_bucket
from blocks.stores.store import KEPT, OBJECTS
from flows.streaming.run_store import RUNS, UNFINISHED
from gateway.exits import Exit, say, say_json, sentence
from trainer.config.store_urls import parse_store_url
from trainer.contract.errors import ConfigError, OrchestratorError
from trainer.contract.manifest import MANIFEST
from trainer.contract.words import size

RETENTION = (
    f"the newest {KEPT} checkpoints of a job under way, none of a completed one, those of any other "
    f"for {UNFINISHED.days} days; results for ever; what none of them needs for a day more"
)


def check_store(address: str, *, set_rule: bool, as_json: bool) -> Exit:
    """Print what a store allows, what it holds, and for how long it keeps it.

    Args:
        address: of the store.
        set_rule: first let it remove uploads that were not finished within a day.
        as_json: for programs.
    """
    facts = asyncio.run(_facts(address, rule=set_rule))
    if as_json:
        say_json(facts)
    else:
        for name in ("access", "holds", "keeps", "unfinished"):
            found = facts[name]
            say(f"{'ok' if found['ok'] else 'FAILED':<7} {name:<12} {found['text']}")
    return Exit.OK if all(found["ok"] for found in facts.values()) else Exit.FAILED


async def _facts(address: str, *, rule: bool) -> dict[str, dict[str, Any]]:
    _refuse_absent(address)
    bucket = await open_bucket(address, field="--store")
    if rule:
        await set_rule(bucket)
    access = await _looked(check_usable(bucket))
    if access["ok"]:
        access["text"] = f"{bucket.url} {access['text']}"
    return {
        "access": access,
        "holds": await _looked(_holds(bucket)),
        "keeps": {"ok": True, "text": RETENTION},
        "unfinished": await _looked(unfinished_uploads(bucket)),
    }


def _refuse_absent(address: str) -> None:
    """Refuse a folder that is not there: opening it would make it, whatever should be mounted there.

    Raises:
        ConfigError: it is one.
    """
    try:
        url = parse_store_url(address)
    except ValueError:  # opening it says why
        return
    if url.scheme == "file" and not Path(url.path).is_dir():
        raise ConfigError(
            f"--store = {address!r}: there is no such folder.",
            "Mount what should be there, or make it; the first job that names it makes it too.",
        )


async def _looked(look: Any) -> dict[str, Any]:
    try:
        return {"ok": True, "text": await look}
    except OrchestratorError as error:
        return {"ok": False, "text": sentence(error)}


async def _holds(bucket: Bucket) -> str:
    objects = await bucket.entries(OBJECTS)
    names = [entry.key for entry in await bucket.entries(RUNS) if entry.key.endswith(MANIFEST)]
    results = sum("/output/" in name for name in names)
    total = size(sum(entry.bytes for entry in objects))
    return f"{results} results and {len(names) - results} checkpoints, {len(objects)} objects of {total}"
