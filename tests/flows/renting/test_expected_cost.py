"""What a job is expected to cost where the machine may be taken back."""

from __future__ import annotations

import dataclasses
import random
from types import SimpleNamespace
from uuid import uuid4

import pytest

from blocks.models import Offer
from blocks.providers.base import Provider
from flows.renting import market as markets
from flows.renting.expected_cost import (
    ASSUMED_PER_HOUR,
    SETUP_SECONDS,
    History,
    expected_on,
    longer,
    ranked,
)
from flows.renting.journal import Journal
from flows.renting.market import market
from flows.run_folder import RunFolder
from tests.flows.flow_runs import make_job
from trainer.contract.files import replace_json

HOUR = 3600.0
FACTS = {
    "steps": 10_000,
    "rows": 1000,
    "tokens": 500_000,
    "parameters": 8_000_000_000,
    "trainable_parameters": 40_000_000,
    "gradient_checkpointing": True,
    "seconds": None,
}
DEMAND = Offer(
    provider="cloud",
    instance_type="a100",
    region="X",
    price_per_hour=2.0,
    gpu_type="A100",
    gpu_count=1,
    vram_gb=80.0,
)
SPOT = dataclasses.replace(DEMAND, spot=True, price_per_hour=1.0)
NOTHING_KNOWN = History(list)
CLOUD = SimpleNamespace(label="cloud", notice_command="")
WARNS = SimpleNamespace(label="cloud", notice_command="wait for it")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_HOME", str(tmp_path / "home"))


def simulated(rate: float, seconds: float, unsaved: float, late: float, set_up: float) -> float:
    """Return how long one training takes whose machine is taken back at random."""
    draw = random.Random(7)  # noqa: S311 - no secret
    took, rounds = 0.0, 400
    for _ in range(rounds):
        done = 0.0
        while done < seconds:
            lives = draw.expovariate(rate)
            if done + lives >= seconds:
                took += seconds - done
                break
            # Home is what was saved, unless it was still on its way.
            reached = done + lives - late
            done = max(done, unsaved * (reached // unsaved))
            took += lives + set_up
    return took / rounds


@pytest.mark.parametrize("per_hour", [0.05, 0.5, 1.5])
def test_what_is_expected_is_what_happens_on_average(per_hour):
    seconds, unsaved, late, set_up = 10 * HOUR, 600.0, 30.0, 300.0
    rate = per_hour / HOUR

    expected = seconds * longer(rate, unsaved, late + set_up)

    assert expected == pytest.approx(simulated(rate, seconds, unsaved, late, set_up), rel=0.04)


def test_without_interruptions_nothing_takes_longer_and_with_too_many_it_never_ends():
    assert longer(0.0, 600.0, 300.0) == 1.0
    assert longer(1.0, 10_000.0, 300.0) == float("inf")


def test_a_spot_machine_is_the_first_choice_only_while_what_it_loses_is_cheap():
    offers = [(CLOUD, DEMAND), (CLOUD, dataclasses.replace(SPOT, interruptions_per_hour=0.6))]
    often, rarely = make_job(save_steps=50), make_job(save_steps=10_000)

    assert ranked(offers, often, FACTS, NOTHING_KNOWN) == [1, 0]
    assert ranked(offers, rarely, FACTS, NOTHING_KNOWN) == [0, 1]
    spot = expected_on(CLOUD, offers[1][1], rarely, FACTS, NOTHING_KNOWN)
    assert spot.seconds is not None
    assert spot.usd > expected_on(CLOUD, DEMAND, rarely, FACTS, NOTHING_KNOWN).usd


def test_a_warning_saves_what_was_trained_since_the_last_checkpoint_unless_that_is_too_large():
    risky = dataclasses.replace(SPOT, interruptions_per_hour=0.6)
    job = make_job(save_steps=10_000)
    large = {**FACTS, "trainable_parameters": 8_000_000_000}

    def factor(provider, facts=FACTS):
        return expected_on(provider, risky, job, facts, NOTHING_KNOWN).factor

    assert factor(WARNS) < 1.1 < 3 < factor(CLOUD)
    assert factor(WARNS, large) == factor(CLOUD, large)


def test_a_dearer_machine_that_is_faster_may_cost_less():
    slow = dataclasses.replace(DEMAND, instance_type="t4", gpu_type="T4", price_per_hour=0.9)
    offers = [(CLOUD, slow), (CLOUD, DEMAND)]

    assert ranked(offers, make_job(), FACTS, NOTHING_KNOWN) == [1, 0]
    assert ranked(offers, make_job(), None, NOTHING_KNOWN) == [0, 1]  # by price: no time is known


def test_what_is_billed_beside_a_machine_is_expected_too():
    beside = dataclasses.replace(
        DEMAND, storage_gb=1000, storage_price=0.73, beside_per_hour=1.0, traffic_price=1.0
    )
    job = make_job(save_steps=5000)

    bare, whole = (
        expected_on(CLOUD, offer, job, FACTS, NOTHING_KNOWN) for offer in (DEMAND, beside)
    )

    hours = whole.seconds / HOUR
    traffic = (2 * 3 + 1) * 4 * FACTS["trainable_parameters"] / 1e9  # two checkpoints, an adapter
    assert whole.usd - bare.usd == pytest.approx(2.0 * hours + traffic)


def used(spot: bool, hours: float, cause: str, set_up: float | None = None):
    journal = Journal.of(RunFolder(uuid4()))
    hire = journal.begin(SPOT if spot else DEMAND, "cloud")
    hire.instance_id, hire.metered_seconds, hire.set_up_seconds = "m", hours * HOUR, set_up
    journal.end(hire, cause)


def test_how_often_machines_are_taken_back_is_learned_from_those_that_were():
    assert History().interruptions("cloud", SPOT).per_hour == ASSUMED_PER_HOUR
    assert History().interruptions("cloud", SPOT).source == "assumed"
    said = dataclasses.replace(SPOT, interruptions_per_hour=0.2)
    assert History().interruptions("cloud", said).source == "provider"

    used(True, 200.0, "completed")
    used(True, 200.0, "MachineLost: taken back")
    used(False, 500.0, "completed")  # on demand says nothing of spot

    found = History().interruptions("cloud", said)
    assert found.source == "history"
    assert found.per_hour == pytest.approx((0.2 * 20 + 1) / 420, rel=0.01)
    assert History().interruptions("another", SPOT).source == "assumed"


@pytest.mark.parametrize(
    "machines",
    ["none", [None], [{"name": 1}], [{"mark": "x", "metered_at": "yesterday", "may_exist": True}]],
    ids=["no list", "no row", "fields missing", "no time"],
)
def test_a_journal_that_nobody_understands_hinders_no_other_job(machines):
    used(True, 200.0, "completed")
    replace_json(RunFolder(uuid4()).journal, {"machines": machines})

    assert History().interruptions("cloud", SPOT).source == "history"


def test_how_long_a_machine_takes_to_be_ready_is_learned_too():
    assert History().set_up_seconds("cloud", DEMAND) == SETUP_SECONDS

    for seconds in (100.0, 140.0, 900.0):
        used(False, 1.0, "completed", seconds)

    assert History().set_up_seconds("cloud", DEMAND) == 140.0


class Shop(SimpleNamespace):
    """A provider by what it offers."""

    may_be_free, gang_offers, notice_command = False, Provider.gang_offers, ""

    async def offers(self, resources, limits):
        return self.found


async def test_the_first_choice_is_the_one_that_is_expected_to_cost_least(monkeypatch):
    risky = dataclasses.replace(SPOT, interruptions_per_hour=3.0)
    shops = [
        Shop(label="one", found=[risky, DEMAND]),
        Shop(label="two", found=[dataclasses.replace(DEMAND, price_per_hour=1.9)]),
    ]

    async def found(job):
        return shops

    monkeypatch.setattr(markets, "providers_of", found)
    job = make_job(save_steps=1000)

    def order(provider, facts):
        asked = job.model_copy(update={"provider": provider})
        return market(asked, facts)

    anywhere = await order("any", FACTS)
    assert [(c.provider.label, c.offer.spot) for c in anywhere.choices] == [
        *(("two", False), ("one", False), ("one", True)),
    ]
    in_turn = await order(["one", "two"], FACTS)
    assert [c.provider.label for c in in_turn.choices] == ["one", "one", "two"]
    assert in_turn.choices[0].offer == DEMAND
