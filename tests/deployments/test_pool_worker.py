"""How many jobs a worker starts on its computer."""

from __future__ import annotations

from uuid import uuid4

from blocks.models import Offer
from blocks.names import run_name
from blocks.providers.local import Local
from deployments.pool_worker import others_at_work
from flows.locks import locked
from flows.run_folder import RunFolder

OFFER = Offer(provider="local", instance_type="CPU", region="local", price_per_hour=0.0)


async def test_a_job_that_somebody_else_trains_here_takes_a_place_while_its_flow_lives():
    mine, theirs, dead = uuid4(), uuid4(), uuid4()
    for id in (mine, theirs, dead):
        await Local().launch(OFFER, run_name(id, 1), None)

    async with locked(RunFolder(mine).lock), locked(RunFolder(theirs).lock):
        assert await others_at_work({mine}) == 1
        assert await others_at_work(set()) == 2
    assert await others_at_work(set()) == 0
