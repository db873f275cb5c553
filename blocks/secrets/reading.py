"""Read a secret, wherever it is kept.

    NAME=value                          the variable itself
    NAME_FILE=/run/secrets/name         a file, as Kubernetes and Docker mount them
    secret://file/run/secrets/name      a file, by its absolute path
    secret://prefect/block              a Secret block of Prefect
    secret://aws/name                   AWS Secrets Manager: a name or an ARN
    secret://gcp/name                   Google Secret Manager: a name, or projects/P/secrets/NAME
    secret://azure/vault/name           Azure Key Vault

An address may stand wherever a secret may: in a variable, in a field of a block. `#field` behind it
takes one field of a secret that is a JSON object.
"""

from __future__ import annotations

import json
import os
import time
from importlib import import_module
from pathlib import Path

from blocks.secrets.files import content_of
from trainer.contract.errors import ConfigError, OrchestratorError
from trainer.contract.redaction import remember

SCHEME = "secret://"
FILE_SUFFIX = "_FILE"
FRESH_SECONDS = 300.0  # then `refresh` asks again: a secret may have been replaced
FAILED_SECONDS = 10.0  # for which a failure counts: it is not asked for by every caller anew
KEEPERS = {
    "aws": "blocks.secrets.aws",
    "azure": "blocks.secrets.azure",
    "gcp": "blocks.secrets.google",
    "prefect": "blocks.secrets.prefect_block",
}
"""Who keeps secrets, besides files: the module whose `fetch` asks."""

_read: dict[str, tuple[float, str | OrchestratorError]] = {}
"""When an address was asked for (monotonic seconds), and what came of it."""


def is_set(name: str, given: str = "") -> bool:
    """Whether there is a secret, without reading it.

    Args:
        name: its variable.
        given: what stands in its place; empty: the variable counts.
    """
    return bool(given.strip() or _text(name) or _file_of(name))


def is_address(text: str) -> bool:
    """Whether a text says where a secret is, and is not the secret itself."""
    return text.strip().startswith(SCHEME)


def is_elsewhere(name: str, given: str = "") -> bool:
    """Whether reading a secret takes longer than a look at the environment or a file."""
    text = given.strip() or _text(name)
    return is_address(text) and not text.startswith(f"{SCHEME}file/")


def may_change(name: str) -> bool:
    """Whether a secret is kept where another one may take its place while this process lives."""
    text = _text(name)
    return is_address(text) if text else bool(_file_of(name))


def renewed(name: str, given: str = "") -> str:
    """Return a secret as it is now, or was some minutes ago; call it in a thread. See `secret`."""
    refresh(name, given)
    return secret(name, given)


def secret(name: str, given: str = "") -> str:
    """Return a secret; empty where there is none. It may block: see `refresh`.

    Args:
        name: its variable, by which errors call it.
        given: its value or address from elsewhere, such as a block; it outweighs the variable.

    Raises:
        ConfigError: its address is none, or its file is not there, or may be read by others.
        CredentialsError: its keeper refuses us.
        OrchestratorError: its keeper does not answer.
    """
    text = given.strip() or _text(name)
    if is_address(text):
        return remember(_at(text, name))
    if not text and (path := _file_of(name)):
        return remember(content_of(Path(path), f"{name}{FILE_SUFFIX}"))
    return remember(text)


def refresh(name: str, given: str = "") -> None:
    """Ask a keeper of secrets anew, once what is known is some minutes old; call it in a thread.

    `secret` then has it at hand, or raises at once what went wrong.
    """
    if not is_elsewhere(name, given):
        return
    text = given.strip() or _text(name)
    moment, found = _read.get(text, (0.0, ""))
    fresh = FAILED_SECONDS if isinstance(found, OrchestratorError) else FRESH_SECONDS
    if text in _read and time.monotonic() - moment < fresh:
        return
    try:
        now: str | OrchestratorError = _asked(text, name)
    except OrchestratorError as error:
        # One that was read before stays good while its keeper is away.
        now = found if isinstance(found, str) and found else error
    _read[text] = time.monotonic(), now


def _at(text: str, name: str) -> str:
    """Return what lies at an address."""
    if text.startswith(f"{SCHEME}file/"):  # read anew each time: it costs nothing
        return _asked(text, name)
    moment, found = _read.get(text, (0.0, ""))
    failed = isinstance(found, OrchestratorError)
    if text not in _read or (failed and time.monotonic() - moment > FAILED_SECONDS):
        refresh(name, text)
        _, found = _read[text]
    if isinstance(found, OrchestratorError):
        raise type(found)(found.message, found.suggestion)
    return found


def _asked(text: str, name: str) -> str:
    """Return what lies at an address, asked for anew."""
    whole, _, field = text.removeprefix(SCHEME).partition("#")
    keeper, _, place = whole.partition("/")
    if keeper == "file":
        path = Path(place).expanduser() if place.startswith("~") else Path(f"/{place.lstrip('/')}")
        found = content_of(path, name)
    elif keeper in KEEPERS and place:
        found = import_module(KEEPERS[keeper]).fetch(place, name)
    else:
        # Not quoted as a whole: somebody may have pasted the secret itself.
        raise ConfigError(
            f"{name} = secret://{keeper if keeper in {'file', *KEEPERS} else '…'}: "
            f"says not where the secret is.",
            "Write secret://aws/NAME, secret://gcp/NAME, secret://azure/VAULT/NAME, "
            "secret://prefect/BLOCK or secret://file/PATH.",
        )
    value = _field(found, field, text, name) if field else found
    if not value.strip():
        raise ConfigError(f"{name}: the secret at {text} is empty.", "Store it there.")
    return value.strip()


def _field(found: str, field: str, text: str, name: str) -> str:
    try:
        record = json.loads(found)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get(field), str):
        where = text.partition("#")[0]
        raise ConfigError(
            f"{name}: the secret at {where} is no JSON object with a text {field!r}.",
            "Name one of its fields behind #, or leave # out to take the whole.",
        )
    return str(record[field])


def _text(name: str) -> str:
    # What is pasted often brings a line break with it.
    return os.environ.get(name, "").strip() if name else ""


def _file_of(name: str) -> str:
    return _text(f"{name}{FILE_SUFFIX}") if name else ""
