"""Check what a job asks of another trainer, before anything starts."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from trainer.config import CommandConfig, TrainingConfig, TrainingJob
from trainer.contract.errors import ConfigError
from trainer.data.reading import remedy_for_missing
from trainer.presets import PRESETS, check_foreign_settings

SCRIPT = re.compile(r"(\./)?[\w.-]+(/[\w.-]+)*\.(py|sh)")
"""A word that names a script by a relative path, which starts at the job directory."""


def check_foreign(job: TrainingJob) -> str:
    """Return in words which other trainer trains, or nothing where ours does.

    Raises:
        ConfigError: a file, a script or the program is not there, or another project cannot do
            what the job asks for.
    """
    config = job.training
    if config.trainer == "builtin":
        return ""
    check_foreign_settings(config)
    command = config.command or CommandConfig()
    _check_files(command)
    _check_scripts(command)
    # Only there do we see the programs; `setup` may install one that is missing now.
    if job.providers == ["local"] and not job.setup:
        _check_program(config, command)
    return f"trained by {config.trainer}"


def _check_files(command: CommandConfig) -> None:
    seen: dict[str, str] = {}
    for file in command.files:
        path = Path(file).expanduser()
        if not path.exists():
            raise ConfigError(
                f"training.command.files = {file!r}: there is no such file or folder.",
                remedy_for_missing(path),
            )
        # All land side by side in the job directory.
        if other := seen.get(path.name):
            raise ConfigError(
                f"training.command.files: {other} and {file} have the same name.", "Rename one."
            )
        seen[path.name] = file


def _check_scripts(command: CommandConfig) -> None:
    there = {Path(file).name: Path(file).expanduser() for file in command.files}
    for word in _words(command):
        if not SCRIPT.fullmatch(word):
            continue
        first, *rest = Path(word).parts
        if first not in there or not there[first].joinpath(*rest).exists():
            raise ConfigError(
                f"training.command.run names {word!r}, which will not be in the job directory.",
                "Add the file, or the folder that it is in, to training.command.files.",
            )


def _check_program(config: TrainingConfig, command: CommandConfig) -> None:
    words = _words(command)
    if not words and config.trainer in PRESETS:
        words = [PRESETS[config.trainer].program]
    if not words or SCRIPT.fullmatch(words[0]) or "{" in words[0]:
        return
    # The PATH that the command will have; see trainer.command.program.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if shutil.which(words[0], path=path):
        return
    if isinstance(command.run, str) and _knows(words[0]):
        return
    raise ConfigError(
        f"training.command.run: there is no program {words[0]!r} on this computer.",
        "Install it, or give its whole path.",
    )


def _knows(word: str) -> bool:
    """Whether the shell knows a word: its own commands, assignments and brackets are no programs."""
    # Anything else is syntax to a shell; better let a wrong word pass than refuse a right one.
    if not re.fullmatch(r"[\w.+-]+", word):
        return True
    done = subprocess.run(  # noqa: S603 - it looks the word up, and runs nothing
        ["/bin/sh", "-c", 'command -v -- "$1"', "sh", word], capture_output=True, check=False
    )
    return done.returncode == 0


def _words(command: CommandConfig) -> list[str]:
    if isinstance(command.run, list):
        return list(command.run)
    try:
        return shlex.split(command.run)
    except ValueError as error:
        raise ConfigError(f"training.command.run: {error}.", "Close the quotation.") from None
