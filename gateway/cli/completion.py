"""Names and ids of jobs and batches for the shell's completion, if they can be had quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.prefect.client import JobRun

NEWEST = 50


def job_ids(incomplete: str) -> list[tuple[str, str]]:
    """Return the names and short ids that begin with `incomplete`, and what they are."""
    # All imports are here: the shell runs this for every Tab, and most commands never do.
    from flows.shown import job_state, short_id

    found: dict[str, str] = {}
    for run in _newest():
        # Newest first, so the first run of a name is the one that the name stands for.
        found.setdefault(run.name, f"{job_state(run)}, the newest of this name")
        found[short_id(run.id)] = f"{job_state(run)}, {run.name}"
    return [(text, what) for text, what in found.items() if text.startswith(incomplete)]


def batch_names(incomplete: str) -> list[str]:
    """Return the names of the newest batches that begin with `incomplete`."""
    from flows.batches.members import TAG
    from flows.scheduling.labels import BATCH, text

    names = dict.fromkeys(text(run.labels, BATCH) for run in _newest(tags={"all_": [TAG]}))
    return [name for name in names if name and name.startswith(incomplete)]


def _newest(**of: Any) -> list[JobRun]:
    """Return the newest runs, of those that filters of Prefect's leave."""
    from flows.shown import FLOW
    from gateway.prefect import server
    from gateway.prefect.client import LightClient
    from gateway.prefect.connecting import PrefectApi
    from gateway.prefect.settings import PrefectSettings
    from trainer.contract.errors import OrchestratorError

    try:
        settings = PrefectSettings()
        # Only a server that runs: starting one takes longer than a person waits after Tab.
        own = server.known()
        url = settings.url or (own.url if own else None)
        if not url:
            return []
        return LightClient(PrefectApi(url, settings)).flow_runs(FLOW, limit=NEWEST, **of)
    # A message in the middle of a half-typed command line would be worse than no suggestions.
    except OrchestratorError:
        return []
