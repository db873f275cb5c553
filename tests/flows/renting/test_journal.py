import asyncio
import dataclasses
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest

from blocks import uptime as clocks
from blocks.marks import Mark
from blocks.models import Instance, InstanceStatus, Offer
from blocks.uptime import uptime
from flows.renting import budget as budgeting
from flows.renting import hire as hiring
from flows.renting.budget import Budget
from flows.renting.journal import Journal
from flows.renting.keeping import seconds_kept
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


def ordered(journal):
    hire = journal.begin(OFFER, "runpod")
    hire.order()
    journal.save()
    return hire


def edited(journal, **changes):
    """Return a run's only row as the next process reads it, after changes to the file."""
    record = read_json(journal.run.journal)
    record["machines"][0] |= changes
    replace_json(journal.run.journal, record)
    return Journal.of(journal.run).hires[0]


def ago(seconds):
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


def last_word(journal, seconds):
    replace_json(journal.run.contact, {"time": time.time() - seconds, "boot": "", "uptime": 0.0})


def test_every_machine_of_a_run_gets_a_mark_of_its_own(journal):
    marks = [ordered(journal).mark for _ in range(3)]

    assert len(set(marks)) == 3
    assert [hire.attempt for hire in Journal.of(journal.run).hires] == [1, 2, 3]


def test_the_table_shows_minutes_and_four_digits(journal):
    hire = ordered(journal)
    hire.instance_id, hire.metered_seconds, hire.price_per_hour = "abc", 761.0, 0.123456
    journal.end(hire, "completed")

    [row] = journal.table()

    assert (row["time"], row["USD/h"], row["USD"]) == ("12:41 min", 0.1235, 0.0261)


def let_pass(monkeypatch, seconds):
    """Let so much time have passed since this computer was started."""
    before = hiring.uptime
    monkeypatch.setattr(hiring, "uptime", lambda: before() + seconds)


def test_a_machine_costs_until_it_is_gone(journal, monkeypatch):
    hire = ordered(journal)
    hire.instance_id = "abc"
    let_pass(monkeypatch, 100)
    journal.end(hire, "completed")
    paid = journal.cost()
    let_pass(monkeypatch, 100)

    assert paid == pytest.approx(100, abs=5)  # a USD a second
    assert journal.cost() == Journal.of(journal.run).cost() == paid


def test_disk_address_and_traffic_are_paid_as_long_as_the_bundle_is_there(journal, monkeypatch):
    offer = dataclasses.replace(
        OFFER, storage_gb=100.0, storage_price=7.3, beside_per_hour=0.5, traffic_price=0.25
    )
    hire = journal.begin(offer, "runpod")
    hire.instance_id = "abc"
    hire.order()
    # What the provider says of the machine outweighs its offer, and 0 says nothing.
    journal.billed(hire, offer.as_instance("abc", None, storage_gb=200.0, traffic_price=0.0))
    journal.came_home(hire, 2 * 10**9)
    let_pass(monkeypatch, 3600)
    journal.end(hire, "completed")

    [row] = Journal.of(journal.run).hires
    assert row.storage_cost() == pytest.approx(2.0, rel=0.01)  # 200 GB at a cent an hour each
    assert row.beside_cost() == pytest.approx(0.5, rel=0.01)
    assert row.traffic_cost() == pytest.approx(0.5)
    assert row.cost() == pytest.approx(row.compute_cost() + 3.0, rel=0.01)


def test_another_price_bills_nothing_twice(journal, monkeypatch):
    offer = dataclasses.replace(
        OFFER, storage_gb=100.0, storage_price=7.3, beside_per_hour=0.5, traffic_price=0.25
    )
    hire = journal.begin(offer, "runpod")
    hire.order()
    journal.came_home(hire, 2 * 10**9)
    let_pass(monkeypatch, 3600)
    before = hire.cost()

    for price in (1800.0, 900.0):  # as those of spot machines move
        hire.reprice(price)

    assert hire.cost() == pytest.approx(before, rel=1e-4)


def test_the_budget_reckons_with_what_is_billed_beside_a_machine(journal):
    offer = dataclasses.replace(OFFER, price_per_hour=1.0, beside_per_hour=1.0)
    journal.begin(offer, "runpod").order()

    left = Budget(job_with(2.0), journal).seconds_left()

    assert left == pytest.approx(3600, rel=0.01)


@pytest.mark.parametrize(("ends_bill", "hours"), [(True, 1.0), (False, 3.0)])
def test_a_kept_machine_is_paid_until_its_bill_ends(journal, monkeypatch, ends_bill, hours):
    hire = ordered(journal)
    hire.instance_id = "abc"
    journal.keep(hire, Mark.kept(time.time() + 3600, "0" * 8), ends_bill=ends_bill)
    let_pass(monkeypatch, 3 * 3600)

    assert hire.seconds() / 3600 == pytest.approx(hours, rel=0.01)


@pytest.mark.parametrize(("left", "minutes"), [(100.0, 60), (0.5, 30), (0.001, 0)])
def test_a_machine_is_kept_as_long_as_the_job_can_pay_for_it(journal, left, minutes):
    journal.begin(dataclasses.replace(OFFER, price_per_hour=1.0), "runpod").order()
    job = job_with(left).model_copy(update={"keep_minutes": 60.0})

    assert seconds_kept(job, journal) / 60 == pytest.approx(minutes, abs=0.5)


def test_an_attempt_of_which_nothing_came_costs_nothing(journal, monkeypatch):
    hire = ordered(journal)
    let_pass(monkeypatch, 100)

    journal.end(hire, "CapacityError: sold out")

    assert journal.cost() == 0


def test_time_in_which_nobody_metered_is_paid_too(journal):
    ordered(journal)

    assert edited(journal, metered_at=ago(90000), boot="").seconds() > 86400


def test_a_clock_that_jumped_back_makes_nothing_cheaper(journal):
    ordered(journal)
    hire = edited(journal, metered_seconds=7.0, metered_at="2999-01-01T00:00:00+00:00", boot="")

    assert hire.seconds() == pytest.approx(7.0, abs=1)


def test_a_row_whose_order_never_went_out_costs_nothing(journal):
    journal.begin(OFFER, "runpod")

    assert edited(journal, metered_at=ago(8 * 3600), boot="").cost() == 0.0


def test_a_machine_that_ended_itself_while_we_were_away_is_paid_until_then(journal):
    hire = ordered(journal)
    hire.instance_id, hire.unattended_seconds = "abc", 600.0
    journal.save()
    last_word(journal, 8 * 3600)

    hire = edited(journal, metered_seconds=0.0, metered_at=ago(8 * 3600 + 60), boot="")

    assert hire.seconds() == pytest.approx(660, abs=5)
    # Written and read again: what was withheld is neither paid nor withheld twice.
    again = Journal.of(journal.run)
    again.save()
    again = Journal.of(journal.run)
    assert again.hires[0].seconds() == pytest.approx(660, abs=5)
    again.hires[0].seen(seen(InstanceStatus.ABSENT))
    assert again.hires[0].seconds() == pytest.approx(660, abs=5)


def test_a_machine_that_is_listed_still_is_paid_for_all_the_time(journal):
    hire = ordered(journal)
    hire.instance_id, hire.unattended_seconds = "abc", 600.0
    journal.save()
    last_word(journal, 8 * 3600)
    hire = edited(journal, metered_seconds=0.0, metered_at=ago(8 * 3600), boot="")

    hire.seen(seen(InstanceStatus.RUNNING))

    assert hire.seconds() == pytest.approx(8 * 3600, abs=5)


def test_a_machine_whose_lease_was_renewed_meanwhile_is_paid_until_it_ran_out(journal):
    hire = ordered(journal)
    hire.instance_id, hire.unattended_seconds = "abc", 600.0
    journal.save()
    last_word(journal, 3600)  # five hours after the journal was written last

    hire = edited(journal, metered_seconds=0.0, metered_at=ago(6 * 3600), boot="")

    assert hire.seconds() == pytest.approx(5 * 3600 + 600, abs=5)


def seen(status):
    return Instance(provider="runpod", id="abc", mark=None, status=status)


def test_the_time_that_this_computer_sleeps_is_billed(journal, monkeypatch):
    """A laptop's lid is closed for eight hours: its monotonic clock stands still meanwhile."""
    hire = ordered(journal)
    awake = uptime()
    monkeypatch.setattr(hiring, "uptime", lambda: awake + 8 * 3600)

    assert hire.seconds() == pytest.approx(8 * 3600, abs=5)


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_set_between_two_processes_bills_nothing(journal, monkeypatch, hours):
    ordered(journal)
    set_clock(monkeypatch, hours * 3600)

    [hire] = Journal.of(journal.run).hires

    assert hire.seconds() == pytest.approx(0.0, abs=5)


def test_what_another_computer_has_been_up_is_not_billed(journal, monkeypatch):
    """The home is on a network drive, and is opened on a server that runs for a hundred days."""
    ordered(journal)
    monkeypatch.setattr(clocks, "boot_id", lambda: "another")
    for module in (clocks, hiring):
        monkeypatch.setattr(module, "uptime", lambda: time.monotonic() + 100 * 86400.0)

    hire = edited(journal, metered_at=ago(60))

    assert hire.seconds() == pytest.approx(60.0, abs=5)


def set_clock(monkeypatch, seconds):
    clock = SimpleNamespace(time=lambda: time.time() + seconds, clock_gettime=time.clock_gettime)
    for module in (clocks, hiring):
        monkeypatch.setattr(module, "time", clock)


def test_what_was_refused_is_not_billed_though_its_row_is_open(journal, monkeypatch):
    hire = ordered(journal)
    hire.refused()
    journal.save()
    let_pass(monkeypatch, 100)

    assert journal.cost() == Journal.of(journal.run).cost() == 0.0
    hire.order()
    let_pass(monkeypatch, 100)
    assert journal.cost() == pytest.approx(100, abs=5)


async def test_the_budget_is_watched_while_this_computer_sleeps(journal, monkeypatch):
    ordered(journal)
    budget = Budget(job_with(36.0), journal)  # for 36 s
    monkeypatch.setattr(budgeting, "LOOK_SECONDS", 0.05)
    awake = uptime()

    async def for_ever():
        async with budget.guard():
            monkeypatch.setattr(hiring, "uptime", lambda: awake + 8 * 3600)
            await asyncio.Event().wait()

    with pytest.raises(BudgetExceeded):
        await asyncio.wait_for(for_ever(), 60)


async def test_what_takes_longer_than_the_money_lasts_is_broken_off(journal):
    ordered(journal)
    budget = Budget(job_with(0.2), journal)

    async def for_ever():
        async with budget.guard():
            await asyncio.Event().wait()

    with pytest.raises(BudgetExceeded, match=r"of 0\.2 USD"):
        await for_ever()


def test_without_a_cap_there_is_always_money(journal):
    ordered(journal)

    assert Budget(job_with(None), journal).seconds_left() == float("inf")


def test_an_end_that_was_accepted_bounds_the_bill_until_it_proves_void(journal, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("flows.renting.hire.uptime", lambda: clock[0])
    hire = ordered(journal)
    hire.instance_id = "abc"
    clock[0] += 60
    hire.accepted_seconds = hire.seconds()
    clock[0] += 600
    journal.save()

    assert hire.seconds() == Journal.of(journal.run).hires[0].seconds() == 60

    hire.accepted_seconds = None
    assert hire.seconds() == 660
