"""Where the page of a batch is kept: an artifact in Prefect, and a file in the installation's folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from blocks.home import home, private_folder
from flows.batches.page import JobRow, html, markdown

AskApi = Callable[[str, str, Any], Awaitable[Any]]
"""Ask Prefect's API: method, path and body; returns the JSON of the answer, or None for an empty one."""
NOT_IN_KEYS = re.compile(r"[^a-z0-9-]+")


def key_of(batch: str) -> str:
    """Return the key of the artifact: Prefect takes small letters, digits and dashes."""
    plain = NOT_IN_KEYS.sub("-", batch.lower()).strip("-")
    # Two names may be alike by then.
    own = "" if plain == batch else f"-{hashlib.sha256(batch.encode()).hexdigest()[:6]}"
    return f"batch-{plain}{own}"


def file_of(batch: str) -> Path:
    """Return where the page of a batch is as a file."""
    return private_folder(home() / "batches") / f"{batch}.html"


def write_page(batch: str, found: Sequence[JobRow], now: datetime, link: Mapping[str, str]) -> Path:
    """Write the page as a file, and return where; see `flows.batches.page.html`."""
    path = file_of(batch)
    # Replaced at once: a browser that looks at it must not find half of it.
    new = path.with_suffix(".new")
    new.write_text(html(batch, found, now, link), encoding="utf-8")
    new.replace(path)
    return path


async def publish(ask: AskApi, batch: str, found: Sequence[JobRow], now: datetime) -> None:
    """Put the page into Prefect: made once, then updated in place, or each time would be a card more.

    Args:
        ask: asks the API.
        batch: its name.
        found: the rows of the page.
        now: the time.
    """
    text = markdown(batch, found, now)
    named = {"artifacts": {"key": {"any_": [key_of(batch)]}}, "sort": "CREATED_DESC", "limit": 1}
    there = await ask("POST", "/artifacts/filter", named)
    if there:
        await ask("PATCH", f"/artifacts/{there[0]['id']}", {"data": text})
        return
    made = {
        "key": key_of(batch),
        "type": "markdown",
        "description": f"Batch {batch}: its jobs, and when each waited and ran",
        "data": text,
    }
    await ask("POST", "/artifacts/", made)
