"""How often a caller may come."""

from __future__ import annotations

from gateway.access import limits
from gateway.access.limits import Buckets


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_is_emptied_and_fills_again():
    clock = Clock()
    buckets = Buckets(2, 3, clock)

    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    clock.now = 0.5
    assert [buckets.take("a"), buckets.take("a")] == [0, 0.5]
    clock.now = 100
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_only_so_many_callers_are_remembered(monkeypatch):
    monkeypatch.setattr(limits, "MOST_CALLERS", 2)
    buckets = Buckets(1e-9, 1, Clock())
    for caller in ("a", "b", "c"):
        assert buckets.take(caller) == 0

    assert buckets.wait("a") == 0
    assert buckets.wait("c") > 0
