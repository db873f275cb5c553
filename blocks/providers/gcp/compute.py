"""The calls of Compute Engine's REST API, in one project."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from blocks.marks import ours
from blocks.providers.api import Answer
from blocks.providers.cloud import as_described, rows_in
from blocks.providers.gcp.access import GoogleApi
from blocks.providers.gcp.answers import DONE, LABEL, error_of
from blocks.providers.gcp.offers import Quotas
from trainer.contract.errors import ConnectionLost, ProviderError

logger = logging.getLogger(__name__)

TITLE = "Google Cloud"
POLL_SECONDS = 0.5  # between two looks at an operation
ROW_SECONDS = 1.0  # how old what is said of one thing may be
PAGE = 500
MOST_PAGES = 200  # a token that never ends must not be followed for ever
EMPTY = "NO_RESULTS_ON_PAGE"


@dataclass
class Listing:
    """What all zones together hold, and where nobody could look."""

    rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Each with its zone."""
    gaps: list[str] = field(default_factory=list)
    """Zones that did not answer: what they hold is not known."""

    def whole(self) -> None:
        """Refuse a list with gaps.

        Raises:
            ConnectionLost: it has some; it names them.
        """
        if self.gaps:
            raise ConnectionLost(
                f"{TITLE} cannot say what is in {', '.join(sorted(self.gaps)[:5])} now."
            )


class Compute:
    """One project's API."""

    def __init__(self, api: GoogleApi, project: str) -> None:
        """Begin.

        Args:
            api: the account.
            project: its id, as in a URL.
        """
        self.api = api
        self.project = project

    def path(self, path: str) -> str:
        """Return the path of something in the project."""
        return f"/projects/{self.project}{path}"

    def at(self, id: str) -> str:
        """Return the path of an instance; its id is zone/name."""
        zone, _, name = id.partition("/")
        return self.path(f"/zones/{_part(zone)}/instances/{_part(name)}")

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        """Call something in the project; see `Api.call`."""
        return await self.api.call(method, self.path(path), **options)

    async def row(self, path: str) -> dict[str, Any] | None:
        """Return what is at a path of the API; None where nothing is.

        Raises:
            OrchestratorError: it cannot be said.
        """
        answer = await self.api.read(path, ROW_SECONDS)
        return None if answer.status == 404 else data_of(answer)

    async def everywhere(self, kind: str) -> Listing:
        """Return what of a kind bears a label of ours, in all zones.

        Args:
            kind: instances or disks.

        Raises:
            OrchestratorError: an answer is not as described, or a refusal.
        """
        found = Listing()
        params = {"filter": f"labels.{LABEL}:*", "maxResults": str(PAGE)}
        for page in range(MOST_PAGES):
            answer = data_of(await self.call("GET", f"/aggregated/{kind}", params=params))
            with as_described(TITLE, f"GET aggregated/{kind}"):
                found.rows += _rows(answer, kind, found.gaps, first=not page)
            token = answer.get("nextPageToken")
            if not token:
                return found
            params["pageToken"] = str(token)
        # Half a list would make a machine that runs look gone.
        raise ProviderError(f"{TITLE}'s list of {kind} has more than {MOST_PAGES} pages.")

    async def operations(self, id: str) -> list[dict[str, Any]]:
        """Return the operations on an instance, whether or not it exists."""
        zone, _, name = id.partition("/")
        path = self.path(f"/zones/{_part(zone)}/operations")
        only = {"filter": f"targetLink eq .*/zones/{re.escape(zone)}/instances/{re.escape(name)}"}
        answer = await self.api.read(path, ROW_SECONDS, params=only)
        if answer.status == 404:  # there is no such zone
            return []
        return rows_in(TITLE, "GET operations", data_of(answer).get("items") or [])

    async def followed(
        self, zone: str, operation: Mapping[str, Any], seconds: float
    ) -> Mapping[str, Any]:
        """Return an operation when it is done, or as it is after some seconds."""
        deadline = time.monotonic() + seconds
        path = f"/zones/{_part(zone)}/operations/{_part(str(operation.get('name')))}"
        while operation.get("status") != DONE and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
            operation = data_of(await self.call("GET", path))
        return operation

    async def quotas(self, seconds: float) -> Quotas:
        """Return what the project may still have, at most so many seconds old."""
        whole, regions = await asyncio.gather(
            self.api.read(self.path(""), seconds), self.api.read(self.path("/regions"), seconds)
        )
        project, listed = data_of(whole), data_of(regions)
        rows = rows_in(TITLE, "GET regions", listed.get("items"))
        with as_described(TITLE, "GET regions"):
            return Quotas(project, rows)

    async def firewall(self, network: str, cidr: str, port: int) -> str:
        """Let some addresses reach a port of our machines; return the tag that machines then need.

        Args:
            network: its full name.
            cidr: the addresses.
            port: of sshd.
        """
        digest = hashlib.sha256(f"{network} {cidr} {port}".encode()).hexdigest()[:8]
        name = f"to-ssh-{digest}"
        rule = {
            "name": name,
            "description": "training-orchestrator: SSH to its machines",
            "network": f"projects/{self.project}/{network}",
            "direction": "INGRESS",
            "sourceRanges": [cidr],
            "targetTags": [name],
            "allowed": [{"IPProtocol": "tcp", "ports": [str(port)]}],
        }

        async def made() -> str:
            answer = await self.call("POST", "/global/firewalls", body=rule)
            if answer.status != 409:  # another launch has made it
                data_of(answer)
            return name

        return await self.api.shared(f"firewall {name}", 3600.0, made)

    async def sweep(self, idle_seconds: float) -> None:
        """Delete disks of ours that no machine has, and that are no longer young."""
        listed = await self.everywhere("disks")
        with as_described(TITLE, "GET aggregated/disks"):
            idle = [
                (zone, str(row["name"]))
                for zone, row in listed.rows
                if not row.get("users") and _is_ours(row) and _age(row) > idle_seconds
            ]
        for zone, name in idle:
            path = f"/zones/{_part(zone)}/disks/{_part(name)}"
            answer = await self.call("DELETE", path, params={"requestId": str(uuid4())})
            if not answer.ok and answer.status != 404:  # one that stays hinders no other's end
                logger.warning("disk %s in %s stays for now: %s", name, zone, error_of(answer))


def data_of(answer: Answer) -> dict[str, Any]:
    """Return what an answer holds.

    Raises:
        OrchestratorError: it reports a failure, or is no object.
    """
    if not answer.ok:
        raise error_of(answer)
    if not isinstance(answer.data, dict):
        raise ProviderError(f"{TITLE}'s answer is no object.")
    return answer.data


def _rows(
    answer: Mapping[str, Any], kind: str, gaps: list[str], *, first: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a page, and note where nobody could look.

    Raises:
        AttributeError, LookupError, TypeError: a part of it is not as described, and could hide a
            machine.
    """
    items = answer["items"] if first else answer.get("items") or {}
    parts = {name: part for name, part in items.items() if name.startswith("zones/")}
    # Every zone is named, the empty ones with a warning that says so.
    if first and not parts:
        raise TypeError("it names no zones")
    for scope, part in parts.items():
        zone = scope.partition("/")[2]
        rows = part.get(kind)
        if rows is not None:
            yield from ((zone, row) for row in rows_in(TITLE, f"GET aggregated/{kind}", rows))
        elif part["warning"]["code"] != EMPTY:
            gaps.append(zone)
    away = answer.get("unreachables") or []
    if not isinstance(away, Collection) or isinstance(away, str):
        raise TypeError("unreachables is no list")
    gaps.extend(str(place).rpartition("/")[2] for place in away)


def _is_ours(row: Mapping[str, Any]) -> bool:
    return ours(str((row.get("labels") or {}).get(LABEL) or "")) is not None


def _age(row: Mapping[str, Any]) -> float:
    """Return how many seconds ago something was made."""
    return time.time() - datetime.fromisoformat(str(row["creationTimestamp"])).timestamp()


def _part(text: str) -> str:
    return quote(text, safe="")
