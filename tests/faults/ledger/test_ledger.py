"""Thousands of random walks through what may happen to money; see `tests.faults.ledger.walk`."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from contextvars import Context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.ledger.clock import WHO, FastLoop, Ours
from tests.faults.ledger.setting import Setting
from tests.faults.ledger.walk import LedgerWalk
from tests.faults.walks.accounts import ACCOUNTS

WALKS, STEPS = 2000, 12


Moves = Callable[[type[LedgerWalk]], None]


def walk(provider: str, where: Path, moves: Moves) -> None:
    """Take walks in a process of their own: nothing that is killed there is ever collected."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=_walked, args=(provider, where, moves, there))
    process.start()
    there.close()
    try:
        said = here.recv()
    except EOFError:
        said = "the process of the walks died"
    finally:
        process.join()
        here.close()
        process.close()
    if said:
        pytest.fail(said, pytrace=False)


def _walked(provider: str, where: Path, moves: Moves, told: Connection) -> None:
    said, parent = "", os.getppid()
    try:
        with Setting() as setting:
            place = {"provider": provider, "setting": setting, "where": where, "billed": []}
            moves(type("Here", (LedgerWalk,), {**place, "parent": parent}))
    except BaseException:  # noqa: BLE001 - for the test to say
        said = traceback.format_exc()
    told.send(said)
    told.close()
    os._exit(0)


def random_moves(walks: int) -> Moves:
    """Return so many walks by Hypothesis."""

    def moves(kind: type[LedgerWalk]) -> None:
        # Not shrunk, because the first story is short enough to read.
        quiet = settings(
            max_examples=walks,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(kind, settings=quiet)
        assert len(kind.billed) >= walks
        assert sum(kind.billed) > walks * 60, "hardly any machine was hired"

    return moves


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("provider", ACCOUNTS)
def test_the_bill_is_in_the_journals_and_ends_whatever_happens(
    provider: str, tmp_path: Path
) -> None:
    walk(provider, tmp_path, random_moves(int(os.environ.get("LEDGER_WALKS", WALKS))))


def test_a_machine_whose_end_was_not_answered_is_not_billed_beyond_it(tmp_path: Path) -> None:
    """Its absence is proven only later, but it was asked to end and is not seen from then on."""

    def moves(kind: type[LedgerWalk]) -> None:
        one = kind()
        one.begin(trains=True)
        one.lose_an_answer("commit_then_drop", "DELETE")
        one.finish(0)
        one.wait(120.0)
        one.teardown()

    walk("vast", tmp_path, moves)


def test_a_machine_whose_end_was_accepted_and_ignored_is_billed_on(tmp_path: Path) -> None:
    """Its process is killed before it asks again, and the machine ends itself when its lease is over."""

    def moves(kind: type[LedgerWalk]) -> None:
        one = kind()
        one.begin(trains=True)
        one.stay(ignored=1, refused=0)
        one.cancel(0)
        one.kill(which=0, after=10.0)
        one.wait(400.0)
        one.teardown()

    walk("runpod", tmp_path, moves)


def test_a_provider_goes_on_with_what_a_process_asked_for_before_it_was_killed() -> None:
    loop, ours, done = FastLoop(), Ours(), []
    ours.is_dead = True
    killed = Context()
    killed.run(WHO.set, ours)

    killed.run(loop.call_soon, done.append, "of the provider", context=Context())
    killed.run(loop.call_soon, done.append, "of the dead")
    loop.pass_time(1.0)
    loop.close()

    assert done == ["of the provider"]
