"""python -m trainer: supervise the training job in a job directory. Standard library only.

What `job.json` may hold for the supervisor:

    limits    max_restarts, stall_timeout_minutes, stop_grace_seconds, max_runtime_minutes
    config    per_device_train_batch_size, which is divided when memory runs out
    world     how many processes train together, on which machines; see trainer.contract.world
    command   the trainer's command line as a list of words, instead of this package's trainer
    notice    a line of sh that ends well when the provider takes the machine back

And `gpus.json`, where there is one: uuids of GPUs that are locked while the job trains; share_gb and
vram_gb, where it has only so many GiB of each, of so many that are shared out.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

from trainer.contract.errors import ConfigError, GpusTaken
from trainer.contract.files import read_json
from trainer.contract.gpu_locks import Held, Holder, read_allocation, take
from trainer.contract.job_directory import Desired, JobDirectory, JobState
from trainer.supervision.process import detach
from trainer.supervision.restart_decision import OWN_TRAINER, Terms
from trainer.supervision.supervisor import Supervisor, job_terms, ownership

BAD_USAGE = 2
# Callers branch on these numbers: once released, they stay.
NOT_OURS = 5
GPUS_TAKEN = 6
EXIT_CODES = {
    JobState.COMPLETED: 0,
    JobState.FAILED: 1,
    JobState.PAUSED: 3,
    JobState.STOPPED: 4,
}
EPILOG = """\
exit codes:
  0  completed (or the verb was carried out)
  1  failed: status.json and train.log say why
  2  bad usage, or no usable job.json
  3  paused
  4  stopped
  5  somebody else owns the directory
  6  others have its GPUs; nothing was started

A request to pause or stop stays in control.json until --resume, and is obeyed by later starts too.
SIGTERM and Ctrl-C stop the job with a checkpoint; a second one kills it. Whoever looks after the job starts
it again after SIGTERM, which all processes get as their computer goes down: --stop is what ends it.
"""


def main(arguments: list[str] | None = None) -> int:
    """Carry out one command and return its exit code."""
    options = _parser().parse_args(arguments)
    job = JobDirectory(options.job_directory)
    verb: Callable[[JobDirectory, Terms], int] = options.verb
    try:
        return verb(job, job_terms(job))
    except ConfigError as error:
        _complain(str(error))
        return BAD_USAGE
    except GpusTaken as error:
        _complain(str(error))
        return GPUS_TAKEN
    except OSError as error:
        _complain(f"{error.filename or job.root}: {error.strerror}.")
        # Not BAD_USAGE: the command was right, the file system was not.
        return EXIT_CODES[JobState.FAILED]


def supervise(job: JobDirectory, terms: Terms) -> int:
    """Supervise in the foreground."""
    with ownership(job) as lock:
        if lock is None:
            pid = job.read_status().pid
            # The owner may have ended since; then its pid in the status is merely the last one
            # known.
            _complain(f"{job.root} is in use by another process ({pid}); wait until it ends.")
            return NOT_OURS
        with _gpus(job) as gpus:
            state = Supervisor(job, terms, lock, gpus, echo=True).run()
    if state is not JobState.COMPLETED:
        status = job.read_status()
        why = str(status.exception() or status.reason or "see control.json.")
        _complain(f"{job.root} {state}: {why}")
    return EXIT_CODES[state]


def supervise_detached(job: JobDirectory, terms: Terms) -> int:
    """Supervise in a process that outlives this one; print its process id."""
    if terms.command is None and terms.module == OWN_TRAINER:
        from trainer.supervision.warm import serve_warmly  # not for those who look at the status

        code = serve_warmly(["--detach", str(job.root.absolute())])
        if code is not None:
            return code
    with ownership(job) as lock:
        if lock is None:
            pid = job.read_status().pid
        else:
            try:
                # The forked process inherits the descriptors, and with them the locks: no gap in
                # which another could take directory or GPUs between our exit and its start.
                with _gpus(job) as gpus:
                    pid = detach(functools.partial(_work, job, terms, lock, gpus), job.log)
            except GpusTaken as error:
                _say({"pid": None, "already_running": False, "gpus_taken": error.message})
                return GPUS_TAKEN
            except ConfigError as error:
                # Said here, too: to whoever asks over a network an exit code alone is no answer.
                _say({"pid": None, "already_running": False, "refused": error.to_dict()})
                return BAD_USAGE
    _say({"pid": pid, "already_running": lock is None})
    return 0


def show_status(job: JobDirectory, terms: Terms) -> int:
    """Print the status, the sizes of the files that grow, and whether anything is alive."""
    del terms
    # Before the status is read: if nothing was alive then, a state of rest read afterwards
    # is final. In the other order a trainer could still write between the two.
    alive = job.is_alive()
    sizes = {f"{path.stem}_bytes": _size(path) for path in (job.log, job.metrics, job.events)}
    _say({**dataclasses.asdict(job.read_status()), **sizes, "alive": alive})
    return 0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def request(desired: Desired, job: JobDirectory, terms: Terms) -> int:
    """Write a request to run, pause or stop."""
    job.request(
        desired, grace_seconds=terms.grace_seconds, reason=f"{desired} was asked for by command"
    )
    return 0


def _work(
    job: JobDirectory, terms: Terms, lock: int, gpus: Held, announce: Callable[[], None]
) -> int:
    gpus.sign(_holder(job))
    return EXIT_CODES[Supervisor(job, terms, lock, gpus, announce=announce).run()]


def _gpus(job: JobDirectory) -> Held:
    """Take the GPUs that the job is to have."""
    return take(read_allocation(read_json(job.gpus)), _holder(job))


def _holder(job: JobDirectory) -> Holder:
    record = read_json(job.job) or {}
    return Holder.here(run=str(record.get("run_id") or ""), name=str(record.get("name") or ""))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Supervise the training job in a job directory, in the foreground.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # An abbreviation that works today becomes ambiguous when an option is added.
        allow_abbrev=False,
    )
    parser.add_argument("job_directory", metavar="JOBDIR", help="the folder that holds job.json")
    verbs: dict[str, tuple[Callable[[JobDirectory, Terms], int], str]] = {
        "--detach": (supervise_detached, "supervise in the background; print its process id"),
        "--status": (show_status, "print status.json and whether anybody is alive, as JSON"),
        "--pause": (functools.partial(request, Desired.PAUSE), "save a checkpoint and pause"),
        "--stop": (functools.partial(request, Desired.STOP), "save a checkpoint and stop"),
        "--resume": (functools.partial(request, Desired.RUN), "withdraw --pause or --stop"),
    }
    group = parser.add_mutually_exclusive_group()
    for name, (verb, meaning) in verbs.items():
        group.add_argument(name, dest="verb", action="store_const", const=verb, help=meaning)
    parser.set_defaults(verb=supervise)
    return parser


def _say(record: dict[str, object]) -> None:
    print(json.dumps(record))  # noqa: T201  this is the command's answer


def _complain(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
