"""Names and ids of jobs for the shell's completion: quick, or none."""

from __future__ import annotations

NEWEST = 50


def job_ids(incomplete: str) -> list[tuple[str, str]]:
    """Return names and short ids that begin so, with what they are; of a server that runs already."""
    from flows.shown import FLOW, job_state, short_id
    from gateway import server
    from gateway.client import LightClient
    from gateway.connecting import Api
    from gateway.prefect_settings import PrefectSettings
    from trainer.contract.errors import OrchestratorError

    try:
        settings = PrefectSettings()
        own = server.known()
        url = settings.url or (own.url if own else None)
        runs = LightClient(Api(url, settings)).flow_runs(FLOW, limit=NEWEST) if url else []
    except OrchestratorError:
        return []
    found: dict[str, str] = {}
    for run in runs:
        found.setdefault(run.name, f"{job_state(run)}, the newest of this name")
        found[short_id(run.id)] = f"{job_state(run)}, {run.name}"
    return [(text, what) for text, what in found.items() if text.startswith(incomplete)]
