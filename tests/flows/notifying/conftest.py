"""A webhook that this installation tells, and a run."""

from __future__ import annotations

from uuid import uuid4

import pytest
from ruamel.yaml import YAML

from flows.notifying import grouping
from flows.notifying.destinations import file_of_home
from flows.run_folder import RunFolder
from tests.receivers import web_receiver

KEY = "a-key-that-signs-messages"


@pytest.fixture
def hook(home, monkeypatch):
    """A webhook; this installation tells it of everything at once."""
    monkeypatch.setenv("HOOK_KEY", KEY)
    monkeypatch.setattr(grouping, "GATHER_SECONDS", 0.0)
    with web_receiver() as found:
        tells(to=[{"to": found.url, "key": "HOOK_KEY"}], group_seconds=0)
        yield found


def tells(**settings) -> None:
    """Write whom this installation tells."""
    YAML().dump(settings, file_of_home())


def told(hook) -> list[str]:
    """Return what came, event by event."""
    return [event["what"] for one in hook.requests for event in one.json["events"]]


@pytest.fixture
def run(home) -> RunFolder:
    return RunFolder(uuid4())
