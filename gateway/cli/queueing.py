"""Print a pool's queue, why one job waits, and a pool's settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.asking import AskApi
from flows.job_file import parse_job, source_of
from flows.scheduling.announced import KNOWN_SECONDS, announced
from flows.scheduling.other_names import changes_of
from flows.scheduling.seen import SeenRun
from flows.scheduling.settings import (
    PoolSettings,
    assignments,
    changed,
    settings_of,
    variable_of,
)
from flows.shown import short_id
from gateway import jobs
from gateway.batches.finding import held
from gateway.cli.table import print_table
from gateway.exits import note, say, say_json
from gateway.prefect.client import JobRun, LightClient, connected
from gateway.queue_view import (
    QueueView,
    Waiting,
    check_pool,
    clock,
    numbers,
    queue_view,
    record,
    sentence,
)
from gateway.view import NOTHING, duration, printable
from trainer.contract.words import number

COLUMNS = ("PLACE", "ID", "NAME", "USER", "PRIORITY", "GPUS", "WAITED", "STARTS", "WHY")
FACTORS = ("TOGETHER", "PRIO", "AGE", "FAIR", "SHORT")


def show_queue(pool: str, limit: int, *, explain: bool, as_json: bool) -> None:
    """Print who runs and who waits in a pool."""
    view = _view(connected(), pool)
    if as_json:
        say_json(record(view))
        return
    for line in _head(view):
        say(printable(line))
    if not view.waiting:
        say("nothing waits")
        return
    head = [*COLUMNS[:-1], *(FACTORS if explain else ()), COLUMNS[-1]]
    rows = [_row(view, one, explain=explain) for one in view.waiting[:limit]]
    print_table(head, rows, named=len(head) - 1, least=("WAITED", "STARTS", "USER", "GPUS"))
    if len(view.waiting) > limit:
        note(f"and {len(view.waiting) - limit} more; see --limit")


def _view(client: LightClient, pool: str) -> QueueView:
    async def its_held(waiting: Iterable[SeenRun]) -> dict[str, str]:
        return held(client, waiting)

    return asyncio.run(queue_view(client.asking(), pool, its_held))


def _head(view: QueueView) -> list[str]:
    rules, snapshot = view.snapshot.rules, view.snapshot
    gpus = sum(len(machine.gpus) for machine in rules.machines)
    busy = len({uuid for one in snapshot.running for uuid in one.gpus})
    lines = [
        f"pool {view.pool}: {rules.settings.strategy}, {len(rules.machines)} machines with {gpus} "
        f"GPUs, of which {busy} are in use; {len(snapshot.running)} jobs run, {len(view.waiting)} wait"
    ]
    if rules.paused:
        lines.append("the pool is paused: nothing starts")
    if rules.mistake:
        lines.append(f"its settings are not valid, and those before are in force: {rules.mistake}")
    for one in snapshot.running:
        run = snapshot.runs.active.get(one.job.id)
        where = f"{one.machine or 'its machine'} {', '.join(one.gpus)}".rstrip()
        left = duration(one.job.seconds_left)
        doing = "pauses" if one.pausing else "runs"
        lines.append(
            f"{doing:<6} {short_id(one.job.id)}  {run.name if run else ''}  on {where}, {left} left"
        )
    return lines


def _row(view: QueueView, one: Waiting, *, explain: bool) -> list[str]:
    job, factors = one.job, one.factors
    values = (one.number, factors.priority, factors.age, factors.fairness, factors.shortness)
    return [
        str(one.place),
        short_id(job.id),
        printable(one.run.name),
        printable(job.user) or NOTHING,
        str(job.priority),
        str(job.demand.gpus),
        duration(max(0.0, view.snapshot.now - job.submitted)),
        NOTHING if one.expected is None else clock(one.expected),
        *([f"{value:.3f}" for value in values] if explain else []),
        printable(one.reason),
    ]


def why(text: str, *, as_json: bool) -> None:
    """Say in a sentence, and in numbers, why a job waits."""
    client = connected()
    run = jobs.find(client, text)
    pool = run.work_pool_name
    is_due = run.state is not None and run.state.type == "SCHEDULED" and pool is not None
    view = _view(client, pool) if is_due and pool else None
    one = view.find(str(run.id)) if view else None
    if view is None or one is None:
        _tell_else(client, run, as_json=as_json)
        return
    if as_json:
        found = next(each for each in record(view)["waiting"] if each["id"] == one.job.id)
        say_json(found | {"pool": view.pool, "text": sentence(view, one)})
        return
    say(printable(f"job {short_id(run.id)} ({run.name}) {sentence(view, one)}"))
    for name, value in numbers(view, one).items():
        say(f"{name:<10} {printable(value)}")


def _tell_else(client: LightClient, run: JobRun, *, as_json: bool) -> None:
    """Say of a job that does not wait for GPUs what it does."""
    waiting = client.waiting(run)  # for a time to come, or for its worker to start it
    state, message = jobs.state_shown(run), jobs.message_of(run)
    what = waiting["text"] if waiting else f"is {state}{f': {message}' if message else ''}"
    if as_json:
        say_json({"id": str(run.id), "name": run.name, "state": state, "text": what})
    else:
        say(printable(f"job {short_id(run.id)} ({run.name}) {what}"))


def show_pool(pool: str, *, as_json: bool) -> None:
    """Print the settings of a pool."""
    value = asyncio.run(_kept(connected().asking(), pool))
    settings = settings_of(value, pool)
    if as_json:
        say_json(settings.model_dump(mode="json"))
        return
    given = set(value or {})
    width = max(map(len, PoolSettings.model_fields))
    for name, shown in settings.model_dump(mode="json").items():
        say(printable(f"{name:<{width}}  {_words(shown)}{'  (set)' if name in given else ''}"))


def set_pool(pool: str, given: list[str], config: Path | None = None) -> None:
    """Change settings of a pool; its worker goes by them within seconds.

    Args:
        pool: its name.
        given: KEY=VALUE.
        config: a configuration file of another orchestrator, which these outweigh.
    """
    changes: dict[str, Any] = {}
    if config is not None:
        changes, notes = changes_of(parse_job(config), source_of(config))
        for words in notes:
            note(words)
    changes |= assignments(given)
    ask = connected().asking()
    value = asyncio.run(_kept(ask, pool))
    new = changed(value, changes, pool)
    from flows.variables import write_variable
    from gateway.prefect.full_client import call

    call(lambda client: write_variable(client, variable_of(pool), new))
    show_pool(pool, as_json=False)
    known = asyncio.run(announced(ask, pool, within=KNOWN_SECONDS, now=time.time()))
    absent = settings_of(new, pool).absent(known) if known else []
    if absent and "gpus" in changes:
        # It may be meant for a machine to come.
        note(f"gpus: no machine of pool {pool} has {', '.join(map(str, absent))}")


async def _kept(ask: AskApi, pool: str) -> Any:
    """Return the value of a pool's variable; None if it has none."""
    await check_pool(ask, pool)
    body = {"variables": {"name": {"any_": [variable_of(pool)]}}}
    found = await ask("/variables/filter", body)
    return found[0]["value"] if found else None


def _words(value: Any) -> str:
    if isinstance(value, dict):
        parts = (f"{name}: {_words(each)}" for name, each in value.items() if each is not None)
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_words, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return number(value) if isinstance(value, int | float) else str(value)
