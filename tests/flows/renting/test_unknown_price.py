"""What a machine counts as costing when nobody says its price."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from uuid import uuid4

import pytest

from blocks.models import Offer
from blocks.providers.local import Local
from blocks.providers.runpod import RunPod
from flows.renting.journal import Journal
from flows.renting.unknown_price import DEAREST, price_of
from flows.run_folder import RunFolder
from tests.flows.flow_runs import make_job
from trainer.config import Limits, TrainingJob
from trainer.contract.errors import CapacityError


def offer(price: float | None, kind: str = "H100", provider: str = "runpod") -> Offer:
    return Offer(provider=provider, instance_type=kind, region="X", price_per_hour=price)


class Shop(SimpleNamespace):
    """A provider by what it offers; nothing means that all is sold out."""

    label, may_be_free = "runpod", RunPod.may_be_free

    async def offers(self, resources, limits):
        if not self.found:
            raise CapacityError("sold out")
        return self.found


@pytest.fixture
def job(monkeypatch, tmp_path) -> TrainingJob:
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_HOME", str(tmp_path / "home"))
    return make_job()


UNKNOWN = pytest.mark.parametrize("said", [None, 0.0])


def hired(price: float, id: str, kind: str = "H100") -> None:
    journal = Journal.of(RunFolder(uuid4()))
    journal.begin(offer(price, kind), "runpod").instance_id = id
    journal.save()


async def test_a_price_that_is_said_counts_and_this_computer_is_free(job):
    assert await price_of(job, Shop(found=[offer(9.0)]), offer(2.5)) == 2.5
    assert await price_of(job, Local(), offer(0.0, provider="local")) == 0.0


@UNKNOWN
async def test_it_counts_as_the_dearest_of_its_kind(job, said):
    shop = Shop(found=[offer(1.0), offer(3.0), offer(9.0, "B200")])

    assert await price_of(job, shop, offer(said)) == 3.0


@UNKNOWN
async def test_a_kept_machine_counts_as_in_the_run_that_kept_it(job, said):
    hired(2.0, "kept")
    hired(7.0, "another")

    assert await price_of(job, Shop(found=[]), offer(said), id="kept") == 2.0


@UNKNOWN
async def test_of_a_kind_that_is_sold_out_what_is_known_of_the_provider_counts(job, said, caplog):
    hired(4.0, "old", "A100")

    with caplog.at_level(logging.WARNING):
        assert await price_of(job, Shop(found=[offer(6.0, "B200")]), offer(said)) == 6.0
        assert await price_of(job, Shop(found=[]), offer(said)) == 4.0
    assert [record.message.count("nobody says what") for record in caplog.records] == [1, 1]


@UNKNOWN
async def test_where_nothing_is_known_it_is_not_free_either(job, said):
    capped = job.model_copy(update={"limits": Limits(max_price_per_hour=5.0)})

    assert await price_of(capped, Shop(found=[]), offer(said)) == 5.0
    assert await price_of(job, Shop(found=[]), offer(said)) == DEAREST
