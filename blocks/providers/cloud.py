"""What providers with an account, a key and a REST API have in common."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, SecretStr

from blocks.marks import ours
from blocks.models import Instance, InstanceStatus
from blocks.providers.api import Api
from blocks.providers.base import Provider
from blocks.secrets.reading import is_set, secret
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    CredentialsError,
    OrchestratorError,
    ProviderError,
)

ALLOW_MORE = "Allow more in resources or limits, choose another provider, or wait."
"""What to do when nothing for hire fits."""
PRINTABLE = re.compile(r"[!-~]+")  # what an HTTP header may carry


class CloudProvider(Provider):
    """A provider that is set up by the key of an account."""

    title: ClassVar[str]
    """Its name in messages."""
    url: ClassVar[str]
    """The base URL of its API."""
    url_variable: ClassVar[str]
    """The environment variable that names another one."""
    set_key: ClassVar[str]
    """How to set the key, as the remedy of an error."""
    api_class: ClassVar[type[Api]] = Api
    intervals: ClassVar[Mapping[str, float]] = {}
    """Seconds between two calls of one kind; "" is every call of the account."""

    api_key: SecretStr | None = Field(
        default=None, description="Key of the account. Empty: by the environment."
    )
    api_url: str | None = Field(
        default=None, description="Base URL. Empty: by the environment, or the provider's own."
    )

    def is_configured(self) -> bool:
        """Whether there is an API key."""
        return is_set(self.set_up_by, self._given())

    def secrets(self) -> Mapping[str, str]:
        """Return the API key's variable."""
        return {self.set_up_by: self._given()}

    def _given(self) -> str:
        return self.api_key.get_secret_value() if self.api_key else ""

    def _key(self) -> str:
        """Return the API key.

        Raises:
            OrchestratorError: it cannot be read where it is kept.
        """
        return secret(self.set_up_by, self._given())

    def _api(self) -> Api:
        """Return the account's API.

        Raises:
            CredentialsError: there is no key, or one that no HTTP header can carry.
            OrchestratorError: it cannot be read where it is kept.
        """
        key = self._key()
        # httpx would raise an error of its own for such a header, and could quote the key in it.
        if not PRINTABLE.fullmatch(key):
            raise CredentialsError(
                f"{self.title} needs an API key, {'none is set' if not key else 'not this one'}.",
                self.set_key,
            )
        url = self.api_url or os.environ.get(self.url_variable) or self.url
        return self.api_class(
            self.title,
            url,
            {"Authorization": f"Bearer {key}"},
            self.intervals,
            # A digest, so that no key becomes the key of a dictionary that a traceback could show.
            account=hashlib.sha256(key.encode()).hexdigest(),
        )


def switched_on(variable: str) -> bool:
    """Whether an environment variable says yes to a provider that credentials alone do not set up."""
    return os.environ.get(variable, "").strip().lower() in {"1", "true", "yes", "on"}


def port_of(variable: str, given: int | None, usual: int = 22) -> int:
    """Return the port of sshd, by a block's field, a variable, or as is usual.

    Raises:
        ConfigError: it is no port.
    """
    text = str(given or os.environ.get(variable, "").strip() or usual)
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65_536):
        raise ConfigError(
            f"{variable} = {text!r} is not a port.",
            f"Set it, or ssh_port of the block, to a number from 1 to 65535, such as {usual}.",
        )
    return int(text)


def elsewhere(
    title: str, wanted: Sequence[str], here: Iterable[str], variable: str
) -> CapacityError:
    """Return the error that a job allows none of the places that an account is set up for.

    Args:
        title: the provider's name.
        wanted: `resources.regions`.
        here: the places of the account; empty: any that the provider has.
        variable: that sets them.
    """
    return CapacityError(
        f"resources.regions = {[*wanted]}: {title} is set up for {', '.join(here) or 'others'}.",
        f"Add one of them to {variable}, or allow another region.",
    )


def one_line(path: Path) -> str:
    """Return a script of sh as one line, without the comments that are lines of their own."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return " ".join(line for line in lines if line and not line.startswith("#"))


@contextmanager
def as_described(
    title: str, call: str, kind: type[OrchestratorError] = ProviderError
) -> Iterator[None]:
    """Turn what goes wrong with an answer's shape, in the body, into an error of ours.

    Args:
        title: the provider's name in messages.
        call: what was answered, such as GET /instances.
        kind: `Unanswered` where it may have been an order: something may have come of it.

    Raises:
        OrchestratorError: of that kind; the answer is not as the provider describes it.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise kind(
            f"{title}'s answer to {call} is not as it is described: {type(error).__name__}: {error}."
        ) from error


def rows_in(title: str, call: str, data: Any) -> list[dict[str, Any]]:
    """Return a list of objects, of which none may be missing: it could be a machine.

    Raises:
        ProviderError: it is anything else.
    """
    if isinstance(data, list) and all(isinstance(row, dict) for row in data):
        return data
    raise ProviderError(f"{title}'s answer to {call} is no list of objects.")


def not_as_described(provider: str, title: str, *, id: str, mark: str) -> Instance:
    """Return what to make of a row of instances that cannot be read: its status is unknown.

    It is not passed over, because it may cost money all the same, and would never end.

    Args:
        provider: whose answer it is, as in a job file.
        title: the same in messages.
        id: the instance's.
        mark: what is written where a mark of ours would be.
    """
    return Instance(
        provider=provider,
        id=id,
        mark=ours(mark),
        status=InstanceStatus.UNKNOWN,
        detail=f"the answer is not as {title} describes it",
    )
