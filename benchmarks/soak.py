"""Kill every method's job at random moments of its life, go on each time, and compare the ends.

    <method> <kills> <restarts> <checkpoints passed over> <seconds> <exact: yes|no>

Each method's example, shortened, is trained whole, and then with 20 kills by SIGKILL: while it
starts, in a step, in a save, in an evaluation, while the output is written. Some kills take the
supervisor along; some of these also tear the newest checkpoint, as a power cut would, and that one
must be passed over. Exact: every number that every life wrote of a step, and every weight, to the
last bit. Exits with 1 unless all are. `--seed` repeats a plan; the moments are the plan's, the
instructions that they hit are not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import place
from methods import directory_of, supervised, weights

from trainer.config.methods import METHODS
from trainer.contract.checkpoints import STAGING, all_checkpoints, step_of
from trainer.contract.events import Kind, note_event, parse_events
from trainer.contract.job_directory import JobDirectory, JobState
from trainer.contract.manifest import MANIFEST, read_manifest
from trainer.contract.metrics import Record, parse_records

STEPS, SAVE_STEPS, EVAL_STEPS = 24, 2, 8
PHASES = {"start": 4, "step": 6, "save": 5, "evaluation": 2, "output": 3}
"""What is killed, and how often of 20 times."""
LENGTHS = {"step": 0.15, "save": 0.03, "evaluation": 0.2, "output": 0.02}  # seconds
"""Within which the kill falls at random; that of a start is measured."""
TEARS = ("cut", "flip", "unfinish")
SHOWN = 5  # of what is not exact
NOT_THE_METHOD = re.compile(r"timestamp|attempt|step_time|.*(_per_second|_seconds|_gb|_percent)")
"""What a record tells of the machine and the hour."""


@dataclass(frozen=True, order=True, kw_only=True)
class Kill:
    """One moment."""

    step: int
    """It falls on or after this step."""
    phase: str
    share: float
    """How far into the phase, of its usual length."""
    both: bool
    """Whether the supervisor is killed too; then a person starts the job again."""
    tear: str = ""
    """What is done to the newest checkpoint before the job is started again."""

    def __str__(self) -> str:
        who = "supervisor and trainer" if self.both else "trainer"
        return f"{who} in {self.phase}, step {self.step}, {self.share:.2f} of its time" + (
            f", checkpoint: {self.tear}" if self.tear else ""
        )


@dataclass(kw_only=True)
class Tally:
    """What came of one method."""

    method: str
    kills: int = 0
    restarts: int = 0
    passed_over: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    """Why it is not exact."""

    def __str__(self) -> str:
        return (
            f"{self.method:8} {self.kills:5} {self.restarts:8} {self.passed_over:23} "
            f"{self.seconds:8.1f}  {'no' if self.faults else 'yes'}"
        )


def main() -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", help="default: all")
    parser.add_argument("--kills", type=int, default=20, help="of each method; default 20")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the plan")  # noqa: S311
    parser.add_argument("--jobs", type=int, default=2, help="methods at a time; default 2")
    given = parser.parse_args()
    chosen = given.methods or list(METHODS)
    total = Tally(method="total")
    with place() as here:
        print(f"seed {given.seed}")
        print("method   kills restarts checkpoints passed over  seconds  exact", flush=True)
        began = time.monotonic()
        pool = ThreadPoolExecutor(given.jobs)
        try:
            tallies = list(
                pool.map(lambda name: soak(name, here.folder, given.kills, given.seed), chosen)
            )
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        total.seconds = time.monotonic() - began
    for tally in tallies:
        total.kills += tally.kills
        total.restarts += tally.restarts
        total.passed_over += tally.passed_over
        total.faults += tally.faults
    print(total)
    return 1 if total.faults else 0


def soak(method: str, folder: Path, count: int, seed: int) -> Tally:
    """Train one method whole and with kills; print and return what came of it."""
    settings = {"max_steps": STEPS, "save_steps": SAVE_STEPS, "eval_steps": EVAL_STEPS}
    whole = directory_of(method, folder / f"{method}-whole", **settings)
    killed = directory_of(method, folder / f"{method}-killed", restarts=2 * count, **settings)
    began = time.monotonic()
    supervisor = supervised(whole)
    while supervisor.poll() is None and not whole.metrics.exists():
        time.sleep(0.01)
    start_seconds = time.monotonic() - began
    supervisor.wait()
    tally = Tally(method=method)
    if (state := whole.read_status().state) is not JobState.COMPLETED:
        tally.faults.append(f"undisturbed it {state}")
    else:
        expected = by_moment(whole)
        evaluates = any(is_evaluation and step for step, is_evaluation in expected)
        kills = plan(random.Random(f"{seed} {method}"), count, evaluates=evaluates)  # noqa: S311
        disturb(killed, kills, {**LENGTHS, "start": start_seconds}, tally)
        tally.faults += differences(expected, killed)
        if weights(killed) != weights(whole):
            tally.faults.append("other weights")
        read_events(killed, tally)
    tally.seconds = time.monotonic() - began
    why = [f"  {method}: {fault}" for fault in tally.faults[:SHOWN]]
    print("\n".join([str(tally), *why]), flush=True)
    return tally


def plan(draw: random.Random, count: int, *, evaluates: bool) -> list[Kill]:
    """Return random kills in the order of the steps on which they fall."""
    twenty = [phase for phase, times in PHASES.items() for _ in range(times)]
    phases = draw.sample(twenty * (count // len(twenty) + 1), count)
    kills = []
    for phase in phases:
        step = draw.randint(1, STEPS - 4)
        if phase == "evaluation":
            step, phase = (step // EVAL_STEPS + 1) * EVAL_STEPS, phase if evaluates else "step"
        step = STEPS if phase == "output" else min(step, STEPS - 4) if phase == "step" else step
        both = draw.random() < 0.4
        tear = draw.choice(TEARS) if both and draw.random() < 0.5 else ""
        kills.append(Kill(step=step, phase=phase, share=draw.random(), both=both, tear=tear))
    return sorted(kills)


# Killing ------------------------------------------------------------------------------------------


def disturb(job: JobDirectory, kills: list[Kill], lengths: dict[str, float], tally: Tally) -> None:
    """Train a job through all kills to its end."""
    supervisor = supervised(job)
    attempt = 1
    for kill in kills:
        if not comes(job, supervisor, kill, attempt):
            break
        wait_in(job, kill, attempt, kill.share * lengths[kill.phase])
        if not strike(job, supervisor, kill):
            break
        tally.kills += 1
        attempt = job.read_status().attempt + 1
        half = ", and left half a save" if is_saving(job) else ""
        print(f"  {tally.method} {tally.kills}/{len(kills)}: {kill}{half}", flush=True)
        if kill.both:
            tear(job, kill)
            supervisor = supervised(job)
    supervisor.wait()
    status = job.read_status()
    tally.restarts = status.attempt - 1
    if status.state is not JobState.COMPLETED:
        tally.faults.append(f"it {status.state}: {status.error}")


def comes(job: JobDirectory, supervisor: subprocess.Popen[bytes], kill: Kill, attempt: int) -> bool:
    """Wait for the phase of a kill; tell whether it came before the job's end."""
    while supervisor.poll() is None:
        if job.read_status().attempt >= attempt and is_in(job, kill, attempt):
            return True
        time.sleep(0.002)
    return False


def wait_in(job: JobDirectory, kill: Kill, attempt: int, seconds: float) -> None:
    """Wait so long in the phase of a kill; a start may be faster this time, and is over then."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if kill.phase == "start" and last_record(job).get("attempt", 0) >= attempt:
            return
        time.sleep(min(left, 0.01))


def is_in(job: JobDirectory, kill: Kill, attempt: int) -> bool:
    """Whether the trainer that was started as number `attempt` is in the phase of a kill."""
    if kill.phase == "start":
        return True
    if kill.phase == "output":
        return (job.root / ".output").exists()
    last = last_record(job)
    if last.get("attempt", 0) < attempt or last["step"] < kill.step:
        return False
    return kill.phase != "save" or is_saving(job)


def is_saving(job: JobDirectory) -> bool:
    """Whether a checkpoint is half written."""
    with contextlib.suppress(FileNotFoundError):  # it is over while we look
        return any((job.checkpoints / STAGING).glob("*/*"))
    return False


def last_record(job: JobDirectory) -> Record:
    """Return what was recorded last."""
    with contextlib.suppress(FileNotFoundError), job.metrics.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 8192))
        if records := parse_records(stream.read().splitlines())[0]:
            return records[-1]
    return {}


def strike(job: JobDirectory, supervisor: subprocess.Popen[bytes], kill: Kill) -> bool:
    """Kill; tell whether there was anything to kill."""
    trainer = job.read_status().trainer_pid
    if kill.both:
        supervisor.kill()
        supervisor.wait()
    try:
        os.killpg(trainer, signal.SIGKILL)
    except ProcessLookupError:
        return False
    while kill.both and job.is_alive():
        time.sleep(0.002)
    return True


def tear(job: JobDirectory, kill: Kill) -> None:
    """Damage the newest checkpoint while nobody has it, and say so among the events."""
    if not kill.tear or not (found := all_checkpoints(job.checkpoints)):
        return
    files = sorted(read_manifest(found[0])["files"]) if (found[0] / MANIFEST).exists() else []
    victim = found[0] / (files[int(kill.share * len(files))] if files else MANIFEST)
    if kill.tear == "unfinish" or not victim.exists():
        (found[0] / MANIFEST).unlink(missing_ok=True)
    elif kill.tear == "cut":
        os.truncate(victim, victim.stat().st_size // 2)
    else:
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    name = found[0].name
    note_event(job, "torn", f"torn {name}", step=step_of(found[0]), checkpoint=name)


# Comparing ----------------------------------------------------------------------------------------


def by_moment(job: JobDirectory) -> dict[tuple[int, bool], Record]:
    """Return what was recorded of each step, and of each evaluation, the last time."""
    return {moment(record): comparable(record) for record in all_records(job)}


def all_records(job: JobDirectory) -> list[Record]:
    """Return the records of all lives; a line that a kill cut short is no record."""
    with job.metrics.open("rb") as stream:
        return parse_records(line.removesuffix(b"\n") for line in stream)[0]


def moment(record: Record) -> tuple[int, bool]:
    """Return step, and whether it is an evaluation's."""
    return record["step"], "eval_loss" in record


def comparable(record: Record) -> dict[str, Any]:
    """Return what must be the same to the last bit."""
    return {k: v for k, v in record.items() if not NOT_THE_METHOD.fullmatch(k)}


def differences(expected: dict[tuple[int, bool], Record], job: JobDirectory) -> list[str]:
    """Return what any life recorded otherwise than the undisturbed run."""
    found = []
    for record in all_records(job):
        ours, theirs = comparable(record), expected.get(moment(record), {})
        if ours != theirs:
            names = [n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n)]
            found.append(f"step {record['step']} of life {record['attempt']}: {sorted(names)}")
    if missing := expected.keys() - by_moment(job).keys():
        found.append(f"nothing of step {min(missing)[0]}")
    return found


def read_events(job: JobDirectory, tally: Tally) -> None:
    """Count the checkpoints passed over: those that were torn, and no others."""
    torn: set[str] = set()
    for event in parse_events(job.events.read_bytes().splitlines()):
        name = str(event.facts.get("checkpoint", ""))
        match event.kind:
            case "torn":
                torn.add(name)
            case Kind.SAVED:
                torn.discard(name)
            case Kind.RESUMED if name in torn:
                tally.faults.append(f"{name} was torn, and resumed from")
            case Kind.CHECKPOINT_PASSED_OVER:
                tally.passed_over += 1
                if name not in torn:
                    tally.faults.append(f"nobody tore it, but: {event.message}")


if __name__ == "__main__":
    sys.exit(main())
