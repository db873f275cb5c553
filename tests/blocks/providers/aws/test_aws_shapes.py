"""Answers of AWS that are not what its model says: errors of ours, and no empty account."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.providers import api
from blocks.providers.boto import Amazon, Refusal
from tests.blocks.providers.aws.aws_account import launched
from tests.blocks.providers.contract.test_shapes import JUNK, broken, emptied, places
from tests.blocks.providers.rented_account import mark
from trainer.config import Limits, Resources
from trainer.contract.errors import OrchestratorError


def calls(provider, id):
    return {
        "instances": lambda: provider.instances(),
        "describe": lambda: provider.describe(id),
        "describe another": lambda: provider.describe("us-east-1/i-07"),
        "find": lambda: provider.find(mark()),
        "offers": lambda: provider.offers(Resources(gpu_count=1, spot=None), Limits()),
        "order": lambda: provider.launch(OFFER[0], mark(2), "ssh-ed25519 AAAA x"),
        "check": lambda: provider.check(),
        "sweep": lambda: provider.sweep(),
    }


OFFER = []


@pytest.mark.thorough
async def test_an_answer_of_another_shape_is_an_error_of_ours(provider, cloud, key, monkeypatch):
    monkeypatch.setenv("AWS_REGIONS", "us-east-1")
    monkeypatch.setattr(type(provider), "settle_seconds", 0.0)
    machine = await launched(provider, key, spot=True)
    [first, *_] = await provider.offers(Resources(gpu_count=1), Limits())
    OFFER[:] = [first]
    asked = calls(provider, machine.id)
    call, seen = Amazon.call, {}

    async def record(self, service, operation, arguments=None, **options):
        answer = await call(self, service, operation, arguments, **options)
        seen[service, operation] = answer
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(Amazon, "call", record)
        for ask in asked.values():
            with suppress(OrchestratorError):
                await ask()

    @settings(max_examples=300, deadline=None, database=None)
    @given(data=st.data())
    def shapes(data):
        which = data.draw(st.sampled_from(sorted(seen)))
        path = data.draw(st.sampled_from([*places(seen[which])][1:]))
        junk = data.draw(st.sampled_from([*JUNK, {"Error": "maintenance"}]))
        answers = {**seen, which: broken(seen[which], path, junk)}
        asyncio.run(ask_all(asked, answers, may_be_empty=emptied(seen[which], path, junk)))

    await asyncio.to_thread(shapes)


async def ask_all(asked, answers, *, may_be_empty):
    async def answer(self, service, operation, arguments=None, **options):
        del self, options
        if (service, operation) not in answers or (arguments or {}).get("DryRun"):
            raise Refusal("no")
        return answers[service, operation]

    api._shared.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Amazon, "call", answer)
        for name, ask in asked.items():
            with suppress(OrchestratorError):
                found = await ask()
                if name == "instances":
                    assert found or may_be_empty, "no machine is seen, and one may be there"
                    assert all(one.price_per_hour != 0 for one in found)
