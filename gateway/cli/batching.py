"""What the commands about batches do; none of them imports Prefect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from flows.batches.page import JobRow, rows, summary
from flows.batches.plan import BatchPlan
from flows.batches.publishing import publish, write_page
from flows.shown import short_id
from gateway import jobs
from gateway.batches import changing
from gateway.batches.changing import Pair
from gateway.batches.checking import checked_plan
from gateway.batches.finding import all_batches, members_of
from gateway.batches.submission import submit as hand_over
from gateway.batches.submission import targets_of
from gateway.cli.table import print_table
from gateway.exits import ApiUnreachable, Exit, note, say, say_json
from gateway.prefect.client import JobRun, LightClient, connected
from gateway.prefect.server import known as known_server
from gateway.prefect.settings import PrefectSettings
from gateway.view import age, printable
from trainer.config.training import TrainingConfig
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState

COLUMNS = ("ID", "JOB", "STATE", "AFTER", "AGE", "WHY")


def submit(file: Path, name: str | None, *, dry_run: bool, follow: bool, as_json: bool) -> Exit:
    """Check a batch, hand it over, and look on if that is wanted."""
    plan = checked_plan(file, name, note)
    if dry_run:
        if PrefectSettings().url or known_server():  # none is started for a look
            try:
                targets_of(connected(), plan)
            except ApiUnreachable as error:
                note(f"the work pools are not looked at: {error.message}")
        _tell_plan(plan, as_json=as_json)
        return Exit.OK
    client = connected()
    done = hand_over(client, plan)
    page = _put_page(client, plan.name)
    if as_json:
        runs = {job: str(id) for job, id in done.runs.items()}
        say_json({"batch": plan.name, "jobs": runs, "new": done.new, "page": str(page)})
    else:
        count = len(done.runs)
        again = f", {count - done.new} of them were there already" if done.new < count else ""
        say(f"batch {plan.name}: {count} jobs{again}")
        say(f"page {page}")
    if follow:
        return look_on(plan.name)
    if not as_json:
        say(f"follow it: trainctl batches show {plan.name} --follow")
    return Exit.OK


def _tell_plan(plan: BatchPlan, *, as_json: bool) -> None:
    if as_json:
        say_json({"batch": plan.name, "jobs": [{"name": j.name, **j.body()} for j in plan.jobs]})
        return
    found = [
        (job.name, ", ".join(job.after) or "–", job.deployment, _how(job.job.training))
        for job in plan.jobs
    ]
    print_table(("JOB", "AFTER", "DEPLOYMENT", "METHOD"), found, named=1)


def _how(training: TrainingConfig) -> str:
    """Return the method, which is a setting of our own trainer alone, or another trainer's name."""
    return training.method if training.trainer == "builtin" else training.trainer


def list_batches(*, as_json: bool) -> None:
    """Print all batches, the newest first."""
    found = all_batches(connected())
    now = datetime.now(UTC)
    facts = {name: (runs, rows(runs, now)) for name, runs in found.items()}
    if as_json:
        say_json([_record(name, shown) for name, (_, shown) in facts.items()])
    elif not facts:
        say("no batches")
    else:
        cells = [
            (printable(name), str(len(runs)), age(_first(runs)), summary(shown))
            for name, (runs, shown) in facts.items()
        ]
        print_table(("BATCH", "JOBS", "AGE", "STATE"), cells, named=0)


def _first(runs: Iterable[JobRun]) -> datetime | None:
    return min((run.created for run in runs if run.created), default=None)


def _record(name: str, found: list[JobRow]) -> dict[str, Any]:
    return {
        "batch": name,
        "summary": summary(found),
        "jobs": [
            {
                "id": row.id,
                "job": row.name,
                "state": row.word,
                "after": {job: str(ending) for job, ending in row.after.items()},
                "why": row.text,
                "link": jobs.link(UUID(row.id)),
            }
            for row in found
        ],
    }


def show(name: str, to: Path | None, *, follow: bool, as_json: bool) -> Exit:
    """Print the jobs of a batch, and make its page anew."""
    client = connected()
    if follow:
        look_on_code = look_on(name)
    runs = [run for run, _ in members_of(client, name)]
    found = rows(runs, datetime.now(UTC))
    page = _put_page(client, name, to)
    if as_json:
        say_json({**_record(name, found), "page": str(page)})
    else:
        _tell_rows(name, found, runs)
        say(f"page {page}")
    return look_on_code if follow else Exit.OK


def _tell_rows(name: str, found: list[JobRow], runs: list[JobRun]) -> None:
    ages = {str(run.id): age(run.created) for run in runs}
    say(f"batch {printable(name)}: {summary(found)}")
    cells = [
        (
            short_id(row.id),
            printable(row.name),
            row.word,
            ",".join(row.after) or "–",
            ages[row.id],
            printable(row.text).split("\n", 1)[0],
        )
        for row in found
    ]
    print_table(COLUMNS, cells, named=COLUMNS.index("WHY"), least=("AGE", "AFTER"))


def look_on(name: str) -> Exit:
    """Print every change of a job's state until nothing of the batch waits or works."""
    client = connected()
    known: dict[str, str] = {}

    def tell(members: Iterable[Pair]) -> None:
        for row in rows([run for run, _ in members], datetime.now(UTC)):
            if known.get(row.id) != row.word:
                known[row.id] = row.word
                why = f": {printable(row.text)}" if row.text and row.word != "waiting" else ""
                say(f"{row.word:<10} {printable(row.name)}{why}")

    ended = changing.until_rest(client, name, tell)
    _put_page(client, name)
    say(summary(rows([run for run, _ in ended], datetime.now(UTC))))
    return _code(ended)


def _code(members: list[Pair]) -> Exit:
    """Return the exit code for a batch at rest: failed before stopped before paused."""
    states = {one.state for _, one in members}
    for state, code in (
        (JobState.FAILED, Exit.FAILED),
        (JobState.PAUSED, Exit.PAUSED),
        (JobState.STOPPED, Exit.STOPPED),
    ):
        if state in states:
            return code
    return Exit.OK


def cancel(name: str, *, wait: bool) -> Exit:
    """Stop a batch."""
    client = connected()
    done = changing.cancel(client, name)
    say(f"{done.at_once} jobs of batch {name} are stopped, {done.asked} save and stop")
    return _afterwards(client, name, wait=wait and done.asked > 0)


def pause(name: str, *, wait: bool) -> Exit:
    """Pause a batch."""
    client = connected()
    done = changing.pause(client, name)
    say(f"{done.at_once} jobs of batch {name} are paused, {done.asked} save and pause")
    return _afterwards(client, name, wait=wait and done.asked > 0)


def resume(name: str) -> Exit:
    """Go on with a batch."""
    client = connected()
    say(f"{changing.resume(client, name)} jobs of batch {name} go on")
    return _afterwards(client, name, wait=False)


def retry(name: str, *, failed: bool) -> Exit:
    """Execute again what ended without being completed."""
    client = connected()
    say(f"{changing.retry(client, name, failed_only=failed)} jobs of batch {name} wait again")
    return _afterwards(client, name, wait=False)


def _afterwards(client: LightClient, name: str, *, wait: bool) -> Exit:
    if wait:
        look_on(name)
    _put_page(client, name)
    return Exit.OK


def _put_page(client: LightClient, name: str, to: Path | None = None) -> Path:
    """Make the page of a batch, here and in Prefect, and return where it is here."""
    runs = [run for run, _ in members_of(client, name)]
    now = datetime.now(UTC)
    found = rows(runs, now)

    async def ask(method: str, path: str, body: Any) -> Any:
        return client.ask_anything(method, path.lstrip("/"), body)

    try:
        asyncio.run(publish(ask, name, found, now))
    except (ApiUnreachable, ConfigError) as error:
        note(f"Prefect did not take the page of batch {name}: {error.message}")
    page = write_page(name, found, now, {str(run.id): jobs.link(run.id) for run in runs})
    if to is None:
        return page
    target = to.expanduser().absolute()
    try:
        target.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--to = {str(to)!r}: cannot be written: {error.strerror}.", "Name another file."
        ) from None
    return target
