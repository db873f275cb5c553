"""What a job of a batch takes from others: looked up where the job starts, when they are completed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

from blocks.home import runs
from flows.batches.fetching import runs_of
from flows.batches.members import JOB
from flows.batches.references import OUTPUT, OWN, REFERENCE, references, replaced
from flows.earlier_jobs import artifact_of
from flows.full_disk import save_anyway
from flows.prefect_api import prefect_client
from flows.run_folder import RunFolder
from flows.scheduling.labels import BATCH, text
from trainer.config import TrainingJob
from trainer.config.adapter_files import is_adapter
from trainer.contract.errors import ConfigError
from trainer.contract.files import read_json
from trainer.contract.job_directory import MERGED

TAKES_A_MODEL = "training.model"


async def with_outputs(job: TrainingJob, run: RunFolder) -> TrainingJob:
    """Return a job with the outputs of others in the place of `${NAME.output}`.

    Args:
        job: as it was submitted.
        run: of the job. A resumed job goes on with what it began with, also when the other one was
            trained again since.

    Raises:
        ConfigError: a job is not one of its batch, is not completed, or left nothing here.
    """
    asked = job.model_dump(mode="json", exclude_unset=True)
    named = {name: field for field, name, what in references(asked) if what == OUTPUT}
    if not named:
        return job
    known: dict[str, str] = read_json(run.outputs) or {}
    if missing := named.keys() - known.keys():
        ids = await _ids(UUID(run.run_id))
        known |= {
            name: await asyncio.to_thread(_folder_of, name, named[name], ids.get(name))
            for name in sorted(missing)
        }
        save_anyway(run.outputs, known)
    return TrainingJob.model_validate(replaced(asked, lambda f, value: _put(f, value, known)))


async def _ids(run_id: UUID) -> dict[str, UUID]:
    """Return the runs of the batch that a run belongs to, by the names of jobs."""
    async with prefect_client() as client:
        batch = text((await client.read_flow_run(run_id)).labels, BATCH)
        if not batch:
            return {}
        return {text(one.labels, JOB): one.id for one in await runs_of(client, batch)}


def _folder_of(name: str, field: str, id: UUID | None) -> str:
    named = f"{field} = ${{{name}.{OUTPUT}}}"
    if id is None:
        raise ConfigError(
            f"{named}: this job is of no batch that has a job {name}.",
            "Submit both together: trainctl batch FILE.",
        )
    if not (runs() / str(id)).is_dir():
        raise ConfigError(
            f"{named}: job {name} was trained by the worker of another computer, and its output is not here.",
            "Let one worker have both, or copy the output here and name its folder.",
        )
    return str(artifact_of(str(id), named))


def _put(field: str, value: str, known: dict[str, str]) -> Any:
    if field.startswith(OWN):
        return value

    def folder(name: str) -> str:
        path = Path(known[name])
        # A model to train is loaded from one folder; that of an adapter may hold the merged model.
        takes_merged = field == TAKES_A_MODEL and is_adapter(path) and (path / MERGED).is_dir()
        return str(path / MERGED if takes_merged else path)

    return REFERENCE.sub(lambda match: folder(match[1]) if match[2] == OUTPUT else match[0], value)
