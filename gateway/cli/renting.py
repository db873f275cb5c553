"""Rented machines at the terminal: offers, costs, and putting right what was left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefect.client.orchestration import PrefectClient

from blocks.registry import configured_providers, how_to_set_up
from flows.asking import asking
from flows.reconcile import reconcile_once
from flows.renting.cost_estimate import can_estimate, cost_on, decides, estimated, seconds_on
from flows.renting.expected_cost import History, expected_on
from flows.renting.market import Choice, market
from flows.renting.right_size import Need, advice, holds, need_of
from flows.reporting.platform import Platform
from flows.setup.secrets import have_tokens
from flows.verdict import Act
from gateway.checks import checked_job
from gateway.cli.table import print_table
from gateway.exits import Exit, complain, note, say, say_json, sentence
from gateway.other_names import answers, answers_of_any_program
from gateway.prefect.client import connected
from gateway.prefect.full_client import call
from gateway.prefect.keeper import last_reconcile
from gateway.spending import costs
from gateway.view import NOTHING, duration, printable
from trainer.config import TrainingJob
from trainer.contract.errors import OrchestratorError

OFFERS = (
    *("PROVIDER", "MACHINE", "GPU", "VRAM", "FITS", "PLACE", "SPOT"),
    *("USD/H", "TIME", "USD", "EXPECTED"),
)
PARTS = {
    "machine_usd": "MACHINE",
    "storage_usd": "STORAGE",
    "address_usd": "ADDRESS",
    "traffic_usd": "TRAFFIC",
}
"""The parts of a cost, by the columns that show them."""
COSTS = {"job": "JOB", "provider": "PROVIDER", "project": "PROJECT", "day": "DAY"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hirable:
    """What there is for hire for a job."""

    rows: list[dict[str, Any]]
    """The offers, first choice first, with time and cost."""
    more: int
    """How many there are beyond those."""
    advice: str
    why_empty: str
    """Why there is none; empty where there are some."""


def show_offers(file: Path, providers: str | None, *, limit: int, as_json: bool) -> Exit:
    """Print what there is for hire for a job, first choice first, with time and cost."""
    found = for_hire(checked_job(file, providers), limit, note)
    if as_json:
        say_json(found.rows)
    elif found.rows:
        print_table(OFFERS, [offer_cells(row) for row in found.rows])
        if found.more:
            note(f"and {found.more} more; see --limit")
        if found.advice:
            say(found.advice)
    if found.why_empty:
        complain(found.why_empty)
        return Exit.FAILED
    return Exit.OK


def for_hire(job: TrainingJob, limit: int, say: Callable[[str], None]) -> Hirable:
    """Return what there is for hire for a job, with time and cost.

    Args:
        job: its paths are absolute.
        limit: how many offers at most.
        say: called with what takes a while, before it does, and with what a provider does not answer.
    """
    say("asking the providers …")
    # Before the estimate, which takes a while and is of no use without an offer.
    found = asyncio.run(market(job))
    facts = _facts(job, say) if found.choices else None
    if facts and decides(job):  # as the job itself would rank them
        found = asyncio.run(market(job, facts))
    for label, error in found.problems.items():
        say(f"{label}: {sentence(error)}")
    choices = found.choices[:limit]
    history, need = History(), need_of(job, facts)
    return Hirable(
        rows=[_offer(job, choice, facts, history, need) for choice in choices],
        more=len(found.choices) - len(choices),
        advice=asyncio.run(advice(found.choices, job, facts)) or "" if choices else "",
        why_empty="" if found.choices else sentence(found.why_empty()),
    )


def show_costs(by: str, *, as_json: bool) -> None:
    """Print what this installation's jobs cost: by job, provider, project or day."""
    found = costs(connected, by)
    if as_json:
        say_json(found)
        return
    total = sum(float(str(row["usd"])) for row in found)
    # What no provider bills beside its machines has no column.
    beside = [part for part in PARTS if any(row[part] for row in found)]
    parts = [] if beside == ["machine_usd"] else beside
    cells = [
        (
            *(str(row[by]), str(row["machines"]), str(row["refused"])),
            f"{row['hours']:.3f}",
            *(f"{row[part]:.4f}" for part in (*parts, "usd")),
        )
        for row in found
    ]
    heads = (*map(PARTS.__getitem__, parts), "USD")
    print_table((COSTS[by], "MACHINES", "REFUSED", "HOURS", *heads), cells)
    say(f"total {total:.4f} USD")


def put_right(*, dry_run: bool, as_json: bool) -> Exit:
    """Keep, revive or terminate every machine of this installation, and print what was found."""

    async def work(client: PrefectClient) -> list[dict[str, Any]]:
        del client  # reconcile makes its own; `call` is for finding or starting the server
        return [asdict(decision) for decision in await reconcile_once(dry_run=dry_run)]

    decisions = call(work)
    failed = sum(row["act"] == Act.FAILED for row in decisions)
    code = Exit.FAILED if failed else Exit.OK
    if as_json:
        say_json(decisions)
        return code
    for row in decisions:
        machine = row["instance"] or row["run_id"]
        say(f"{row['act']:<9} {row['provider'] or NOTHING:<10} {machine}  {row['why']}")
    acted = sum(row["act"] not in {Act.KEEP, Act.FAILED} for row in decisions)
    would = "would be put right" if dry_run else "put right"
    say(f"{len(decisions)} looked at, {acted} {would}{f', {failed} failed' if failed else ''}")
    return code


def check_providers(*, as_json: bool) -> Exit:
    """Verify the credentials of every provider that is set up, and whether reconcile runs.

    Nothing is spent. The exit code is about the credentials alone.
    """

    async def one(provider: Any) -> dict[str, Any]:
        row = {"provider": provider.label, "shutdown_ends_bill": provider.shutdown_ends_bill}
        try:
            text = await provider.check()
        except OrchestratorError as error:
            return {**row, "ok": False, "text": sentence(error)}
        if not provider.shutdown_ends_bill:
            text += "; a machine that shuts itself down is billed until reconcile ends it"
        return {**row, "ok": True, "text": text}

    async def all_of(client: PrefectClient) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        providers = await configured_providers()
        # All at once: each provider waits for its own network, and a slow one must not add to the
        # others.
        *results, kept = await asyncio.gather(
            *(one(provider) for provider in providers), last_reconcile(asking(client))
        )
        return results, kept

    results, kept = call(all_of)
    for words in _remarks():
        note(words)
    if as_json:
        say_json([*results, {"provider": None, "check": "reconcile", **kept}])
    else:
        for result in results:
            word = "ok" if result["ok"] else "FAILED"
            say(f"{word:<7} {result['provider']:<12} {result['text']}")
        say(f"{'ok' if kept['ok'] else 'LATE':<7} {'reconcile':<12} {kept['text']}")
        if len(results) == 1:
            note(f"no provider of rented machines is set up. {how_to_set_up()}")
    # A late reconcile is shown and not an exit code: scripts ask whether the keys work.
    return Exit.OK if all(result["ok"] for result in results) else Exit.FAILED


def _remarks() -> Iterator[str]:
    """Yield what is wrong with the environment, or of no use in it, beside the providers."""
    for problem in Platform.of_environment().problems:
        yield f"reporting: {problem}"
    try:
        have_tokens()
    except OrchestratorError as error:
        yield sentence(error)
    yield from answers()
    yield from answers_of_any_program()


def _facts(job: TrainingJob, say: Callable[[str], None]) -> dict[str, Any] | None:
    if not can_estimate(job):
        say("no estimate: the trainer is not ours, or torch is not installed here")
        return None
    say("counting the job's steps …")
    try:
        return estimated(job)
    except OrchestratorError as error:
        say(f"no estimate: {error.message}")
        return None


def _offer(
    job: TrainingJob,
    choice: Choice,
    facts: dict[str, Any] | None,
    history: History,
    need: Need | None,
) -> dict[str, Any]:
    offer, label = choice.offer, choice.provider.label
    expected = expected_on(choice.provider, offer, job, facts, history)
    met = expected.interruptions
    return {
        **offer.to_dict(),
        "provider": label,
        "whole_per_hour": offer.whole_per_hour,
        "estimated_seconds": seconds_on(offer, job, facts) if facts else None,
        "estimated_usd": cost_on(offer, job, facts) if facts else None,
        "expected_seconds": expected.seconds,
        "expected_usd": expected.usd,
        "expected_interruptions_per_hour": met.per_hour if met else 0.0,
        "interruptions_known_by": met.source if met else None,
        "holds_peak": holds(offer, need) if need else None,
        "peak_gb": need.gb if need else None,
        "peak_known_by": need.sure if need else None,
    }


def offer_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return an offer as the cells of a table, under `OFFERS`."""
    count = row["gpu_count"]
    spot = "no"
    if row["spot"]:
        spot = f"{100 * row['expected_interruptions_per_hour']:.2g} %/h"
    return (
        row["provider"],
        printable(row["instance_type"]),
        f"{count} x {printable(row['gpu_type'] or '')}" if count else "CPU",
        _vram(row["vram_gb"]) if count else NOTHING,
        {True: "yes", False: "NO", None: NOTHING}[row["holds_peak"]],
        printable(_place(row["region"], row["zone"])),
        spot,
        _usd(row["whole_per_hour"]),
        duration(row["estimated_seconds"]),
        _usd(row["estimated_usd"]),
        _usd(row["expected_usd"]),
    )


def _vram(gib: float) -> str:
    """Return the memory of one GPU; 0 means that its provider does not say."""
    return f"{gib:.0f} GiB" if gib else "unknown"


def _place(region: str, zone: str) -> str:
    """Return where an offer is; most zones begin with the name of their region."""
    return zone if zone.startswith(region) else f"{region} {zone}".strip()


def _usd(amount: float | None) -> str:
    return NOTHING if amount is None else f"{amount:.4g}"
