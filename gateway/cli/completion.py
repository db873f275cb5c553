"""Names and ids of jobs for the shell's completion, if they can be had quickly."""

from __future__ import annotations

NEWEST = 50


def job_ids(incomplete: str) -> list[tuple[str, str]]:
    """Return the names and short ids that begin with `incomplete`, and what they are."""
    # All imports are here: the shell runs this for every Tab, and most commands never do.
    from flows.shown import FLOW, job_state, short_id
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
        runs = LightClient(PrefectApi(url, settings)).flow_runs(FLOW, limit=NEWEST) if url else []
    # A message in the middle of a half-typed command line would be worse than no suggestions.
    except OrchestratorError:
        return []
    found: dict[str, str] = {}
    for run in runs:
        # Newest first, so the first run of a name is the one that the name stands for.
        found.setdefault(run.name, f"{job_state(run)}, the newest of this name")
        found[short_id(run.id)] = f"{job_state(run)}, {run.name}"
    return [(text, what) for text, what in found.items() if text.startswith(incomplete)]
