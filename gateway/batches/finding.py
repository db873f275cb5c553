"""The runs of batches, as Prefect has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from flows.batches.members import STOPS, TAG, member, tag_of
from flows.scheduling.dependencies import Member, verdicts
from flows.scheduling.labels import AFTER, BATCH, text
from flows.scheduling.seen import SeenRun
from flows.shown import FLOW
from gateway.prefect.client import PAGE, JobRun, LightClient
from trainer.contract.errors import ConfigError

MOST = 20_000  # runs that a list of all batches looks through, the newest first

LAST = datetime.max.replace(tzinfo=UTC)


def runs_of(client: LightClient, batch: str) -> list[JobRun]:
    """Return the runs of a batch, the first submitted first."""
    return sorted(
        _tagged(client, tag_of(batch)),
        key=lambda run: (run.created or LAST, str(run.id)),
    )


def members_of(client: LightClient, batch: str) -> list[tuple[JobRun, Member]]:
    """Return the jobs of a batch.

    Raises:
        ConfigError: there is no such batch.
    """
    found = [(run, member(run, run.labels)) for run in runs_of(client, batch)]
    if not found:
        raise ConfigError(f"There is no batch {batch!r}.", "'trainctl batches' shows all.")
    return found


def held(client: LightClient, waiting: Iterable[SeenRun]) -> dict[str, str]:
    """Return by id why runs that wait may not start yet, as what they come after stands now."""
    labels = (run.labels for run in waiting if {AFTER, STOPS} & run.labels.keys())
    found: dict[str, str] = {}
    for batch in {text(each, BATCH) for each in labels} - {""}:
        members = [member(run, run.labels) for run in runs_of(client, batch)]
        found |= {id: one.never or one.held for id, one in verdicts(members).items()}
    return {id: why for id, why in found.items() if why}


def all_batches(client: LightClient) -> dict[str, list[JobRun]]:
    """Return the runs of all batches by the names of these, the newest batch first."""
    found: dict[str, list[JobRun]] = {}
    for run in _tagged(client, TAG):
        found.setdefault(text(run.labels, BATCH), []).append(run)
    return found


def _tagged(client: LightClient, tag: str) -> Iterator[JobRun]:
    seen = set()
    for offset in range(0, MOST, PAGE):
        # By id, which does not change: a run that starts between two pages would move from one to the
        # other, and be missed or come twice.
        page = client.flow_runs(
            FLOW, limit=PAGE, offset=offset, sort="ID_DESC", tags={"all_": [tag]}
        )
        yield from (run for run in page if run.id not in seen)
        seen |= {run.id for run in page}
        if len(page) < PAGE:
            return
