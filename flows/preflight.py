"""Everything for which a job is refused before it starts: the trainer's checks, and a job's own.

`trainctl validate` walks all of them and reports what it finds; `run` and `submit` walk them as far
as they can see from where they are, and stop at the first error; the flow looks again at what may
have changed since, and the trainer at what only its machine can tell. So the same mistake gives
the same message everywhere.

Prefect, whose import costs two seconds, is imported only by the checks that ask providers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blocks.stores.looking import check_usable
from blocks.stores.opening import open_bucket
from flows.artifact_folder import check_artifact_folder
from flows.batches.references import has_reference, texts
from flows.earlier_jobs import adapter_of, may_be_job
from flows.renting.cost_estimate import can_estimate, estimated
from flows.renting.store_cost import in_words, store_cost
from flows.trainer_process import ask_trainer
from trainer.config import TrainingJob
from trainer.config.chat_templates import is_file
from trainer.config.code_references import references
from trainer.config.extras import check_trainer
from trainer.config.model_files import looks_like_path
from trainer.contract.errors import GpusBusy, OrchestratorError
from trainer.contract.words import duration
from trainer.data.demanding import demanding_rows
from trainer.data.reading import is_elsewhere
from trainer.preflight.commands import check_foreign
from trainer.preflight.table import Check, Finding, Needs, Subject
from trainer.preflight.training import TRAINING
from trainer.results.hub import check_token


def subject_of(job: TrainingJob, *, for_worker: bool = False) -> Subject:
    """Return what the checks look at.

    Args:
        job: what shall be trained.
        for_worker: whether a worker trains it, perhaps on another computer: then files that do not
            exist here are left to it.
    """
    return Subject(job.training, job, dict(not_here(job)) if for_worker else {})


def seen_from_here(job: TrainingJob, *, for_worker: bool = False) -> set[Needs]:
    """Return what checks may rely on here, before the job is started."""
    if for_worker:
        return {Needs.ROWS}
    trains_here = {Needs.TRAINER} if job.providers == ["local"] else set()
    return {Needs.ROWS, Needs.KEEPER, *trains_here}


def not_here(job: TrainingJob) -> Iterator[tuple[str, str]]:
    """Yield field and name of the files and folders that a job names and that are not here."""
    config = job.training
    settings = {"training": config.model_dump(mode="json", exclude_unset=True)}
    yield from ((f, text) for f, text in texts(settings) if has_reference(text))
    named = [("training.model", config.model)] if config.trainer != "command" else []
    if config.chat_template and is_file(config.chat_template):
        named.append(("training.chat_template", config.chat_template))
    fields = [f"training.adapter[{n}]" for n in range(len(config.adapters))]
    fields = fields if len(fields) > 1 else ["training.adapter"]
    named += zip(fields, config.adapters, strict=False)
    if config.reward_model:
        named.append(("training.reward_model", config.reward_model))
    yield from ((f, name) for f, name in named if looks_like_path(name) and not _is_here(name))
    yield from ((f, name) for f, name in named if "adapter" in f and may_be_job(name))
    for field, name in config.dataset.files():
        if not is_elsewhere(name) and not _is_here(name):
            yield f"training.dataset.{field}", name
    for field, text in references(config):
        if not _is_here(text.rpartition(":")[0]):
            yield f"training.{field} {text}", text
    for name in config.command.files if config.command else []:
        if not _is_here(name):
            yield f"training.command.files {name}", name


def _is_here(name: str) -> bool:
    return Path(name).expanduser().exists()


def _job(subject: Subject) -> TrainingJob:
    assert subject.job is not None  # noqa: S101 - these rows are walked with a job only
    return subject.job


def _trainer(subject: Subject) -> Finding:
    return Finding(check_foreign(_job(subject)))


def _provider(subject: Subject) -> Finding:
    from flows.renting.market import ANY, refuse_apart

    job = _job(subject)
    for label in job.providers:
        if label != ANY:
            refuse_apart(job, label)
    return Finding(", ".join(job.providers))


def _earlier_job(subject: Subject) -> Finding:
    return Finding(
        ", ".join(str(adapter_of(name)) for name in subject.config.adapters if may_be_job(name))
    )


def _next(subject: Subject) -> Finding:
    from flows.on_completion import refuse_unfit

    return Finding(asyncio.run(refuse_unfit(_job(subject))))


def _token(subject: Subject) -> Finding:
    check_token(subject.config)
    return Finding("there is a token to upload with")


def _output(subject: Subject) -> Finding:
    folder = Path(str(_job(subject).output_dir)).expanduser().absolute()
    check_artifact_folder(folder)
    return Finding(str(folder))


def _machine(subject: Subject) -> Finding:
    from flows.renting.market import market

    found = asyncio.run(market(_job(subject)))
    if not found.choices:
        why = found.why_empty()
        if isinstance(why, GpusBusy):  # it will wait, which is no mistake in the job
            return Finding(f"{why.message} The job waits for them.")
        raise why
    first = found.choices[0].offer
    several = f"{first.gpu_count} × " if first.gpu_count > 1 else ""
    gpu = "CPU, no GPU"
    if first.gpu_count:
        gpu = f"{several}{first.gpu_type}, {first.vram_gb:.0f} GiB{' each' if several else ''}"
    ram = f", {first.ram_gb:.0f} GiB of memory" if first.ram_gb else ""
    disk = f", {first.disk_gb:.0f} GiB of disk free" if first.disk_gb else ""
    price = f", {first.price_per_hour:.4g} USD/h" if first.price_per_hour else ""
    text = f"{found.choices[0].provider.label}: {gpu}{ram}{disk}{price}"
    return Finding(text, {"offers": [choice.offer.to_dict() for choice in found.choices]})


def _estimate(subject: Subject) -> Finding:
    job = _job(subject)
    if not can_estimate(job):
        return Finding(f"unknown: {_why_no_estimate(job)}")
    facts = estimated(job)
    size = _right_size(job, facts)
    memory, time = facts["memory_gb"], facts["seconds"]
    # Loading, evaluations and checkpoints come on top.
    took = f"about {duration(time)}" if time is not None else f"unknown ({facts['time_note']})"
    fits = "" if facts["fits"] else f", MORE than the {facts['available_gb']:.1f} GB there are"
    saved = " with gradient checkpointing" if facts["gradient_checkpointing"] else ""
    text = (
        f"{' '.join(facts['told'])} {facts['trainable_parameters']:,} of {facts['parameters']:,} parameters trained, "
        f"{facts['tokens']:,} tokens, {facts['steps']:,} steps of {facts['batch']}; "
        f"{facts['memory_kind']} peak {memory['peak']:.2f} GB{fits}{saved}; training {took}"
        f"{f'; {size}' if size else ''}"
    )
    if cost := store_cost(job, facts):
        text += f"; {in_words(cost)}"
    return Finding(text, {**facts, "right_size": size, "store": cost})


def _right_size(job: TrainingJob, facts: dict[str, Any]) -> str | None:
    """Return which machine is large enough; None where none is hired for its GPU."""
    if not facts["gpu_memory"]:
        return None
    from flows.renting.market import market
    from flows.renting.right_size import advice

    async def asked() -> str | None:
        return await advice((await market(job, facts)).choices, job, facts)

    try:
        return asyncio.run(asked())
    except OrchestratorError:  # the check of the machine says what is wrong
        return None


def _proof(subject: Subject) -> Finding:
    job, config = _job(subject), subject.config
    if config.trainer != "builtin":
        return Finding(f"none: {config.trainer} lays out the rows")
    check_trainer()
    if config.formatting:
        return Finding(
            "none: training.formatting makes the rows, and code of yours is not run here"
        )
    if config.parallelism != "ddp":
        return Finding(f"none: {config.parallelism} splits the model, which cannot be tried before")
    found = ask_trainer("proving", job)["proofs"]
    return Finding(" ".join(f"{proof['text']}." for proof in found), {"proofs": found})


def _template(subject: Subject) -> Finding:
    config = subject.config
    if next(demanding_rows(config), None) is None:
        return Finding("two speakers in turns, which every chat template takes")
    count = ask_trainer("rendering", _job(subject))["rows"]
    return Finding(f"shows everything that {count} rows with more than two speakers hold")


def _renders_here(subject: Subject) -> bool:
    """Whether the chats can be rendered here: rows, tokenizer and transformers are."""
    dataset, model = subject.config.dataset, Path(subject.config.model).expanduser()
    each = dataset.each()
    here = all(_is_here(one.path) for one in each) and (model / "tokenizer.json").is_file()
    refuses = all(one.on_bad_row == "refuse" for one in each)
    return here and refuses and can_estimate(_job(subject))


def _why_no_estimate(job: TrainingJob) -> str:
    if job.training.trainer != "builtin":
        return "the job uses another trainer than the built-in one"
    if any(references(job.training)):
        return "the job uses code of yours, which is not run here"
    return "torch is not installed here"


def _store(subject: Subject) -> Finding:
    address = str(_job(subject).store)

    async def look() -> str:
        bucket = await open_bucket(address)
        return f"{bucket.url} {await check_usable(bucket)}"

    return Finding(asyncio.run(look()))


JOB = (
    Check(
        name="trainer",
        look=_trainer,
        applies=lambda s: s.config.trainer != "builtin",
        reads=("training.command",),
    ),
    Check(
        name="earlier",
        look=_earlier_job,
        # One that was found had its folder put in its place when the job was read.
        applies=lambda s: any(map(may_be_job, s.config.adapters)),
        needs=frozenset({Needs.KEEPER}),
    ),
    Check(
        name="provider",
        look=_provider,
        applies=lambda s: _job(s).providers != ["local"] or _job(s).resources.nodes > 1,
    ),
    Check(
        name="next",
        look=_next,
        applies=lambda s: _job(s).on_completion is not None,
        needs=frozenset({Needs.PREFECT}),
        notice="asking Prefect for the deployment that comes next",
    ),
    Check(
        name="token",
        look=_token,
        applies=lambda s: s.config.push_to_hub is not None,
        needs=frozenset({Needs.KEEPER}),
    ),
    Check(
        name="output",
        look=_output,
        applies=lambda s: bool(_job(s).output_dir),
        needs=frozenset({Needs.KEEPER}),
    ),
    Check(
        name="store",
        look=_store,
        applies=lambda s: bool(_job(s).store),
        needs=frozenset({Needs.KEEPER}),
        notice="asking the store",
    ),
)
"""What is looked at of a job, besides its training config."""
MACHINE = Check(
    name="machine",
    look=_machine,
    needs=frozenset({Needs.MARKET}),
    notice="asking the provider",
)
ESTIMATE = Check(
    name="estimate",
    look=_estimate,
    needs=frozenset({Needs.PROBE}),
    notice="estimating memory and time",
)
PROOF = Check(
    name="proof",
    look=_proof,
    needs=frozenset({Needs.PROBE}),
    notice="loading the model, and proving that a batch computes what each row does alone",
)
TEMPLATE = Check(
    name="template",
    look=_template,
    applies=_renders_here,
    needs=frozenset({Needs.ROWS}),
    after="dataset",
    reads=("training.dataset", "training.model"),
)
PREFLIGHT = (*JOB, *TRAINING, TEMPLATE, MACHINE)
"""All checks, cheap ones first. The estimate of time and memory comes after them, and the proof."""
