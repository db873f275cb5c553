"""Run a job: a process in the background executes it, and the terminal looks on.

So the job goes on when the terminal closes, or when this process ends. Ctrl-C asks what to do.
Nothing here imports Prefect.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from enum import Enum, auto
from typing import NoReturn
from uuid import UUID

from flows.attended import FLOW_LOG, is_worked_on, start_in_background
from flows.run_folder import RunFolder
from flows.shown import job_state, short_id
from gateway import jobs
from gateway.cli import watch
from gateway.cli.ending import tell_end
from gateway.cli.live import display
from gateway.cli.logs import MirrorReader
from gateway.cli.signals import ENDING, Signals, Told
from gateway.exits import ApiUnreachable, Exit, code_of_state, say
from gateway.prefect import attendant
from gateway.prefect.client import JobRun, LightClient, connected
from trainer.config import TrainingJob
from trainer.contract.errors import TrainingFailed
from trainer.contract.job_directory import JobState

POLL_SECONDS = 0.5
PAUSE_SECONDS = 60.0  # in which the process of a job that shows as paused ends
QUESTION = "\n[d]etach: it goes on in the background   [s]top: save and stop   [c]ontinue ? "
CODES = {
    signal.SIGINT: Exit.INTERRUPTED,
    signal.SIGTERM: Exit.TERMINATED,
    signal.SIGHUP: Exit.HUNG_UP,
}


class Phase(Enum):
    """What the person at the terminal has said so far."""

    WATCHING = auto()
    ASKED = auto()
    STOPPING = auto()


def run(job: TrainingJob, *, detach: bool, logs: bool) -> Exit:
    """Create a run of a checked job, execute it in the background, and look on."""
    client = connected()
    jobs.check_next(client, job)
    # A signal between the run's creation and the start of its process must not leave a run that no
    # process executes.
    with Signals() as signals:
        created = client.create_run(job.name, {"job": job.model_dump(mode="json")})
        say(f"job {created}")
        say(f"link {jobs.link(created)}")
        return execute(client, created, signals, detach=detach, logs=logs)


def execute(
    client: LightClient, run_id: UUID, signals: Signals, *, detach: bool, logs: bool
) -> Exit:
    """Execute a run in the background, look on until it is at rest, and say how it ended."""
    folder = RunFolder(run_id)
    # Before the process starts, so that none of its notes is missed and none of an earlier attempt
    # is shown.
    notes = MirrorReader(folder.notes, whole=False)
    process = start_in_background(run_id, asked=True)
    # Replaced even if one runs: ours has the environment of this command, and so the newest keys.
    attendant.start(replace=True)
    if detach:
        tell_detached(run_id)
        return Exit.OK
    view = Viewer(client, run_id, process, signals, notes, show_logs=logs)
    ended = view.until_rest()
    tell_end(ended, folder)
    return code_of_state(job_state(ended))


class Viewer:
    """One person who looks on while a process executes a run."""

    def __init__(
        self,
        client: LightClient,
        run_id: UUID,
        process: subprocess.Popen[bytes],
        signals: Signals,
        notes: MirrorReader,
        *,
        show_logs: bool,
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._process = process
        self._signals = signals
        folder = RunFolder(run_id)
        self._lines = [notes, *([MirrorReader(folder.log)] if show_logs else [])]
        self._steps = watch.mirrored(run_id)
        self._screen = display()
        self._paused_since: float | None = None
        self._phase = Phase.WATCHING

    def until_rest(self) -> JobRun:
        """Show the run until it is at rest, and return it as it is then.

        Raises:
            TrainingFailed: the process ended before it had begun.
        """
        try:
            # Now that a process executes the run, a signal may end this one at any moment without
            # loss.
            self._signals.raise_from_now(*ENDING)
            while True:
                run = self._look()
                if run and self._is_at_rest(run):
                    self._show(run)
                    return run
                self._wait()
        except Told as told:
            self._leave(CODES[signal.Signals(told.number)])
        except BrokenPipeError:
            if self._phase is Phase.STOPPING:  # Ctrl-C ended the reader of our output, too
                self._leave(Exit.INTERRUPTED)
            raise
        except OSError as error:
            if error.errno == errno.EIO:  # the terminal is gone, and its signal on the way
                self._leave(Exit.HUNG_UP)
            raise
        finally:
            self._screen.close()

    def _look(self) -> JobRun | None:
        # Asked before the state is read, so that the state of a process that has ended is its last.
        has_ended = self._process.poll() is not None
        try:
            run = self._client.read_flow_run(self._run_id)
        except ApiUnreachable:
            run = None  # training goes on without the API, and so does its view later
        for reader in self._lines:
            for line in reader.read():
                self._screen.line(line)
        # The panel would draw over the question.
        if run and self._phase is not Phase.ASKED:
            self._show(run)
        if has_ended and run and job_state(run) is JobState.CREATED:
            folder = RunFolder(self._run_id).root
            if not is_worked_on(folder):  # it may have been revived meanwhile
                raise TrainingFailed(
                    "The process that was to execute the job ended at once.",
                    f"The cause is at the end of {folder / FLOW_LOG}",
                )
        return run

    def _is_at_rest(self, run: JobRun) -> bool:
        """Whether this is the end; Prefect's own button shows a job as paused before it is."""
        state = job_state(run)
        if state is not JobState.PAUSED or self._process.poll() is not None:
            return state.at_rest
        self._paused_since = self._paused_since or time.monotonic()
        return time.monotonic() - self._paused_since > PAUSE_SECONDS

    def _show(self, run: JobRun) -> None:
        self._screen.show(jobs.view(run, self._steps()))

    def _wait(self) -> None:
        stdin = [sys.stdin.fileno()] if self._phase is Phase.ASKED else []
        # The terminal hands over whole lines, so reading one does not block.
        if self._signals.wait(POLL_SECONDS, stdin):
            self._answered(sys.stdin.readline())
        # Each Ctrl-C counts: the second one of two quick ones is the answer to the question of the
        # first.
        while self._signals.heard:
            self._signals.heard.pop()
            self._interrupted()

    def _interrupted(self) -> None:
        if self._phase is Phase.ASKED:
            # A second Ctrl-C at the question is impatience, and means stop.
            self._answered("s")
        # Only where a person can see the question and answer it.
        elif sys.stdin.isatty() and sys.stdout.isatty():
            self._ask()
        else:
            self._stop()

    def _ask(self) -> None:
        self._phase = Phase.ASKED
        self._screen.hide()
        sys.stdout.write(QUESTION)
        sys.stdout.flush()

    def _answered(self, answer: str) -> None:
        self._phase = Phase.WATCHING
        match answer.strip().lower()[:1]:
            case "d":
                self._leave(Exit.OK)
            case "s":
                self._stop()
            case _:
                pass

    def _stop(self) -> None:
        self._phase = Phase.STOPPING
        # From now on Ctrl-C leaves at once, also out of a request that hangs.
        self._signals.raise_from_now(signal.SIGINT, *ENDING)
        try:
            self._client.set_state(self._run_id, "CANCELLING")
        except ApiUnreachable as error:
            self._screen.line(f"Prefect's API did not take the stop: {error}; Ctrl-C again leaves")
        else:
            self._screen.line(
                "stopping: the training saves a checkpoint first; Ctrl-C again leaves"
            )

    def _leave(self, code: Exit) -> NoReturn:
        """End this process; say how to follow the job if the terminal can still show it."""
        with suppress(OSError):
            self._screen.close()  # the terminal's cursor comes back
            if self._phase is Phase.STOPPING:
                say(f"left at once; the job stops; see: trainctl status {short_id(self._run_id)}")
            else:
                tell_detached(self._run_id)
        # Without flushing: at a terminal that is gone that would fail and change the exit code.
        os._exit(code)


def tell_detached(run_id: UUID) -> None:
    """Say how to follow and how to stop a job in the background."""
    short = short_id(run_id)
    say(f"job {run_id} goes on in the background")
    say(f"follow it:  trainctl monitor {short} --follow")
    say(f"stop it:    trainctl cancel {short}")
