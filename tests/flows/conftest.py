"""Fixtures of the flow tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest

from tests.flows.flow_runs import FlowProcess


@pytest.fixture
def flow_process() -> Iterator[Callable[..., FlowProcess]]:
    """Start flow processes; none of them outlives the test."""
    started: list[FlowProcess] = []

    def start(*run_ids: UUID) -> FlowProcess:
        started.append(FlowProcess(*run_ids))
        return started[-1]

    yield start
    for flow in started:
        if flow.process.poll() is None:
            flow.kill()
        if flow.process.stdout:
            flow.process.stdout.close()
