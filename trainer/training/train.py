"""The process that trains: `python -m trainer.training.train JOBDIR`, started by the supervisor.

It reads job.json, resumes from the newest valid checkpoint, and leaves its end in status.json:
completed, paused, stopped, or failed with an error class, a sentence and a suggestion.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import os
import signal
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

from trainer.config import TrainingConfig
from trainer.config.code_references import code_hashes
from trainer.config.explain import validated
from trainer.config.methods import METHODS
from trainer.config.model_code import code_of
from trainer.contract.errors import ConfigError, PeerLost
from trainer.contract.events import Kind, note_event
from trainer.contract.files import read_json
from trainer.contract.garbage import leave_out_imports
from trainer.contract.job_directory import JobDirectory, JobState
from trainer.contract.redaction import redact_output, remember_environment
from trainer.contract.world import own_rank
from trainer.data.tally import remarks, told_at_start, warning_about
from trainer.engine.arguments import precision
from trainer.engine.collectives import first_here_first, highest, of_first, process_group
from trainer.engine.control import ControlReader
from trainer.engine.custom_code import load_callbacks
from trainer.engine.deprecations import deprecations_allowed
from trainer.engine.failures import translate
from trainer.engine.going_on import load_adapter_settings
from trainer.engine.gpu_share import keep_to_share
from trainer.engine.limits import check_limits
from trainer.engine.malloc import keep_freed_memory
from trainer.engine.model import load_model, load_tokenizer, parameters
from trainer.engine.parallelism import (
    agreed_end_state,
    check_parallelism,
    full_weights,
    in_parts,
)
from trainer.engine.trackers import end_trackers, fail_trackers, start_trackers
from trainer.preflight.table import Needs, Subject, refuse
from trainer.preflight.training import TRAINING
from trainer.results.gguf import refuse_export
from trainer.results.hub import push_output
from trainer.results.merging import refuse_quantised_base
from trainer.results.output import is_whole, write_output
from trainer.results.summary import batch_in_words
from trainer.supervision.log import lead_loggers, outlive_full_disks
from trainer.supervision.ranks import record_failure
from trainer.training.combined import continued, with_one_adapter
from trainer.training.inputs import inputs_of, refuse_changes
from trainer.training.resuming import (
    load_best,
    resume_point,
    state_of,
    with_same_batch,
)
from trainer.training.starting import set_environment, start_lightly

if TYPE_CHECKING:
    from trainer.engine.callbacks import Evaluation, Obedience
    from trainer.engine.job_trainer import TrainingRun
    from trainer.training.usage import Usage


def begin(job_directory: str) -> int:
    """Train the job in a process that does nothing else; see `main`."""
    streams = sys.stdout, sys.stderr
    # Before anything prints: it replaces the streams.
    outlive_full_disks()
    remember_environment()
    redact_output()
    lead_loggers(streams)
    start_lightly((read_json(JobDirectory(job_directory).job) or {}).get("config"))
    return main(job_directory)


def main(job_directory: str) -> int:
    """Train the job and return the exit code: 0 for a clean end, 1 for a failure."""
    # The stack of a crash in C (a segmentation fault, say) goes to the log.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the watchdog asks for the stacks
    set_environment()
    keep_freed_memory()
    directory = JobDirectory(job_directory)
    control_reader = ControlReader(directory)
    try:
        state = control_reader.obeyed(partial(train, directory, control_reader))
    except Exception as error:  # noqa: BLE001 - the outer edge: every failure gets its name here
        return _fail(directory, error)
    reason = "" if state is JobState.COMPLETED else control_reader.control().reason
    # The others would overwrite what the first has written.
    if own_rank().is_first_here:
        directory.update_status(state=state, reason=reason)
    _say(f"{state}{f': {reason}' if reason else ''}")
    return 0


def train(directory: JobDirectory, control_reader: ControlReader) -> JobState:
    """Run the job from wherever it stands to its end; return the state it ended in."""
    config = read_config(directory)
    # Killed between the output and the status: there is nothing left to train.
    if is_whole(directory.output):
        _say("the output already exists")
        return _completed(directory, config)
    rank = own_rank()
    check_parallelism(config, rank.world_size)
    have = {Needs.TRAINER, *({Needs.HUB} if rank.is_first else ())}
    # One process of a machine reads all rows; the others wait for what it makes of them.
    have |= {Needs.ROWS} if rank.is_first_here else set()
    # Checked here once more although the orchestrator has: the files and packages that count are
    # those of this machine.
    for result in refuse(TRAINING, Subject(config), have):
        if result.name == "dataset" and result.found:
            facts = result.found.facts
            _say(f"dataset {config.dataset.title}: {facts['rows']} rows, format {facts['format']}")
        if result.name == "adapter" and result.found:  # it says so where that is of another model
            _say(f"goes on with {result.found.text}")
    config = with_one_adapter(config, directory.adapter)
    if config.adapter:  # from here on they say what is trained
        config = config.model_copy(update={"peft": load_adapter_settings(config)})
    if rank.is_first:
        start_trackers(directory, config)
    if most := keep_to_share(directory):
        _say(f"shares its GPU with others: {most:.1f} GiB of memory at most")
    with process_group():
        return _train(directory, config, control_reader)


def _train(
    directory: JobDirectory, config: TrainingConfig, control_reader: ControlReader
) -> JobState:
    """Do everything that needs torch, and all processes where there are several."""
    from trainer.training.settling import found_in_rows

    resume = resume_point(directory)
    config, batch = with_same_batch(config, resume, own_rank().world_size)
    run, data, usage = prepare(directory, config)
    run.batch = batch
    config = config.model_copy(update=found_in_rows(run.config))
    trainer, obedience, evaluation = _assemble(run, control_reader)
    trainer.add_callback(usage)
    if resume:
        refuse_changes(resume, run.inputs)
    trainer.args.eval_on_start = resume is None and run.evaluates_on_start

    # Only from here on does a signal end with a checkpoint; before, it ends the process at once.
    control_reader.training = True
    # A request that came while loading is obeyed before the first step.
    if state := agreed_end_state(control_reader):
        return state
    if resume and evaluation.has_ended(state_of(resume)):
        trainer._load_from_checkpoint(str(resume))  # only the output is missing
    else:
        with deprecations_allowed():
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    control_reader.training = False
    if own_rank().is_first:
        end_trackers(directory, config)
    if obedience.end_state:
        return obedience.end_state

    made = _made(run)
    if best := evaluation.best_steps():
        made["weights_of_step"] = max(best)
        if own_rank().on_first_machine or in_parts(trainer):
            load_best(trainer, directory, max(best))
    # A collective, so before only the first goes on.
    weights = full_weights(trainer)
    if own_rank().is_first:
        named = as_named(directory, config)
        code = code_hashes(config) | (code_of(config.model) if config.trust_remote_code else {})
        facts = {"data": data | run.streamed, "usage": usage.facts, "training": made}
        facts |= {"code": code} if code else {}
        if config.adapter:
            sha256 = run.inputs.get("training.adapter")
            facts["continues"] = continued(directory, config, named, sha256)
        write_output(directory, config, named, trainer, run.tokenizer, facts, weights=weights)
    return _completed(directory, config)


def _completed(directory: JobDirectory, config: TrainingConfig) -> JobState:
    """Upload the output where the job asks for it; the job has completed even if that fails."""
    if not own_rank().is_first:
        return JobState.COMPLETED
    named = as_named(directory, config)
    directory.update_status(warning=push_output(directory.output, named, directory.uploaded))
    return JobState.COMPLETED


def as_named(directory: JobDirectory, config: TrainingConfig) -> TrainingConfig:
    """Return the config with model and dataset as the user names them, not by their paths here."""
    named = (read_json(directory.job) or {}).get("named")
    if not isinstance(named, dict):
        return config
    given = named.get("dataset")
    paths = given if isinstance(given, dict) else {"path": given}
    dataset = config.dataset.with_files(lambda field, path: str(paths.get(field) or path))
    model, adapter = str(named.get("model", config.model)), named.get("adapter", config.adapter)
    return config.model_copy(update={"model": model, "adapter": adapter, "dataset": dataset})


def read_config(directory: JobDirectory) -> TrainingConfig:
    """Return the training config in job.json.

    Raises:
        ConfigError: there is none, or it is not valid.
    """
    job = read_json(directory.job)
    if job is None:
        raise ConfigError(
            f"{directory.job} is missing or no JSON object.",
            "Write the job with 'trainctl run', or by hand: {\"config\": {...}}.",
        )
    return validated(TrainingConfig, job.get("config"), str(directory.job))


def prepare(
    directory: JobDirectory, config: TrainingConfig
) -> tuple[TrainingRun, dict[str, Any], Usage]:
    """Load model and tokenizer, tokenise the data, predict the memory; this imports torch."""
    _say("loading libraries")
    # It warns about kernels that are not used here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from trainer.data.tokenization import prepare_datasets
    from trainer.engine.job_trainer import TrainingRun
    from trainer.engine.memory_prediction import predicted
    from trainer.training.first_row import tell_first_row
    from trainer.training.settling import settled, unlearned
    from trainer.training.usage import Usage

    leave_out_imports()
    directory.cache.mkdir(exist_ok=True)
    directory.checkpoints.mkdir(exist_ok=True)
    _say(f"loading {config.model}")
    tokenizer = load_tokenizer(config)
    refuse_quantised_base(config)
    refuse_export(config, tokenizer)
    # The first process of a machine writes the Arrow files, and the others open them.
    with first_here_first():
        data = prepare_datasets(config, tokenizer, directory.cache)
    config = settled(config, data)
    # After the data: bad rows are found before minutes are spent on loading weights.
    model, status, rank = load_model(config), directory.read_status(), own_rank()
    limits = check_limits(model, tokenizer, config, data.facts)
    if own_rank().is_first:
        _tell_rows(directory, config, data.facts)
        for line in [*limits, *unlearned(config, data, tokenizer)]:
            _say(f"warning: {line}")
        tell_first_row(directory, tokenizer, data.train[0])
    [divisor] = highest([status.batch_divisor])  # memory may have run out on one machine only
    # Free memory differs from process to process, but all must decide alike.
    decided, memory = of_first(
        lambda: predicted(
            config,
            data.facts["longest"],
            divisor=divisor,
            model=model,
            processes=rank.local_world_size
            if config.parallelism == "fsdp_hybrid"
            else rank.world_size,
        )
    )
    run = TrainingRun(
        config=decided,
        directory=directory,
        model=model,
        tokenizer=tokenizer,
        train_dataset=data.train,
        eval_dataset=data.eval,
        batch_divisor=divisor,
        learning_rate_factor=status.learning_rate_factor,
        inputs=inputs_of(config, data.facts, tokenizer, model.config),
    )
    trained, total = parameters(run.model)
    _say(f"training {trained:,} of {total:,} parameters on {data.facts['train_rows']:,} rows")
    _say(f"an optimizer step has {batch_in_words(decided, own_rank().world_size, divisor)}")
    saved = ", with gradient checkpointing" if decided.gradient_checkpointing else ""
    _say(f"predicted memory {memory['peak']:.2f} GB{saved}")
    return run, data.facts, Usage(memory)


def _made(run: TrainingRun) -> dict[str, Any]:
    """Return what was decided here, for the report: the job leaves it to the trainer."""
    from trainer.training.settling import sees

    trained, total = parameters(run.model)
    return {
        "parameters": total,
        "trainable_parameters": trained,
        "processes": own_rank().world_size,
        "batch_divisor": run.batch_divisor,
        "learning_rate_factor": run.learning_rate_factor,
        "gradient_checkpointing": run.config.gradient_checkpointing is True,
        "dtype": precision(run.config),
        "sees": int(sees(run.config)),
        **run.notes(),
    }


def _tell_rows(directory: JobDirectory, config: TrainingConfig, facts: dict[str, Any]) -> None:
    """Say once what became of the rows; an event too where some were dropped."""
    lines = told_at_start(facts, config.max_length)
    if facts["dropped"]:
        counts = {name: facts[name] for name in ("dropped", "rows")}
        note_event(directory, Kind.ROWS_DROPPED, lines[0], **counts)
    for line in [*lines, *remarks(facts)]:
        _say(line)
    if warning := warning_about(facts, config.max_length):
        _say(f"warning: {warning}")


def _assemble(run: TrainingRun, control_reader: ControlReader) -> tuple[Any, Obedience, Evaluation]:
    """Build the method's trainer and hang our callbacks into it."""
    import transformers

    from trainer.engine.callbacks import Evaluation, Obedience, Recorder

    transformers.utils.logging.set_verbosity_warning()
    obedience, evaluation = Obedience(control_reader), Evaluation(run.config)
    run.protected_steps = evaluation.best_steps
    trainer = importlib.import_module(METHODS[run.config.method].module).build(run)
    # It prints every log entry as a dict; the Recorder writes one line instead.
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.add_callback(Recorder(run.directory, trainer, run.directory.read_status().attempt))
    if run.eval_dataset is not None:
        trainer.add_callback(evaluation)
    for callback in load_callbacks(run.config):
        trainer.add_callback(callback)
    # Last, so that it agrees on what the user's own callbacks have asked for in this step.
    trainer.add_callback(obedience)
    return trainer, obedience, evaluation


def _fail(directory: JobDirectory, error: Exception) -> int:
    """Write the failure where people and programs look for it; the sentence before the stack."""
    ours, rank = translate(error, directory.root), own_rank()
    if rank.world_size > 1:
        record_failure(directory, rank, ours)
    _say(f"error {type(ours).__name__}: {ours.message} {ours.suggestion}")
    if not isinstance(ours, ConfigError | PeerLost):
        traceback.print_exception(error)  # a person's mistake needs no stack, a failure does
    if rank.is_first_here:
        directory.update_status(state=JobState.FAILED, error=ours.to_dict())
    fail_trackers()  # last: a server that is away is asked for minutes
    if rank.world_size > 1:  # an orderly end would wait for the others
        sys.stderr.flush()
        os._exit(1)
    return 1


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - standard output is the job's log


if __name__ == "__main__":
    sys.exit(begin(sys.argv[1]))
