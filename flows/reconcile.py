"""Keep a promise whose process is dead: every machine has a run that owns it, or is given back.

For every provider that is set up, each instance of ours is traced by its mark to the flow run
that owns it, and then kept, brought to its end, or given back; a run whose process died is
executed again, and attaches. What bears no mark of this installation is never touched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import flow, get_client
from prefect.artifacts import acreate_table_artifact
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Failed

from blocks.home import home, runs
from blocks.marks import Mark
from blocks.models import Instance
from blocks.providers.base import Provider
from blocks.registry import configured_providers
from blocks.task_scope import TaskScope
from flows import milestones, orphans
from flows.attended import forget, is_left, is_worked_on
from flows.background import revive
from flows.full_disk import save_anyway
from flows.locks import locked
from flows.logger import logger
from flows.outcome import lasting_pause
from flows.owner import owner_elsewhere
from flows.prefect_api import NO_RESULTS, deployment_id
from flows.renting.adopting import note
from flows.renting.giving_back import Ending, until_gone
from flows.renting.journal import Journal
from flows.renting.keeping import claiming
from flows.run_folder import RunFolder, run_folders
from flows.run_state import force_state
from flows.saved import STOPPED, saved
from flows.settling import settle_run
from flows.shown import job_state
from flows.suspending import is_suspended
from flows.tidying import ALL_WELL, forget_uneventful
from flows.verdict import MAX_REVIVALS, Act, decide, holds_machine
from trainer.config import TrainingJob
from trainer.contract.errors import OrchestratorError, TrainingFailed
from trainer.contract.files import read_json

ORPHAN_SECONDS = 600.0  # from when an instance without a run is first seen until it is ended
UNFINISHED = {StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.CRASHED}
REVIVE_WITHIN = timedelta(days=1)
RECONCILED = "reconciled.json"
AT_WORK = ".reconcile"
"""A lock in the folder of a run: of the pass that is at work on it."""
HELD_UP_SECONDS = 30.0  # for which a pass waits for all before it goes on to what else there is
# For one run or machine: a large result may come home meanwhile, and comes on in the next pass.
CASE_SECONDS = 1800.0
LIST_SECONDS = 60.0  # for a provider to list its machines


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One machine or run, what is done about it, and why."""

    act: Act
    why: str
    run_id: str = ""
    instance: str = ""
    provider: str = ""
    usd_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """An instance of ours in an account."""

    provider: Provider
    instance: Instance
    mark: Mark


@flow(name="reconcile", persist_result=False, result_storage=NO_RESULTS)
async def reconcile(dry_run: bool = False) -> list[dict[str, Any]] | State[Any]:  # noqa: FBT001, FBT002
    """Keep, revive or terminate every machine of this installation.

    Args:
        dry_run: only say what would be done.
    """
    decisions = [asdict(decision) for decision in await reconcile_once(dry_run=dry_run)]
    for decision in decisions:
        logger().info("%(act)s %(instance)s %(run_id)s: %(why)s", decision)
    if not dry_run and (deployed_as := deployment_id()):
        async with get_client() as client:
            await forget_uneventful(client, str(deployed_as))
    if all(decision["act"] == Act.KEEP for decision in decisions):
        return Completed(name=ALL_WELL, message=f"{len(decisions)} looked at")
    await acreate_table_artifact(decisions, key="reconcile", description="What was put right")
    return decisions


async def reconcile_once(*, dry_run: bool = False) -> list[Decision]:
    """Look at everything once and put it right; return what was found.

    Several passes may be at work: one that a run or a machine holds up leaves the rest to the
    next. The time of the last one is kept in `reconciled.json`.
    """
    async with get_client() as client, TaskScope() as scope:
        # A job directory on this computer costs nothing.
        providers = [one for one in await configured_providers() if not one.is_home]
        found = await _instances(providers)
        # Three sources, since each can miss what another knows: accounts (our files were lost),
        # journals (the provider is away), and Prefect (a run without any machine).
        wanted = {item.mark.run_id for item in found if item.mark.run_id}
        run_ids = wanted | set(_runs_with_open_machines()) | set(await _unattended(client))
        kept = [item for item in found if item.mark.run_id is None]
        cases = [
            *(_each_alone(str(item.mark), _kept(item, dry_run)) for item in kept),
            *(
                _each_alone(f"run {id}", of_run_alone(client, id, _of(found, id), dry_run))
                for id in sorted(run_ids)
            ),
        ]
        if not dry_run:
            cases += [_each_alone(one.label, _swept(one)) for one in providers]
        tasks = [scope.start(case) for case in cases]
        if tasks:
            await asyncio.wait(tasks, timeout=HELD_UP_SECONDS)
        if not dry_run:
            await _forget_ended(client)
            await milestones.pass_on_rest(client)
            save_anyway(home() / RECONCILED, {"time": time.time()})
        decisions = await asyncio.gather(*tasks)
    return [decision for some in decisions for decision in some]


def reconciled_at() -> float:
    """Return when everything was last put right from this computer: seconds since the epoch, or 0."""
    return float((read_json(home() / RECONCILED) or {}).get("time", 0.0))


async def _swept(provider: Provider) -> list[Decision]:
    await provider.sweep()
    return []


async def _instances(providers: list[Provider]) -> list[Found]:
    """Return every instance of ours in all accounts, each once."""
    found: dict[tuple[str, str], Found] = {}
    for provider, instances in zip(
        providers, await asyncio.gather(*map(_listed, providers)), strict=True
    ):
        for instance in instances:
            mark = instance.mark
            # By the id, because two providers that are set up may be the same account. Not by the
            # mark: should two machines bear one, both are billed.
            if mark and instance.status.is_billing:
                key = provider.provider_name, instance.id
                found.setdefault(key, Found(provider, instance, mark))
    return list(found.values())


async def _listed(provider: Provider) -> list[Instance]:
    """Return what a provider lists; nothing while it does not answer."""
    try:
        async with asyncio.timeout(LIST_SECONDS):
            return await provider.instances()
    except (OrchestratorError, TimeoutError) as error:
        logger().error("%s cannot be asked: %s", provider.label, str(error) or "no answer")
        return []


def _of(found: list[Found], run_id: UUID) -> list[Found]:
    return [item for item in found if item.mark.run_id == run_id]


def _runs_with_open_machines() -> list[UUID]:
    """Return the runs of this computer whose journal has a machine that is not gone yet."""
    return [UUID(folder.name) for folder in run_folders() if holds_machine(RunFolder(folder.name))]


async def _unattended(client: PrefectClient) -> list[UUID]:
    """Return the runs of this computer that crashed lately, or seem to run without a process."""
    # By the folder's time first, which is cheap: asking Prefect about every run there ever was,
    # once a minute, is not.
    since = datetime.now(UTC) - REVIVE_WITHIN
    found = []
    for folder in run_folders():
        if is_worked_on(folder) or folder.stat().st_mtime < since.timestamp():
            continue
        try:
            run = await client.read_flow_run(UUID(folder.name))
        except ObjectNotFound:
            continue
        if is_suspended(run.state) or (run.state and run.state.type in UNFINISHED):
            found.append(run.id)
    return found


async def _forget_ended(client: PrefectClient) -> None:
    """Remove the marks of processes that died after their run had come to rest."""
    for folder in filter(is_left, run_folders()):
        try:
            run = await client.read_flow_run(UUID(folder.name))
        except ObjectNotFound:
            forget(folder)
            continue
        given_up = Journal.of(RunFolder(run.id)).revivals_lately >= MAX_REVIVALS
        rests = job_state(run).at_rest and (given_up or not (run.state and run.state.is_crashed()))
        if rests or owner_elsewhere(run):
            forget(folder)


async def _kept(item: Found, dry_run: bool) -> list[Decision]:  # noqa: FBT001
    over = item.mark.kept_until <= time.time()
    if not over:
        return [_decision(item, Act.KEEP, "waits for the next job")]
    if dry_run:
        return [_decision(item, Act.TERMINATE, "no job came for it in time")]
    async with claiming(item.provider, item.instance):
        # Looked at once more: a job may have taken it over since the list was made.
        now = await item.provider.find(item.mark)
        if now is None or now.id != item.instance.id:
            return [_decision(item, Act.KEEP, "a job has just taken it over")]
        ending, _ = await until_gone(item.provider, item.mark, item.instance.id)
    if ending is Ending.GONE:
        Journal.close_kept(item.mark, "no job came for it")
    return [_decision(item, Act.TERMINATE, "no job came for it in time")]


async def _each_alone(what: str, case: Coroutine[Any, Any, list[Decision]]) -> list[Decision]:
    """Deal with one case: no trouble with it may keep the others' machines running."""
    try:
        async with asyncio.timeout(CASE_SECONDS):
            return await case
    except TimeoutError:
        why = f"not put right within {CASE_SECONDS / 60:g} minutes"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this case's alone
        why = f"{type(error).__name__}: {error}"
    logger().error("%s cannot be put right: %s", what, why)
    return [Decision(act=Act.FAILED, why=why, instance=what)]


async def of_run_alone(
    client: PrefectClient,
    run_id: UUID,
    found: list[Found],
    dry_run: bool,  # noqa: FBT001
) -> list[Decision]:
    """Decide about a run and put it right, unless another pass is still at work on it."""
    folder = runs() / str(run_id)
    if not folder.is_dir():
        return await _of_run(client, run_id, found, dry_run)
    async with locked(folder / AT_WORK, wait=False) as alone:
        if alone:
            return await _of_run(client, run_id, found, dry_run)
    return _decisions(run_id, found, Act.KEEP, "another pass of reconcile is at work on it")


async def _of_run(
    client: PrefectClient,
    run_id: UUID,
    found: list[Found],
    dry_run: bool,  # noqa: FBT001
) -> list[Decision]:
    """Decide about a run and its machines, and do it."""
    try:
        run = await client.read_flow_run(run_id)
    except ObjectNotFound:
        # Proof of life whatever Prefect says: this may be another server, or its database a new one.
        if is_worked_on(runs() / str(run_id)):
            for item in found:
                orphans.note(item.mark, None)
            why = "this Prefect server does not know its run, and a process works on it"
            return _decisions(run_id, found, Act.KEEP, why)
        return [await _orphan(item, dry_run) for item in found]
    is_here = (runs() / str(run_id)).is_dir()
    # Ended apart from the run's own machine, which goes on whatever becomes of these.
    strays = [item for item in found if is_here and _was_given_up(run_id, item)]
    if strays:
        mine = [item for item in found if item not in strays]
        decisions = [await _stray(item, dry_run) for item in strays]
        return decisions + (await _of_run(client, run_id, mine, dry_run) if mine else [])
    act, why = decide(run, is_here=is_here, found=bool(found))
    if not dry_run:
        why += await _do(act, run, found)
    return _decisions(run_id, found, act, why)


def _decisions(run_id: UUID, found: list[Found], act: Act, why: str) -> list[Decision]:
    if not found:
        return [Decision(act=act, why=why, run_id=str(run_id))]
    return [_decision(item, act, why) for item in found]


async def _do(act: Act, run: FlowRun, found: list[Found]) -> str:
    """Carry a decision out; return what there is to add to its reason."""
    if act is Act.REVIVE:
        # Counted before the start, so that a crash of ours cannot revive a run without end.
        Journal.of(RunFolder(run.id)).revived()
        await revive(run)
    if act is not Act.SETTLE:
        return ""
    folder = RunFolder(run.id)
    async with locked(folder.lock, wait=False) as alone:
        if not alone:
            return "; a process works on it again"
        job = TrainingJob.model_validate(run.parameters["job"])
        # What the account has and the journal lacks, or holds to be gone, is settled too.
        journal = Journal.of(folder)
        for item in found:
            await note(job, item.provider, item.instance, journal)
        journal.save()
        cause = str(run.state.name).lower() if run.state else "over"
        # What was trained here before it went on elsewhere is no part of what is trained there.
        shown = not owner_elsewhere(run)
        done = await settle_run(job, folder, f"{cause}; found by reconcile", shown=shown)
        if done:
            await _tell_end(run)
    return "" if done else "; not done yet, the next reconcile goes on"


async def _tell_end(run: FlowRun) -> None:
    """Give a run its last state when it still shows as one at work, though no process is."""
    if run.state is None or run.state.is_final() or owner_elsewhere(run):
        return
    if run.state.is_paused():
        if is_suspended(run.state):  # its process died before it could give the pause no end
            await _set(run, lasting_pause(run, f"paused; {saved(RunFolder(run.id))}"))
        return
    end: State[Any] = (
        Cancelled(name=STOPPED, message=f"cancelled; {saved(RunFolder(run.id))}")
        if run.state.is_cancelling()
        else Failed(message="its process died again and again; continue it with 'trainctl resume'")
    )
    if end.is_cancelled():
        milestones.stopped(RunFolder(run.id), str(end.message))
    else:
        milestones.failed(RunFolder(run.id), TrainingFailed(str(end.message)))
    await _set(run, end)


async def _set(run: FlowRun, state: State[Any]) -> None:
    async with get_client() as client:
        await force_state(client, run, state)


def _was_given_up(run_id: UUID, item: Found) -> bool:
    """Whether a run is done with a machine: an order without an answer may come true late."""
    journal = Journal.of(RunFolder(run_id))
    if hire := journal.of_instance(item.instance):
        return not hire.is_open
    # What bears the mark of another machine's row was made beside that, by one and the same order.
    return any(hire.mark == item.mark for hire in journal.hires)


async def _stray(item: Found, dry_run: bool) -> Decision:  # noqa: FBT001
    if not dry_run:
        await until_gone(item.provider, item.mark, item.instance.id)
    return _decision(item, Act.TERMINATE, "its run is done with it")


async def _orphan(item: Found, dry_run: bool) -> Decision:  # noqa: FBT001
    """Terminate an instance whose run Prefect does not know, once it was seen for long enough.

    It may belong to a run that is just being created, or Prefect's database may be the wrong one.
    """
    first = orphans.since(item.mark)
    waited = time.time() - first
    if waited < ORPHAN_SECONDS:
        if not dry_run:
            orphans.note(item.mark, first)
        left = (ORPHAN_SECONDS - waited) / 60
        return _decision(item, Act.KEEP, f"its run is unknown; it is ended in {left:.0f} minutes")
    if not dry_run:
        ending, _ = await until_gone(item.provider, item.mark, item.instance.id)
        if ending is not Ending.STAYS:
            orphans.note(item.mark, None)
    return _decision(item, Act.TERMINATE, "its run is unknown")


def _decision(item: Found, act: Act, why: str) -> Decision:
    return Decision(
        act=act,
        why=why,
        run_id=str(item.mark.run_id or ""),
        instance=str(item.mark),
        provider=item.provider.label,
        usd_per_hour=item.instance.price_per_hour or 0.0,
    )
