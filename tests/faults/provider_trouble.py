"""What goes wrong at a provider, as rules that every walk over its local cloud has."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.clouds.cloud import Fault


class ProviderTrouble:
    """Rules for a state machine; `cloud` is the local cloud that it troubles."""

    cloud: Any

    @rule(count=st.integers(1, 2))
    def omit(self, count: int) -> None:
        self.cloud.omits = count

    @rule(
        kind=st.sampled_from(["commit_then_drop", "commit_then_status", "drop", "empty"]),
        method=st.sampled_from(["POST", "DELETE", "PATCH", "PUT", "GET"]),
    )
    def lose_an_answer(self, kind: Any, method: str) -> None:
        self.cloud.faults.add(Fault(kind=kind, method=method, status=503))

    @rule(ignored=st.integers(0, 1), refused=st.integers(0, 1))
    def stay(self, ignored: int, refused: int) -> None:
        self.cloud.terminate_ignored, self.cloud.terminate_refuses = ignored, refused

    @rule(capacity=st.booleans())
    def sell_out(self, capacity: bool) -> None:
        self.cloud.no_capacity = not capacity
