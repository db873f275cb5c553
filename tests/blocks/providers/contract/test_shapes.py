"""Answers that are JSON and not what the documentation says: errors of ours, and no empty account."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.marks import Mark
from blocks.models import Offer
from blocks.providers import api, gcp
from blocks.providers.api import Api
from blocks.providers.boto import Amazon, Refusal
from tests.blocks.providers.contract.conftest import OF_JSON, Case
from tests.blocks.providers.contract.test_contract import launched
from tests.blocks.providers.rented_account import mark
from trainer.config import Limits, Resources
from trainer.contract.errors import OrchestratorError

JUNK = [None, 5, -1, 1e308, True, "x", "", [], {}, [None], [[]], ["x"], [5], {"id": 5}, {"x": {}}]
WHOLE = ({"data": {}}, {"data": "x"}, {"error": "maintenance"}, {"error": {"code": 5}})


def calls(case: Case, id: str, offer: Offer):
    provider = case.provider
    return {
        "instances": lambda: provider.instances(),
        "describe": lambda: provider.describe(id),
        "describe another": lambda: provider.describe("7"),
        "find": lambda: provider.find(mark()),
        "offers": lambda: provider.offers(case.resources, Limits()),
        "offers with regions": lambda: provider.offers(
            case.resources.model_copy(update={"regions": ["EU"]}), Limits()
        ),
        "offers of GPUs": lambda: provider.offers(Resources(gpu_count=1), Limits()),
        "order": lambda: provider.launch(offer, Mark.of_run(uuid4(), 1), "ssh-ed25519 AAAA x"),
        "check": lambda: provider.check(),
        "sweep": lambda: provider.sweep(),
    }


def places(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the way to every part of a JSON value, the whole first."""
    yield path
    if isinstance(tree, (dict, list)):
        for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(part, (*path, key))


def broken(tree: Any, path: tuple, junk: Any) -> Any:
    if not path:
        return junk
    tree = copy.deepcopy(tree)
    at = tree
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = junk
    return tree


@OF_JSON
async def test_an_answer_of_another_shape_is_an_error_of_ours(case, monkeypatch, pytestconfig):
    """Asserted by `ask_all`, of every broken answer."""
    monkeypatch.setattr(api, "PAUSES", ())
    monkeypatch.setattr(gcp, "FOLLOW_SECONDS", 0.0)  # an order whose end is never told
    machine = await launched(case)
    monkeypatch.setattr(type(case.provider), "settle_seconds", 0.0)
    asked = calls(case, machine.id, await case.offer())
    seen = await true_answers(asked, monkeypatch)
    many = 300 if pytestconfig.getoption("thorough") else 60
    hurry = settings(max_examples=many, deadline=None, database=None)

    @hurry
    @given(data=st.data())
    def shapes(data):
        which = data.draw(st.sampled_from(sorted(seen)))
        path = data.draw(st.sampled_from([*places(seen[which])]))
        junk = data.draw(st.sampled_from([*JUNK, *WHOLE]))
        body = broken(seen[which], path, junk)
        may_be_empty = emptied(seen[which], path, junk)
        asyncio.run(ask_all(asked, {**seen, which: body}, may_be_empty=may_be_empty))

    await asyncio.to_thread(shapes)


async def true_answers(asked, monkeypatch) -> dict[tuple[str, str], Any]:
    """Return what the account answers to the calls."""
    exchange, seen = Api._exchange, {}

    async def record(self, request, trace):
        response = await exchange(self, request, trace)
        if response.is_success and response.content:
            seen[request.method, request.path] = response.json()
        return response

    call = Amazon._call

    def record_amazon(self, service, operation, arguments, **how):
        found = call(self, service, operation, arguments, **how)
        found.pop("ResponseMetadata")
        # A list is asked for by one state after the other, and most of them have nothing.
        seen[service, operation] = max(found, seen.get((service, operation), {}), key=_size)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Api, "_exchange", record)
        patched.setattr(Amazon, "_call", record_amazon)
        for ask in asked.values():
            with suppress(OrchestratorError):
                await ask()
    return seen


def _size(answer: Any) -> int:
    return len(json.dumps(answer, default=str))


async def ask_all(asked, answers, *, may_be_empty: bool) -> None:
    """Make all calls while the account gives these answers; any error but ours fails."""

    async def answer(self, request, trace):
        del self, trace
        name = request.method, request.path
        return httpx.Response(
            200 if name in answers else 404,
            text=json.dumps(answers.get(name)),
            request=httpx.Request(request.method, "http://x/"),
        )

    def answer_of_amazon(self, service, operation, arguments, **how):
        del self, arguments, how
        if (service, operation) not in answers:
            refusal = Refusal("Requested resource not found.")
            refusal.code = "ResourceNotFound"
            raise refusal
        found = answers[service, operation]
        return found if isinstance(found, dict) else {}  # the library sees to that

    api._shared.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Api, "_exchange", answer)
        patched.setattr(Amazon, "_call", answer_of_amazon)
        for name, ask in asked.items():
            with suppress(OrchestratorError):
                found = await ask()
                if name == "instances":
                    assert found or may_be_empty, "no machine is seen, and one may be there"
                    assert all(one.price_per_hour != 0 for one in found)


def emptied(tree: Any, path: tuple, junk: Any) -> bool:
    """Whether an answer with an empty list was given, as the documentation has it."""
    for key in path:
        tree = tree[key]
    return isinstance(tree, list) and junk == []
