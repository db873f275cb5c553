"""The exit codes of `trainctl`, and how an error reads: one line, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from io import TextIOWrapper
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import typer

from blocks.home import home
from trainer.contract.errors import ConfigError, OrchestratorError
from trainer.contract.files import NO_ROOM
from trainer.contract.job_directory import JobState
from trainer.contract.redaction import redacted


class Exit(IntEnum):
    """The exit codes, as `trainctl --help` lists them."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    PAUSED = 3
    STOPPED = 4
    UNREACHABLE = 5
    # 128 + the number of the signal, as shells report it: SIGHUP, SIGINT, SIGTERM.
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_CODES = (
    "Exit codes: 0 completed, 1 failed, 2 bad input, 3 paused, 4 stopped, "
    "5 Prefect's API is unreachable; ended by a signal: 129 the terminal closed, 130 Ctrl-C, "
    "143 SIGTERM."
)


class ApiUnreachable(OrchestratorError):
    """Prefect's API does not answer, or refuses us."""

    default_suggestion = (
        "Check PREFECT_API_URL, or unset it: trainctl then starts a server of its own."
    )


def code_of_state(state: JobState) -> Exit:
    """Return the exit code for the state in which a job came to rest."""
    match state:
        case JobState.COMPLETED:
            return Exit.OK
        case JobState.PAUSED:
            return Exit.PAUSED
        case JobState.STOPPED:
            return Exit.STOPPED
        case JobState.FAILED:
            return Exit.FAILED
        # The command did what it was asked to; the job goes on by itself.
        case JobState.CREATED | JobState.INITIALIZING | JobState.RUNNING:
            return Exit.OK


def code_of_error(error: OrchestratorError) -> Exit:
    """Return the exit code for an error of ours."""
    if isinstance(error, ApiUnreachable):
        return Exit.UNREACHABLE
    return Exit.BAD_INPUT if isinstance(error, ConfigError) else Exit.FAILED


@contextmanager
def reported() -> Iterator[None]:
    """Turn an error of ours into a line on standard error and an exit code."""
    try:
        yield
    except OrchestratorError as error:
        complain(sentence(error))
        # Typer's own exception, so that the code passes through Click's handlers unchanged.
        raise typer.Exit(code_of_error(error)) from None
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        complain(_no_room(error))
        raise typer.Exit(Exit.FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None


def _no_room(error: OSError) -> str:
    """Return what a person needs to know of a disk that takes nothing more."""
    place = Path(error.filename) if error.filename else home()
    folder = next((one for one in (place, *place.parents) if one.is_dir()), Path("/"))
    free = shutil.disk_usage(folder).free
    return (
        f"{place} cannot be written: {error.strerror}; {free} bytes are free in {folder}. Free some "
        "space or inodes, or set TRAINING_ORCHESTRATOR_HOME to a folder on another disk."
    )


def sentence(error: OrchestratorError) -> str:
    """Return message and suggestion; a list of bad rows keeps its lines."""
    separator = "" if error.message.endswith("\n") else " "
    return f"{error.message}{separator}{error.suggestion}"


def complain(text: str) -> None:
    """Write an error line to standard error."""
    sys.stdout.flush()
    # Both streams may go to one terminal or file: the error must come after what was said before
    # it.
    sys.stderr.write(f"error: {text}\n")
    sys.stderr.flush()


def say(text: str = "") -> None:
    """Write a line to standard output at once, plain: no markup, no colour, no wrapping."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Write a line beside the result, to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def say_json(value: Any) -> None:
    """Write a value as JSON to standard output."""
    say(json.dumps(value, indent=1, default=str))


def make_printable() -> None:
    """Make every text writable, whatever the terminal's encoding; a closed stream swallows it."""
    # A process that is started with a closed descriptor (`>&-`) has None in its place, and print
    # would raise.
    nothing = Path(os.devnull)  # opened for as long as the process lives
    sys.stdin = sys.stdin or nothing.open()
    sys.stdout = sys.stdout or nothing.open("w")
    sys.stderr = sys.stderr or nothing.open("w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def unexpected(error: Exception) -> str:
    """Return a line about an error that is a mistake of ours; its traceback goes to a file."""
    text = redacted(" ".join(str(error).split()))[:300]
    # Kept (delete=False): the line on the screen names it, for a report.
    with NamedTemporaryFile(
        "w", prefix="trainctl-", suffix=".log", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write(redacted("".join(traceback.format_exception(error))))
    return (
        f"trainctl failed unexpectedly: {type(error).__name__}: {text}. "
        f"The traceback is in {file.name}; please report it."
    )
