"""Which machine is large enough for a job."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from uuid import uuid4

import pytest

from blocks.models import Offer
from blocks.providers.base import Provider
from flows import train as flow
from flows.renting import market as markets
from flows.renting.market import Choice
from flows.renting.right_size import advice, need_of, would_have_done
from flows.run_folder import RunFolder
from tests.flows.flow_runs import make_job
from trainer.config import TrainingJob
from trainer.contract.files import read_json, replace_json

FACTS = {
    "steps": 10,
    "rows": 10,
    "tokens": 10,
    "parameters": 10,
    "trainable_parameters": 10,
    "gradient_checkpointing": True,
    "seconds": None,
    "gpu_memory": {"gb": 14.6, "sure": "computed"},
}


def offer(kind: str, gib: float, price: float) -> Offer:
    return Offer(
        provider="cloud",
        instance_type=kind,
        region="X",
        price_per_hour=price,
        gpu_type=kind,
        gpu_count=1,
        vram_gb=gib,
    )


SMALL, RIGHT, LARGE = offer("T4", 14.7, 0.2), offer("A10", 22.5, 0.6), offer("H100", 80, 2.5)


class Shop(SimpleNamespace):
    """A provider by what it offers, of the GPUs that are asked for."""

    label, notice_command = "cloud", ""
    may_be_free, gang_offers = False, Provider.gang_offers

    async def offers(self, resources, limits):
        wanted = resources.gpu_types
        return [one for one in self.found if not wanted or one.gpu_type in wanted]


@pytest.fixture
def shop(monkeypatch, tmp_path) -> Shop:
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_HOME", str(tmp_path / "home"))
    shop = Shop(found=[SMALL, RIGHT, LARGE])

    async def found(job):
        return [shop]

    monkeypatch.setattr(markets, "providers_of", found)
    return shop


def job_of(**resources) -> TrainingJob:
    job = make_job()
    return job.model_copy(update={"resources": job.resources.model_copy(update=resources)})


def trained(job: TrainingJob, gb: float, *, gpus: int = 1) -> None:
    """Leave the report of a run behind."""
    report = {
        "job": job.model_dump(mode="json"),
        "usage": {"memory_gb": gb},
        "machines": [{"gpu_count": gpus, "price_per_hour": 1.0}],
    }
    replace_json(RunFolder(uuid4()).report, report)


def test_what_was_measured_outweighs_what_is_computed(shop):
    job = make_job()
    assert need_of(job, None) is None
    assert (need_of(job, FACTS).gb, need_of(job, FACTS).sure) == (14.6, "computed")

    trained(job, 5.0)
    trained(job, 6.5)
    trained(make_job(max_length=4096), 50.0)  # another job
    trained(job, 0.4, gpus=0)  # main memory

    assert (need_of(job, FACTS).gb, need_of(job, None).sure) == (6.5, "measured")


@pytest.mark.parametrize(
    ("types", "words"),
    [
        (
            [],
            "cloud A10 (1 × A10) in X at 0.6 USD/h is the cheapest that holds the peak of 14.6 GB "
            "(computed); the first choice is too small: set resources.min_vram_gb: 16",
        ),
        (["A10"], "(computed); it is the first choice"),
        (
            ["H100"],
            "A10 (1 × A10) in X at 0.6 USD/h is the cheapest that holds the peak of 14.6 GB "
            "(computed); set resources.gpu_types: [A10], or min_vram_gb: 16 alone",
        ),
    ],
)
async def test_the_cheapest_that_holds_the_job_is_named_whatever_was_asked_for(shop, types, words):
    job = job_of(gpu_types=types)
    choices = (await markets.market(job)).choices

    assert words in await advice(choices, job, FACTS)


async def test_that_none_is_large_enough_is_said_and_of_cpus_nothing_is(shop):
    job, shop.found = job_of(), [SMALL]
    choices = [Choice(shop, SMALL)]

    assert await advice(choices, job, FACTS) == (
        "no machine for hire holds the peak of 14.6 GB (computed) on each GPU"
    )
    cpu = dataclasses.replace(SMALL, gpu_count=0, gpu_type=None, vram_gb=0.0)
    assert await advice([Choice(shop, cpu)], job, FACTS) is None
    assert await advice(choices, job, None) is None


def report(gb: float, price: float, gpus: int = 1):
    return {"usage": {"memory_gb": gb}, "machines": [{"gpu_count": gpus, "price_per_hour": price}]}


async def test_after_a_run_a_cheaper_machine_that_would_have_held_it_is_named(shop):
    job = job_of(gpu_types=["H100"])

    assert await would_have_done(job, report(14.6, 2.5)) == (
        "cloud A10 (1 × A10) in X at 0.6 USD/h holds the peak of 14.6 GB (measured)"
    )
    assert await would_have_done(job, report(60.0, 2.5)) is None  # none is cheaper
    assert await would_have_done(job, report(14.6, 0.6)) is None
    assert await would_have_done(job, report(1.0, 2.5, gpus=0)) is None


async def test_what_fails_after_a_job_has_completed_takes_nothing_from_it(shop, monkeypatch):
    async def broken(job, report):
        raise KeyError("price")

    monkeypatch.setattr(flow, "would_have_done", broken)
    run = RunFolder(uuid4())

    report = await flow._afterwards(make_job(), run, {"path": "x"})

    assert report == read_json(run.report) == {"path": "x"}
