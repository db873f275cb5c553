import asyncio
import time
from datetime import datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest

from blocks.models import Offer
from blocks.uptime import uptime
from flows.renting import budget as budgeting
from flows.renting import journal as journaling
from flows.renting.budget import Budget
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from trainer.config import TrainingJob
from trainer.contract.errors import BudgetExceeded
from trainer.contract.files import read_json, replace_json

OFFER = Offer(provider="runpod", instance_type="L4", region="X", price_per_hour=3600.0)


def job_with(max_cost):
    return TrainingJob.model_validate(
        {
            "name": "j",
            "training": {"model": "m", "dataset": "d"},
            "limits": {"max_cost": max_cost},
        }
    )


@pytest.fixture
def journal():
    return Journal.of(RunFolder(uuid4()))


def test_every_machine_of_a_run_gets_a_mark_of_its_own(journal):
    marks = [journal.begin(OFFER, "runpod").mark for _ in range(3)]

    assert len(set(marks)) == 3
    assert [hire.attempt for hire in Journal.of(journal.run).hires] == [1, 2, 3]


def test_the_table_shows_minutes_and_four_digits(journal):
    hire = journal.begin(OFFER, "runpod")
    hire.instance_id, hire.metered_seconds, hire.price_per_hour = "abc", 761.0, 0.123456
    journal.end(hire, "completed")

    [row] = journal.table()

    assert (row["time"], row["USD/h"], row["USD"]) == ("12:41 min", 0.1235, 0.0261)


def test_a_machine_costs_until_it_is_gone(journal):
    hire = journal.begin(OFFER, "runpod")
    hire.instance_id = "abc"
    time.sleep(0.05)
    journal.end(hire, "completed")
    paid = journal.cost()
    time.sleep(0.05)

    assert 0.05 <= paid < 5
    assert journal.cost() == Journal.of(journal.run).cost() == paid


def test_an_attempt_of_which_nothing_came_costs_nothing(journal):
    hire = journal.begin(OFFER, "runpod")
    time.sleep(0.02)

    journal.end(hire, "CapacityError: sold out")

    assert journal.cost() == 0


def test_time_in_which_nobody_metered_is_paid_too(journal):
    journal.begin(OFFER, "runpod")
    record = read_json(journal.run.journal)
    record["machines"][0]["metered_at"] = "2026-01-01T00:00:00.000+00:00"
    replace_json(journal.run.journal, record)

    assert Journal.of(journal.run).hires[0].seconds() > 86400


def test_a_clock_that_jumped_back_makes_nothing_cheaper(journal):
    journal.begin(OFFER, "runpod")
    record = read_json(journal.run.journal)
    record["machines"][0] |= {"metered_seconds": 7.0, "metered_at": "2999-01-01T00:00:00+00:00"}
    replace_json(journal.run.journal, record)

    assert Journal.of(journal.run).hires[0].seconds() == pytest.approx(7.0, abs=1)


def test_the_time_that_this_computer_sleeps_is_billed(journal, monkeypatch):
    """A laptop's lid is closed for eight hours: its monotonic clock stands still meanwhile."""
    hire = journal.begin(OFFER, "runpod")
    awake = uptime()
    monkeypatch.setattr(journaling, "uptime", lambda: awake + 8 * 3600)

    assert hire.seconds() == pytest.approx(8 * 3600, abs=5)


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_set_between_two_processes_bills_nothing(journal, monkeypatch, hours):
    journal.begin(OFFER, "runpod")
    set_clock(monkeypatch, hours * 3600)

    [hire] = Journal.of(journal.run).hires

    assert hire.seconds() == pytest.approx(0.0, abs=5)


def test_after_a_restart_of_the_computer_it_was_up_at_least_as_long_as_it_is(journal, monkeypatch):
    journal.begin(OFFER, "runpod")
    monkeypatch.setattr(journaling, "boot_id", lambda: "another")
    monkeypatch.setattr(journaling, "uptime", lambda: 600.0)
    set_clock(monkeypatch, -3600)

    assert Journal.of(journal.run).hires[0].seconds() == pytest.approx(600.0, abs=5)


def set_clock(monkeypatch, seconds):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(seconds=seconds)

    monkeypatch.setattr(journaling, "datetime", Clock)
    monkeypatch.setattr(journaling, "time", SimpleNamespace(time=lambda: time.time() + seconds))


def test_what_was_refused_is_not_billed_though_its_row_is_open(journal):
    hire = journal.begin(OFFER, "runpod")
    hire.refused()
    journal.save()
    time.sleep(0.02)

    assert journal.cost() == Journal.of(journal.run).cost() == 0.0
    hire.order()
    time.sleep(0.02)
    assert journal.cost() > 0


async def test_the_budget_is_watched_while_this_computer_sleeps(journal, monkeypatch):
    journal.begin(OFFER, "runpod")
    budget = Budget(job_with(36.0), journal)  # for 36 s
    monkeypatch.setattr(budgeting, "LOOK_SECONDS", 0.05)
    awake = uptime()

    async def for_ever():
        async with budget.guard():
            monkeypatch.setattr(journaling, "uptime", lambda: awake + 8 * 3600)
            await asyncio.Event().wait()

    with pytest.raises(BudgetExceeded):
        await asyncio.wait_for(for_ever(), 60)


async def test_what_takes_longer_than_the_money_lasts_is_broken_off(journal):
    journal.begin(OFFER, "runpod")
    budget = Budget(job_with(0.2), journal)

    async def for_ever():
        async with budget.guard():
            await asyncio.Event().wait()

    with pytest.raises(BudgetExceeded, match=r"of 0\.2 USD"):
        await for_ever()


def test_without_a_cap_there_is_always_money(journal):
    journal.begin(OFFER, "runpod")

    assert Budget(job_with(None), journal).seconds_left() == float("inf")


def test_an_end_that_was_accepted_bounds_the_bill_until_it_proves_void(journal, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("flows.renting.journal.uptime", lambda: clock[0])
    hire = journal.begin(OFFER, "runpod")
    hire.instance_id = "abc"
    clock[0] += 60
    hire.accepted_seconds = hire.seconds()
    clock[0] += 600
    journal.save()

    assert hire.seconds() == Journal.of(journal.run).hires[0].seconds() == 60

    hire.accepted_seconds = None
    assert hire.seconds() == 660
