"""The process that runs another trainer: `python -m trainer.command JOBDIR`, under the supervisor.

It runs the command of job.json, copies what it prints into the log, reads metrics out of it,
gives its checkpoints manifests, obeys pause and stop, and leaves the end in status.json.
Standard library only, but for the presets, which translate our settings into another project's.
"""

from __future__ import annotations

import faulthandler
import os
import re
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from trainer.command.keeping import CheckpointKeeper, keep_output, resume_point
from trainer.command.plan import Plan, make_plan
from trainer.command.program import Program
from trainer.command.reading import GrowingFile, MetricsReader, PrintedLines
from trainer.contract.checkpoints import step_of
from trainer.contract.errors import (
    ConfigError,
    IntegrityError,
    OrchestratorError,
    TrainerKilled,
    TrainingFailed,
)
from trainer.contract.events import Kind, note_event
from trainer.contract.files import read_json
from trainer.contract.job_directory import JobDirectory, JobState
from trainer.contract.manifest import verify
from trainer.contract.redaction import redacted_bytes, remember_environment
from trainer.engine.control import ControlReader
from trainer.engine.failures import named_by, translate

GRACE_SHARE = 0.9  # of the grace; the rest is for taking over what was saved
QUOTED_LINES = 3  # of the log, in the error of a command that failed
MAX_QUOTE = 400  # characters


def main(job_directory: str) -> int:
    """Run the job's command and return the exit code: 0 for a clean end, 1 for a failure."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the watchdog asks where it hangs
    directory = JobDirectory(job_directory)
    control_reader = ControlReader(directory)
    try:
        state = control_reader.obeyed(partial(train, directory, control_reader))
    except Exception as error:  # noqa: BLE001 - the outer edge: every failure gets its name here
        ours = translate(error, directory.root)
        _say(f"error {type(ours).__name__}: {ours.message} {ours.suggestion}")
        directory.update_status(state=JobState.FAILED, error=ours.to_dict())
        return 1
    reason = "" if state is JobState.COMPLETED else control_reader.control().reason
    directory.update_status(state=state, reason=reason)
    _say(f"{state}{f': {reason}' if reason else ''}")
    return 0


def train(directory: JobDirectory, control_reader: ControlReader) -> JobState:
    """Run the command from wherever the job stands to its end; return the state it ended in."""
    if _is_whole(directory.output):
        _say("the output already exists")
        return JobState.COMPLETED
    config = (read_json(directory.job) or {}).get("config") or {}
    directory.checkpoints.mkdir(exist_ok=True)
    # Twice: taking over what an earlier attempt left needs a plan, and only then is it known which
    # checkpoint to resume from, which changes the plan.
    plan = _plan(directory, config, None)
    CheckpointKeeper(directory, plan).catch_up()
    checkpoint, rejected = resume_point(directory)
    for name, reason in rejected.items():
        _say(f"warning: skipped a checkpoint: {reason}")
        note_event(directory, Kind.CHECKPOINT_PASSED_OVER, reason, checkpoint=name)
    if checkpoint:
        _say(line := f"resuming from {checkpoint.name}")
        step = step_of(checkpoint)
        note_event(directory, Kind.RESUMED, line, step=step, checkpoint=checkpoint.name)
        directory.update_status(step=step)
        plan = _plan(directory, config, checkpoint)
    place_files(plan, directory.root)
    # From here on a signal is a request that is passed on, no longer an immediate end.
    control_reader.training = True
    if state := control_reader.end_state():
        return state
    _say(f"running {' '.join(plan.words)}")
    run = CommandRun(directory, plan, control_reader)
    if state := run.to_its_end():
        return state
    keep_output(directory, plan, _facts(directory, config))
    return JobState.COMPLETED


class CommandRun:
    """One run of the command."""

    def __init__(self, directory: JobDirectory, plan: Plan, control_reader: ControlReader) -> None:
        self._directory = directory
        self._plan = plan
        self._control_reader = control_reader
        self._reader = MetricsReader(directory, plan.patterns, plan.success, plan.first_step)
        self._keeper = CheckpointKeeper(directory, plan)
        self._keeper.catch_up()
        self._lines = PrintedLines()
        self._line_open = False  # it printed a line, such as a progress bar, that nothing ended yet
        self._file = GrowingFile(directory.root / plan.metrics_file) if plan.metrics_file else None
        self._end_state: JobState | None = None
        self._asked_at: float | None = None
        self._killed = False

    def to_its_end(self) -> JobState | None:
        """Run it; return the state that it was asked to end in, or None when it is done.

        Raises:
            OrchestratorError: it failed.
        """
        with Program(self._plan, self._directory.root) as program:
            self._reader.show(now=True)
            for chunk in program.output():
                self._take(chunk)
                self._obey(program)
            code = program.code
        for line in self._lines.end():
            self._reader.read(line)
        self._look_around()
        # Ended by itself, on request or not: then its last checkpoint is complete. One that was
        # killed may be torn, and must have been still for a while.
        orderly = code == 0 or (self._asked_at is not None and not self._killed and code > 0)
        self._tell(self._keeper.finish(self._reader.step, orderly=orderly))
        self._reader.show(now=True)
        # The exit code says little of a command that was asked to end: many end with an error on
        # SIGTERM although they saved.
        if self._end_state and not (code == 0 and self._is_done()):
            return self._end_state
        if code:
            raise failure(code, list(self._reader.last), self._directory.root)
        if not self._reader.succeeded and self._plan.success:
            raise TrainingFailed(
                "The command ended with exit code 0, but printed nothing that matches "
                f"training.command.success = {self._plan.success.pattern!r}."
            )
        return None

    def _is_done(self) -> bool:
        """Whether it had reached its end when it was asked to end: there is nothing to resume."""
        return self._plan.success is not None and self._reader.succeeded

    def _take(self, chunk: bytes) -> None:
        if chunk:
            _write(chunk)
            self._line_open = not chunk.endswith(b"\n")
            for line in self._lines.feed(chunk):
                self._reader.read(line)
        self._look_around()
        self._tell(self._keeper.look(self._reader.step))

    def _look_around(self) -> None:
        if self._file:
            for line in self._file.new_lines():
                self._reader.understand(line)
        self._reader.show()

    def _obey(self, program: Program) -> None:
        # A request that is withdrawn once the command was asked to end comes too late for it: what it
        # leaves is not a result, and the supervisor, which sees the withdrawal, starts it again.
        self._end_state = self._control_reader.end_state() or self._end_state
        if self._end_state is None:
            return
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self._say(f"asking the command to save and end ({self._plan.stop_signal})")
            program.ask_to_end(self._plan.stop_signal)
        elif not self._killed and now - self._asked_at > self._grace():
            # Killed only after our share of the grace, before the supervisor kills us: the rest is
            # for taking over the checkpoints.
            self._killed = True
            self._say("the command did not end within stop_grace_seconds and is killed")
            program.kill()

    def _grace(self) -> float:
        return GRACE_SHARE * max(0.0, self._control_reader.control().grace_seconds)

    def _tell(self, kept: list[Path]) -> None:
        for path in kept:
            self._say(line := f"kept {path.name}")
            step = step_of(path)
            note_event(self._directory, Kind.SAVED, line, step=step, checkpoint=path.name)
        if kept:
            self._reader.show(now=True)

    def _say(self, line: str) -> None:
        """Say something on a line of its own."""
        _say(f"\n{line}" if self._line_open else line)
        self._line_open = False


def place_files(plan: Plan, root: Path) -> None:
    """Copy the command's own files into the job directory, unless an earlier start did.

    Raises:
        ConfigError: one is not there.
    """
    for source in plan.files:
        target = root / source.name
        if target.exists():
            continue
        # Copied beside its place and renamed: a start that finds the target skips the copy, so it
        # must be whole.
        staged = root / f".{source.name}.arriving"
        shutil.rmtree(staged, ignore_errors=True)
        if source.is_dir():
            shutil.copytree(source, staged)
        elif source.is_file():
            shutil.copy2(source, staged)
        else:
            raise ConfigError(f"training.command.files: {source} is not there.")
        staged.rename(target)


def failure(code: int, lines: list[str], folder: Path) -> OrchestratorError:
    """Return the error that a command's exit code and last lines point to."""
    # What its last lines name (memory, disk, a missing package) says more than an exit code.
    if named := named_by(lines, folder):
        return named
    last = re.sub(r"\s+", " ", " | ".join(lines[-QUOTED_LINES:]))[-MAX_QUOTE:]
    said = last.rstrip(".") or "it printed nothing"
    if code < 0:
        name = signal.Signals(-code).name
        return TrainerKilled(f"{name} ended the command; it printed last: {said}.")
    return TrainingFailed(f"The command ended with exit code {code}; it printed last: {said}.")


def _plan(directory: JobDirectory, config: dict[str, Any], checkpoint: Path | None) -> Plan:
    command = config.get("command") or {}
    if config.get("trainer", "command") != "command":
        from trainer.presets import translate as translate_preset

        command = translate_preset(directory, checkpoint)
    return make_plan(directory, config, command, checkpoint)


def _facts(directory: JobDirectory, config: dict[str, Any]) -> dict[str, str]:
    """Return what the model card says: model and dataset as their user names them."""
    named = (read_json(directory.job) or {}).get("named") or {}
    trainer = str(config.get("trainer", "command"))
    facts = {"trainer": trainer, **{name: str(value) for name, value in named.items()}}
    if trainer == "command":
        return facts
    from trainer.config import TrainingConfig
    from trainer.results.summary import Summary

    return Summary(config=TrainingConfig.model_validate(config)).settings() | facts


def _is_whole(folder: Path) -> bool:
    try:
        verify(folder)
    except IntegrityError:
        return False
    return True


def _write(chunk: bytes) -> None:
    chunk = redacted_bytes(chunk)
    while chunk:
        # Not print(): the bytes go through as they are, and write(2) may take only a part.
        chunk = chunk[os.write(1, chunk) :]


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - standard output is the job's log


if __name__ == "__main__":
    remember_environment()
    sys.exit(main(sys.argv[1]))
