"""The login node of a cluster, where Slurm's commands are run: over SSH, or this computer."""

from __future__ import annotations

import os
from pathlib import Path

from blocks.machines.base import CommandResult, Machine
from blocks.machines.local import LocalMachine
from blocks.providers.api import Unanswered
from blocks.providers.ssh.asking import PATIENCE_SECONDS, connection
from blocks.providers.ssh.hosts import Host, parse_host, usable_key
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    ConnectionLost,
    CredentialsError,
    DependencyError,
    OrchestratorError,
    ProviderError,
    QuotaError,
    Scope,
)

LOGIN_VARIABLE = "SLURM_LOGIN_NODE"
FOLDER_VARIABLE = "SLURM_FOLDER"
HERE = "local"
ASK_SECONDS = 60.0  # for one of Slurm's commands; a busy controller takes its time
MISSING_COMMAND = 127
_STEERING = ("SLURM_", "SBATCH_", "SQUEUE_", "SINFO_", "SCANCEL_", "SCONTROL_", "SRUN_")
_CONFIGURED = {"SLURM_CONF"}
"""Of the variables that steer Slurm's commands, the one that says which cluster this computer belongs to."""
_BEGIN = "@answer\n"  # of what a command prints: before it may stand what a login shell does

_AWAY = (
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "zero bytes were transmitted",
    "slurm backup controller",
    "slurm_persist_conn",
    "resource temporarily unavailable",
    "unexpected message received",
    "communication connection failure",
)
"""What Slurm's commands say when the controller does not answer; whether it acted is not known."""
_REFUSALS: tuple[tuple[str, type[ProviderError], Scope], ...] = (
    ("invalid account", QuotaError, Scope.ACCOUNT),
    ("invalid qos", QuotaError, Scope.ACCOUNT),
    ("violates accounting", QuotaError, Scope.REGION),
    ("access/permission denied", CredentialsError, Scope.ACCOUNT),
    ("not permitted", QuotaError, Scope.REGION),
    ("invalid partition", CapacityError, Scope.REGION),
    ("required partition not available", CapacityError, Scope.REGION),
    ("requested time limit", CapacityError, Scope.REGION),
    ("node configuration is not available", CapacityError, Scope.OFFER),
    ("invalid generic resource", CapacityError, Scope.OFFER),
    ("invalid feature", CapacityError, Scope.ACCOUNT),
    ("node count specification", CapacityError, Scope.OFFER),
    ("memory specification", CapacityError, Scope.OFFER),
)
"""What it says when it refuses a job, and what that rules out."""


def login_host(text: str) -> Host | None:
    """Return where to log in; None: this computer.

    Raises:
        ConfigError: it is not a host.
    """
    return None if text == HERE else parse_host(text)


def opened(host: Host | None, private_key: Path | None, *, compress: bool = False) -> Machine:
    """Return a connection to a login node, opened when it is first used."""
    if host is None:
        return LocalMachine()
    return connection(host, usable_key(private_key), patience=PATIENCE_SECONDS, compress=compress)


async def asked(login: Machine, *words: str, text: str = "", folder: str = "") -> str:
    """Run one of Slurm's commands and return what it prints.

    Args:
        login: where.
        words: the command and its arguments.
        text: its standard input.
        folder: where the commands are, if not on the PATH.

    Raises:
        Unanswered: the controller or the login node does not answer; it may have acted all the same.
        DependencyError: there is no such command.
        ProviderError: it refuses; the error says what that rules out.
    """
    result = await _run(login, words, text, folder)
    if result.exit_code == 0:
        return result.stdout.partition(_BEGIN)[2]
    said = " ".join(result.stderr.split()) or f"exit code {result.exit_code}"
    if result.exit_code == MISSING_COMMAND:
        raise DependencyError(
            f"{words[0]} is not found on the login node: {said[-200:]}.",
            f"Set commands of the block to its folder, or {LOGIN_VARIABLE} to another node.",
        )
    raise refusal(words[0], said)


async def _run(login: Machine, words: tuple[str, ...], text: str, folder: str) -> CommandResult:
    # The text as an argument of the shell: it is no secret, as every user may read a job's script.
    line = 'PATH="${1:+$1:}$PATH"; text=$2; shift 2; echo @answer; printf "%s" "$text" | exec "$@"'
    # In English, since what is refused is told by its words.
    env = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
    command = ["sh", "-c", line, "sh", folder, text, *words]
    if isinstance(login, LocalMachine):
        # Of the caller, such as SLURM_CLUSTERS, SBATCH_RESERVATION or SQUEUE_STATES: what holds is in the
        # block, and what is meant for a person's own commands would lead ours elsewhere.
        theirs = [n for n in os.environ if n.startswith(_STEERING) and n not in _CONFIGURED]
        command = ["env", *(word for name in theirs for word in ("-u", name)), *command]
    try:
        return await login.run(command, env=env, timeout=ASK_SECONDS)
    except TimeoutError:
        raise Unanswered(f"{words[0]} does not answer within {ASK_SECONDS:g} s.") from None
    except ConnectionLost as error:
        raise Unanswered(error.message, error.suggestion) from error


def refusal(command: str, said: str) -> OrchestratorError:
    """Return the error for what a command of Slurm's printed when it failed."""
    words = said.casefold()
    if "munge" in words or "authentication" in words:
        # Not refused: a training goes on while somebody starts it again.
        return Unanswered(
            f"Slurm cannot tell who asks, since munge does not work: {said[-300:]}.",
            "Start munge on the login node (systemctl start munge); its key and its clock must be those "
            "of the controller. 'munge -n | unmunge' tries it.",
        )
    if any(text in words for text in _AWAY):
        return Unanswered(f"Slurm's controller does not answer: {said[-300:]}.")
    for text, kind, scope in _REFUSALS:
        if text in words:
            return kind(f"Slurm refuses the job: {said[-300:]}.").ruling_out(scope)
    return ProviderError(f"{command} failed: {said[-300:]}.")


def login_of(given: str) -> str:
    """Return the login node as it is written, of the block or the environment; empty: not set."""
    return (given or os.environ.get(LOGIN_VARIABLE, "")).strip()


def folder_of(given: str) -> str:
    """Return the folder for job directories, absolute; empty: the home of the user.

    Raises:
        ConfigError: it is not absolute.
    """
    folder = (given or os.environ.get(FOLDER_VARIABLE, "")).strip().rstrip("/")
    if folder and not folder.startswith("/"):
        raise ConfigError(
            f"{FOLDER_VARIABLE} = {folder!r} is not absolute.",
            "Name a folder that login node and compute nodes share, such as /scratch/alice.",
        )
    return folder
