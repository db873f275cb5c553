"""Try out those who are told of jobs."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from blocks.notifiers.message import Level, PersonalMessage
from blocks.notifiers.sending import send
from flows.job_file import load_job
from flows.notifying.destinations import destinations, file_of_home
from flows.scheduling.labels import user_name
from gateway.exits import Exit, say, sentence
from trainer.config.notifications import Notable
from trainer.contract.errors import ConfigError, OrchestratorError


def test_receivers(file: Path | None) -> Exit:
    """Send a message to each receiver at once, whatever its hours, and say what came of it.

    Args:
        file: a job file whose receivers are told too.

    Raises:
        ConfigError: there is nobody, or a file is not right.
    """
    own = load_job(file).notifications if file else None
    found = destinations(user_name(), own)
    if not found:
        raise ConfigError(
            "Nobody is told of your jobs.",
            f"Name somebody in {file_of_home()}, or under notifications: in a job file; "
            "docs/notifications.md has examples.",
        )
    failures = 0
    for receiver in found:
        try:
            send(receiver.to, receiver.key, _message())
        except OrchestratorError as error:
            failures += 1
            say(f"ERROR  {receiver.to}  {sentence(error)}")
        else:
            say(f"ok     {receiver.to}")
    return Exit.FAILED if failures else Exit.OK


def _message() -> PersonalMessage:
    id = str(uuid.uuid4())
    event = {
        "id": id,
        "what": Notable.STARTED,
        "at": time.time(),
        "job": {"id": "", "name": "test", "user": user_name()},
        "test": True,
    }
    return PersonalMessage(
        id=id,
        title="Training Orchestrator: a test",
        body="You are told here what becomes of your jobs.",
        level=Level.INFO,
        events=(event,),
    )
