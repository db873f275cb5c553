"""Create jobs, and hand them to the workers that are to train them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel, ConfigDict, Field

from flows.asking import asking
from flows.next_deployment import refuse_missing
from flows.scheduling.admission import refuse_impossible
from flows.scheduling.labels import PREFIX, of_submit, text
from flows.shown import FLOW, QUEUED
from gateway.access.callers import Caller
from gateway.cli.submitting import with_priority
from gateway.operations.examining import examine_new, examine_place
from gateway.operations.finding import (
    DRAFT,
    SUBMITTED,
    find_job,
    is_draft,
    job_id_of,
    known_job,
    runs_of,
)
from gateway.prefect.client import JobRun
from trainer.config import TrainingJob
from trainer.config.explain import validated
from trainer.contract.errors import ConfigError

JOB_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
BODY, KEY = f"{PREFIX}body", f"{PREFIX}idempotency-key"
"""Labels: of what a job was created from, and of the key that its client gave."""
NEVER = datetime(2100, 1, 1, tzinfo=UTC)
"""When a draft would be due; it has no deployment, so no worker ever sees it."""
DEPLOYMENTS: Mapping[bool, str] = {True: "train/local", False: "train/cloud"}
"""By whether a job trains on the computer of its worker."""
KEY_TAG = "idempotency-key:"
"""How the tag begins by which a run is found that was asked for under a key."""

JobId = Annotated[str, Field(pattern=JOB_ID)]


class Conflict(ConfigError):
    """The id or the key of a request belongs to another one already."""


class JobRequest(BaseModel):
    """What to train: a whole job as in a job file, or the founding documents' few fields."""

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {
                    "job_id": "my_job_123",
                    "model_name": "Qwen/Qwen3-0.6B",
                    "dataset_path": "/data/chats.jsonl",
                },
                {
                    "job": {
                        "name": "support-bot",
                        "training": {
                            "method": "sft",
                            "model": "Qwen/Qwen3-0.6B",
                            "dataset": {"path": "/data/chats.jsonl"},
                        },
                    }
                },
            ]
        },
    )

    job_id: JobId | None = None
    """By which the client knows the job from now on; null: one is made."""
    job: dict[str, Any] | None = None
    """A whole job, field by field as in a job file."""
    model_name: str | None = None
    dataset_path: str | None = None
    output_dir: str | None = None
    """Where the verified result goes, on the computer of the worker."""
    provider: str | list[str] | None = None
    training: dict[str, Any] | None = None
    """Further fields of `training`, beside `model_name` and `dataset_path`."""

    def to_job(self) -> TrainingJob:
        """Return the job.

        Raises:
            ConfigError: a field is missing or wrong; it is named.
        """
        short = {
            name: value
            for name in ("model_name", "dataset_path", "output_dir", "training")
            if (value := getattr(self, name)) is not None
        }
        if self.job is not None and short:
            raise ConfigError(
                f"job and {', '.join(short)} are given together: which of them counts?",
                "Put all of it into job, or leave job out.",
            )
        if self.job is None:
            for name in ("model_name", "dataset_path"):
                if name not in short:
                    raise ConfigError(f"{name} is missing.", "Give it, or a whole job as `job`.")
        asked = dict(self.job) if self.job is not None else self._from_short()
        if self.provider is not None:
            asked["provider"] = self.provider
        return validated(TrainingJob, asked, "job", "The fields: docs of the job file, or /docs.")

    def _from_short(self) -> dict[str, Any]:
        training = dict(self.training or {})
        training.setdefault("model", self.model_name)
        training.setdefault("dataset", {"path": self.dataset_path})
        asked: dict[str, Any] = {"name": self.job_id or "job", "training": training}
        if self.output_dir is not None:
            asked["output_dir"] = self.output_dir
        return asked


async def create_job(
    client: PrefectClient,
    caller: Caller,
    request: JobRequest,
    key: str | None = None,
    *,
    notes: Mapping[str, str | int] | None = None,
) -> tuple[JobRun, bool]:
    """Create a job that nobody trains before `submit_job`; return its run, and whether it is new.

    Args:
        client: of Prefect.
        caller: who asks.
        request: what to train.
        key: of the request: sent again under it, the same body gives the same job.
        notes: kept with the run, as labels.

    Raises:
        ConfigError: the job cannot be.
        Conflict: the id or the key has been used for something else.
    """
    job = request.to_job()
    if caller.project is not None:
        if job.project not in {None, caller.project}:
            raise ConfigError(
                f"project = {job.project!r}: this key is for project {caller.project!r}.",
                "Leave it out, or ask with a key of that project.",
            )
        job = job.model_copy(update={"project": caller.project})
    if key and (same := await _asked_before(client, caller, request, key)):
        return same, False
    job_id = request.job_id or _made_id(caller, key)
    labels = of_submit(user=caller.name, project=job.project) | {BODY: _hash(request)}
    labels |= {KEY: key} if key else {}
    labels |= {f"{PREFIX}{name}": value for name, value in (notes or {}).items()}
    known = await known_job(client, job_id)
    if known is None:
        await examine_new(job)
    tags = [_tag_of(caller, key)] if key else []
    run = known or await _draft(client, job_id, job, labels, tags)
    if text(run.labels, BODY) != labels[BODY] or text(run.labels, KEY) != (key or ""):
        what = (
            f"Idempotency-Key = {key!r}" if key and not request.job_id else f"job_id = {job_id!r}"
        )
        raise Conflict(f"{what} is that of another request.", "Choose another one.")
    if known and not key:
        raise Conflict(
            f"job_id = {job_id!r}: this job is there already.",
            "Choose another id; to repeat a request safely, send an Idempotency-Key.",
        )
    return run, known is None


async def _asked_before(
    client: PrefectClient, caller: Caller, request: JobRequest, key: str
) -> JobRun | None:
    """Return the run that a caller asked for under a key before; None: there is none.

    Raises:
        Conflict: something else was asked for.
    """
    found = await runs_of(client, limit=2, tags={"all_": [_tag_of(caller, key)]})
    if not found:
        return None
    run = min(found, key=is_draft)  # what is submitted counts
    if text(run.labels, BODY) != _hash(request):
        raise Conflict(f"Idempotency-Key = {key!r} is that of another request.", "Choose another.")
    return run


async def submit_job(
    client: PrefectClient,
    caller: Caller,
    job_id: str,
    provider: str | list[str] | None = None,
    deployments: Mapping[bool, str] = DEPLOYMENTS,
) -> JobRun:
    """Hand a job to the workers that are to train it, and return its run.

    Args:
        client: of Prefect.
        caller: who asks.
        job_id: the job's.
        provider: where it trains; None: where it says itself.
        deployments: FLOW/NAME, by whether a job trains on the computer of its worker.

    Raises:
        NoSuchJob: there is none of this id.
        ConfigError: it was submitted already with another provider, or cannot be trained so.
    """
    run = await find_job(client, caller, job_id)
    asked = dict(run.parameters.get("job") or {})
    before = asked.get("provider")
    if provider is not None:
        asked["provider"] = provider
    job = validated(TrainingJob, asked, f"job {job_id}")
    if not is_draft(run):
        if job.provider == before and run.deployment_id:
            return run  # asked again, as after an answer that was lost
        raise ConfigError(
            f"Job {job_id!r} was submitted already, for provider {before!r}.", "Create another job."
        )
    if run.state and run.state.type != "SCHEDULED":
        raise ConfigError(
            f"Job {job_id!r} was cancelled before it was submitted.", "Create another job."
        )
    await examine_place(job)
    target = deployments[job.providers == ["local"]]
    submitted = await _submitted(client, run, job_id, job, target)
    with suppress(ObjectNotFound):  # whoever submitted it at the same moment was first
        await client.delete_flow_run(run.id)
    return submitted


async def start_job(
    client: PrefectClient,
    caller: Caller,
    request: JobRequest,
    key: str | None = None,
    *,
    provider: str | None = None,
    deployments: Mapping[bool, str] = DEPLOYMENTS,
    notes: Mapping[str, str | int] | None = None,
    first: Callable[[str], None] | None = None,
) -> tuple[JobRun, bool]:
    """Create a job and submit it at once; see `create_job` and `submit_job`.

    A request that is repeated does what its first try left undone.

    Args:
        client: of Prefect.
        caller: who asks.
        request: what to train.
        key: of the request.
        provider: where it trains; None: where it says itself.
        deployments: FLOW/NAME, by whether a job trains on the computer of its worker.
        notes: kept with the run.
        first: called with the id of a job that is about to be submitted.
    """
    run, is_new = await create_job(client, caller, request, key, notes=notes)
    if is_draft(run):
        if first is not None:
            first(job_id_of(run))
        run = await submit_job(client, caller, job_id_of(run), provider, deployments)
    return run, is_new


async def _submitted(
    client: PrefectClient, draft: JobRun, job_id: str, job: TrainingJob, name: str
) -> JobRun:
    ask = asking(client)
    values = job.model_dump(mode="json")
    target = await ask(f"/deployments/name/{name}", None)
    if target is None:
        raise ConfigError(
            f"Prefect has no deployment {name!r}.", "Create it: run 'trainctl deploy'."
        )
    if wanted := job.on_completion:
        refuse_missing(wanted, await ask(f"/deployments/name/{wanted.deployment}", None))
    if pool := target.get("work_pool_name"):
        await refuse_impossible(ask, pool, [values])
    body = {
        "name": job.name,
        "parameters": {"job": values},
        "labels": {key: value for key, value in draft.labels.items() if key.startswith(PREFIX)},
        "tags": [tag for tag in draft.value.get("tags") or () if tag.startswith(KEY_TAG)],
        "work_queue_name": with_priority(job, None)[1],
        "state": {"type": "SCHEDULED", "name": QUEUED},
        "idempotency_key": f"{SUBMITTED}{job_id}",
    }
    return JobRun.of(await ask(f"/deployments/{target['id']}/create_flow_run", body))


async def _draft(
    client: PrefectClient, job_id: str, job: TrainingJob, labels: dict[str, Any], tags: list[str]
) -> JobRun:
    ask = asking(client)
    flow = await ask("/flows/", {"name": FLOW})
    state = {
        "type": "SCHEDULED",
        "name": "Created",
        "message": "waits for its submission",
        "state_details": {"scheduled_time": NEVER.isoformat()},
    }
    body = {
        "flow_id": flow["id"],
        "name": job.name,
        "parameters": {"job": job.model_dump(mode="json")},
        "labels": labels,
        "tags": tags,
        "state": state,
        "idempotency_key": f"{DRAFT}{job_id}",
    }
    return JobRun.of(await ask("/flow_runs/", body))


def _made_id(caller: Caller, key: str | None) -> str:
    """Return an id for a job whose client chose none: the same one for the same key."""
    made: UUID = uuid5(NAMESPACE_URL, f"{caller.name}/{key}") if key else uuid4()
    return str(made)


def _tag_of(caller: Caller, key: str) -> str:
    return f"{KEY_TAG}{hashlib.sha256(f'{caller.name}/{key}'.encode()).hexdigest()[:32]}"


def _hash(request: JobRequest) -> str:
    body = request.model_dump(mode="json", exclude_unset=True)
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
