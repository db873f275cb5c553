import asyncio
import math
import time
from itertools import pairwise

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.routing import Route

from blocks.providers import api
from blocks.providers.api import Api, Unanswered
from blocks.providers.connections import client_of
from tests.clouds.cloud import Cloud, Fault
from tests.flows.flow_runs import until
from trainer.contract.errors import ConnectionLost, RateLimited

KEY = "canary-5f1c"
AMBIGUOUS = [
    Fault(kind="status", status=500),
    Fault(kind="html", status=502),
    Fault(kind="truncated"),
    Fault(kind="empty"),
    Fault(kind="drop"),
    Fault(kind="silence"),
    Fault(kind="commit_then_status", status=503),
    Fault(kind="commit_then_drop"),
    Fault(kind="commit_then_silence"),
    Fault(kind="drip"),
]


class Shop(Cloud):
    """An API with a list that POST adds to."""

    api_path = "/v1"

    def __init__(self, folder):
        self.things = []
        self.seen = []  # when each slow call came
        self.tokens = []
        self.ports = []
        super().__init__(folder)

    def routes(self):
        return [
            Route("/v1/things", self._list),
            Route("/v1/things", self._add, methods=["POST"]),
            Route("/v1/slow", self._slow),
        ]

    async def gate(self, request):
        self.tokens.append(request.headers.get("Authorization"))
        self.ports.append(request.client.port)

    async def _list(self, request):
        return JSONResponse({"things": self.things})

    async def _slow(self, request):
        self.seen.append(time.monotonic())
        return JSONResponse({})

    async def _add(self, request):
        self.things.append(request.headers["User-Agent"])
        return JSONResponse({"count": len(self.things)}, 201)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.setattr(api, "PAUSES", (0.01, 0.02, 0.02, 0.02))
    monkeypatch.setattr(api, "WHOLE_SECONDS", 0.2)
    with Shop(tmp_path / "shop") as cloud:
        yield cloud
    assert cloud.errors == []


class Bearer(httpx.Auth):
    def __init__(self, token):
        self._token = token

    def auth_flow(self, request):
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def connected(shop, **intervals):
    return Api("Shop", shop.url, {"Authorization": f"Bearer {KEY}"}, intervals, account="a")


def fault(template, **changes):
    return Fault(**{**vars(template), **changes})


@pytest.mark.parametrize("trouble", AMBIGUOUS, ids=lambda it: it.kind)
async def test_a_call_that_reads_is_repeated(shop, trouble):
    shop.faults.add(fault(trouble, times=2))

    answer = await connected(shop).call("GET", "/things", read_seconds=0.3)

    assert answer.data == {"things": []}
    assert len(shop.requests) == 3


@pytest.mark.parametrize("trouble", AMBIGUOUS, ids=lambda it: it.kind)
async def test_a_call_that_must_not_be_repeated_is_sent_once(shop, trouble):
    shop.faults.add(fault(trouble, times=math.inf))

    with pytest.raises(Unanswered, match=r"Shop \(127\.0\.0\.1\) gave no usable answer to POST"):
        await connected(shop).call("POST", "/things", body={}, once=True, read_seconds=0.3)

    assert len(shop.requests) == 1
    assert len(shop.things) == trouble.commits


async def test_a_host_that_keeps_failing_is_named_and_the_key_is_not(shop):
    shop.faults.add(Fault(kind="status", status=503, body={"key": KEY}, times=math.inf))

    with pytest.raises(ConnectionLost, match=r"127\.0\.0\.1.*HTTP 503 \(GET /things\)") as caught:
        await connected(shop).call("GET", "/things")

    assert len(shop.requests) == 1 + len(api.PAUSES)
    assert KEY not in str(caught.value)


async def test_what_cannot_have_been_sent_is_not_ambiguous(shop):
    there = connected(shop)
    shop.stop()

    with pytest.raises(ConnectionLost) as caught:
        await there.call("POST", "/things", body={}, once=True)

    assert not isinstance(caught.value, Unanswered)


async def test_a_refusal_is_returned_with_its_words(shop):
    shop.faults.add(Fault(kind="status", status=404, body={"error": "no such thing"}))

    answer = await connected(shop).call("GET", "/things")

    assert (answer.status, answer.ok, answer.data) == (404, False, {"error": "no such thing"})


async def test_the_product_names_itself(shop):
    await connected(shop).call("POST", "/things", body={}, once=True)

    assert shop.things[0].startswith("training-orchestrator/")


async def test_retry_after_holds_every_run_of_the_account(shop):
    shop.faults.add(Fault(kind="status", status=429, headers={"Retry-After": "1"}))
    since = time.monotonic()

    await connected(shop).call("GET", "/slow")
    await connected(shop).call("GET", "/slow")

    first, second = shop.seen
    assert first - since >= 1
    assert second - first < 1
    assert [request.status for request in shop.requests] == [429, 200, 200]


async def test_a_429_is_not_the_fate_of_a_create(shop):
    shop.faults.add(Fault(kind="status", status=429, headers={"Retry-After": "0"}))

    answer = await connected(shop).call("POST", "/things", body={}, once=True)

    assert answer.data == {"count": 1}


async def test_a_429_that_does_not_say_how_long_is_waited_out(shop, monkeypatch):
    monkeypatch.setattr(api, "RATE_PAUSE", 0.3)
    shop.faults.add(Fault(kind="status", status=429, body="slow down", times=2))
    since = time.monotonic()

    await connected(shop).call("GET", "/things")

    assert time.monotonic() - since >= 0.6
    assert len(shop.requests) == 3


async def test_a_wait_of_more_than_three_minutes_is_not_begun(shop):
    headers = {"Retry-After": "3600"}
    shop.faults.add(Fault(kind="status", status=429, headers=headers, times=math.inf))

    with pytest.raises(RateLimited, match="Shop asks to wait 3600 s"):
        await connected(shop).call("GET", "/things")
    with pytest.raises(RateLimited):  # the pause is known, so nobody is asked
        await connected(shop).call("GET", "/things")

    assert len(shop.requests) == 1


async def test_waits_add_up_and_are_counted_once(shop, monkeypatch):
    monkeypatch.setattr(api, "RATE_PATIENCE", 1.0)
    headers = {"Retry-After": "0.4"}
    shop.faults.add(Fault(kind="status", status=429, headers=headers, times=math.inf))

    with pytest.raises(RateLimited):
        await connected(shop).call("GET", "/things")

    assert len(shop.requests) == 3


async def test_calls_go_out_at_the_pace_of_their_buckets(shop):
    there = connected(shop, **{"": 0.05, "slow": 0.3})
    since = time.monotonic()

    await asyncio.gather(*(there.call("GET", "/things") for _ in range(4)))
    quick = time.monotonic() - since
    await asyncio.gather(*(there.call("GET", "/things", bucket="slow") for _ in range(3)))

    assert 0.15 <= quick < 0.5
    assert time.monotonic() - since - quick >= 0.6


async def test_one_call_serves_all_who_ask_for_the_same(shop):
    there = connected(shop)

    async def ask():
        return await there.shared("things", 60, lambda: there.call("GET", "/things"))

    await asyncio.gather(*(ask() for _ in range(50)))
    await ask()
    assert len(shop.requests) == 1

    there.forget("things")
    await ask()
    assert len(shop.requests) == 2


async def test_a_shared_answer_grows_old_and_a_failure_is_not_kept(shop):
    there = connected(shop)
    shop.faults.add(Fault(kind="status", status=500, times=5))

    async def ask():
        return await there.shared("things", 0.0, lambda: there.call("GET", "/things"))

    with pytest.raises(ConnectionLost):
        await ask()
    await ask()
    await ask()

    assert [request.status for request in shop.requests] == [500] * 5 + [200] * 2


async def test_who_is_cancelled_while_waiting_takes_no_moment_from_the_others(shop):
    there = connected(shop, slow=0.5)
    waiting = [asyncio.create_task(there.call("GET", "/slow", bucket="slow")) for _ in range(50)]
    await until(lambda: shop.seen)
    for task in waiting:
        task.cancel()
    since = time.monotonic()

    await there.call("GET", "/slow", bucket="slow")

    assert time.monotonic() - since < 20  # and not after all 50


async def test_calls_of_a_scarce_bucket_keep_their_distance_however_long_they_wait_for_another(
    shop,
):
    there = connected(shop, **{"": 0.1, "slow": 0.6})

    async def call(bucket):
        await there.call("GET", "/slow" if bucket else "/things", bucket=bucket)

    await asyncio.gather(*(call("slow") for _ in range(4)), *(call("") for _ in range(16)))

    gaps = [later - one for one, later in pairwise(shop.seen)]
    assert min(gaps) > 0.6 - 0.03


async def test_a_token_that_changes_splits_neither_pace_nor_cache(shop):
    """The account is what counts: tokens of some clouds live for an hour."""
    tokens = iter("abc")

    def with_fresh_token():
        bearer = Bearer(next(tokens))
        return Api("Shop", shop.url, {}, {"": 0.3}, account="ada", auth=bearer)

    since = time.monotonic()
    await with_fresh_token().call("POST", "/things", body={}, once=True)
    for _ in range(2):
        await with_fresh_token().read("/things", 60)

    assert time.monotonic() - since >= 0.3
    assert [request.path for request in shop.requests] == ["/v1/things"] * 2
    assert shop.tokens == ["Bearer a", "Bearer b"]


async def test_calls_share_a_connection_that_is_closed_with_its_loop(shop):
    async def calls():
        for _ in range(3):
            await connected(shop).call("GET", "/things")
        return await client_of(f"{shop.url} a")

    client = await asyncio.to_thread(asyncio.run, calls())

    assert client.is_closed
    assert len(set(shop.ports)) == 1
