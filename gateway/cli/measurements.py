"""What `trainctl metrics` does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from flows.run_folder import RUN_ID, RunFolder
from gateway.cli import looking
from gateway.database.engine import make_engine
from gateway.database.upgrading import upgrade
from gateway.exits import note, say
from gateway.metrics.exporting import refuse_kind, write_table
from gateway.metrics.series import Curves, curves_of
from gateway.metrics.store import MetricsStore, refuse_impossible
from gateway.metrics.tensorboard_files import curves_in, runs_in
from trainer.contract.errors import ConfigError
from trainer.contract.metrics import read_metrics


def export(text: str, to: Path) -> None:
    """Write a job's metrics to a file."""
    refuse_kind(to)
    job, curves = asyncio.run(_curves(text))
    if not curves:
        raise ConfigError(f"Job {job} has no metrics yet.", "They come with its first steps.")
    rows = write_table(curves, to)
    say(f"{rows} steps of {len(curves)} metrics: {to}")


def take_up(folder: Path, name: str | None) -> None:
    """Store TensorBoard's event files."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder.", "Name the folder that holds the event files.")
    found = runs_in(folder)
    if name is not None and len(found) > 1:
        raise ConfigError(
            f"--name {name}: {folder} holds {len(found)} runs: {', '.join(list(found)[:5])} …",
            "Leave --name out, or name the folder of one of them.",
        )
    jobs = {name or each: path for each, path in found.items()}
    for job in jobs:
        refuse_impossible(job, [])

    async def work() -> None:
        async with _store() as store:
            for job, path in jobs.items():
                curves = await asyncio.to_thread(curves_in, path)
                if not curves:
                    note(f"{path}: no scalars in it")
                    continue
                await store.import_curves(job, curves)
                points = sum(len(steps) for steps, _ in curves.values())
                say(f"{job}: {points} points of {len(curves)} metrics")

    asyncio.run(work())


def rebuild(texts: Sequence[str]) -> None:
    """Build the stored metrics of jobs anew."""
    ids = [_id(text) for text in texts]

    async def work() -> None:
        async with _store() as store:
            for id in ids:
                skipped = await store.rebuild(id, RunFolder(id).metrics)
                bad = f"; {skipped} lines were unreadable" if skipped else ""
                say(f"{id}: built anew{bad}")

    asyncio.run(work())


def prune(days: float) -> None:
    """Remove the stored metrics of old jobs."""

    async def work() -> None:
        async with _store() as store:
            gone = await store.prune(days)
        for job in gone:
            say(job)
        note(f"the metrics of {len(gone)} jobs were removed; their files stay")

    asyncio.run(work())


async def _curves(text: str) -> tuple[str, Curves]:
    """Return a job's id and its curves: from its file, if that is here, else from the store."""
    async with _store() as store:
        # What was imported or reported has no run in Prefect.
        if not RUN_ID.fullmatch(text) and (curves := await store.all_curves(text)):
            return text, curves
        job = await asyncio.to_thread(_id, text)
        steps, skipped = await asyncio.to_thread(read_metrics, RunFolder(job).metrics)
        if skipped:
            note(f"{skipped} lines of its file were unreadable")
        return job, curves_of(steps.values()) if steps else await store.all_curves(job)


def _id(text: str) -> str:
    # A whole id needs no Prefect.
    return text if RUN_ID.fullmatch(text) else str(looking.found(text).id)


@asynccontextmanager
async def _store() -> AsyncIterator[MetricsStore]:
    engine = make_engine()
    try:
        await upgrade(engine)
        store = MetricsStore(engine)
        try:
            yield store
        finally:
            await store.close()
    finally:
        await engine.dispose()
