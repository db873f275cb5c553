"""Which Prefect server is in use, by what it is configured, and whether it can be used."""

from __future__ import annotations

from typing import Any

from gateway.exits import sentence
from gateway.prefect import server
from gateway.prefect.connecting import PrefectApi, api_url
from gateway.prefect.settings import PrefectSettings
from trainer.contract.errors import OrchestratorError


def status() -> dict[str, Any]:
    """Return which server the commands use and why, how it is, and how our own is.

    Returns:
        `used` and `configured_by`, `healthy` of the one in use, with the `problem` of one that is
        configured, `running` and, if so, `url`, `pid` and `answers` of our own.
    """
    settings, ours = PrefectSettings(), server.known()
    facts: dict[str, Any] = {
        "used": settings.url or (ours.url if ours else None),
        "configured_by": settings.place("PREFECT_API_URL") if settings.url else None,
        "running": ours is not None,
    }
    if ours:
        facts |= {"url": ours.url, "pid": ours.pid, "answers": server.answers(ours.url)}
    if settings.url:
        problem = _problem(settings)
        facts |= {"healthy": problem is None, "problem": problem}
    elif ours:
        facts["healthy"] = facts["answers"]
    return facts


def _problem(settings: PrefectSettings) -> str | None:
    """Return why the commands cannot use the configured API, in their words; None if they can."""
    try:
        api = PrefectApi(api_url(settings), settings)
        api.must_answer()
        # Prefect's /health answers anybody, and so does not show that we are refused.
        api.ask("POST", "flow_runs/filter", {"limit": 1})
    except OrchestratorError as error:
        return sentence(error)
    return None


def as_words(facts: dict[str, Any]) -> list[str]:
    """Return the facts of `status` as lines for people."""
    if facts["configured_by"]:
        used = [
            f"in use: {facts['used']}, configured by {facts['configured_by']}",
            f"health: {facts['problem'] or 'healthy'}",
        ]
    elif facts["used"]:
        used = [f"in use: {facts['used']}, our own; none is configured"]
    else:
        used = ["in use: our own, which the next command starts; none is configured"]
    if not facts["running"]:
        return [*used, "our own: not running"]
    health = "healthy" if facts["answers"] else "does not answer"
    return [*used, f"our own: {facts['url']}, process {facts['pid']}, {health}"]
