"""Amazon's services by botocore: one client for each, called off the event loop.

Settings and credentials are those of Amazon's own tools: environment, profile, SSO, role. So are the
addresses (AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_EC2 …).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from blocks.providers.api import Unanswered
from blocks.secrets.reading import may_change, renewed, secret
from blocks.threads import aside
from trainer.contract.errors import (
    ConfigError,
    ConnectionLost,
    CredentialsError,
    DependencyError,
    OrchestratorError,
    ProviderError,
    RateLimited,
)

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0  # of silence
SECRET_KEY = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - its name
KEYS = ("AWS_ACCESS_KEY_ID", SECRET_KEY, "AWS_SESSION_TOKEN")
TRIES = 4  # of what may be repeated
SET_KEYS = "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run: aws sso login."
OPT_IN = "Enable the region or service for the account, or take the region out of the settings."
CREDENTIALS = {
    *("AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId"),
    *("ExpiredToken", "ExpiredTokenException", "RequestExpired", "SignatureDoesNotMatch"),
    *("InvalidSignatureException", "MissingAuthenticationToken", "IncompleteSignature"),
    *("PendingVerification", "Blocked"),
}
FORBIDDEN = {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}
SLOWER = {
    *("RequestLimitExceeded", "Throttling", "ThrottlingException", "ThrottledException"),
    *("TooManyRequestsException", "SlowDown", "RequestThrottled"),
}
INTERNAL = {
    *("InternalError", "InternalFailure", "InternalServerError", "ServerInternal"),
    *("ServiceUnavailable", "ServiceUnavailableException", "Unavailable"),
}
_making = threading.Lock()  # sessions are not made to be used by several threads


class GivenUp(Exception):
    """Nobody waits for what is about to be sent."""


class _Sending(threading.local):
    given_up: threading.Event | None = None


_sending = _Sending()
"""What is known to a thread of the request that it is about to send."""


class Refusal(ProviderError):
    """Amazon's own word for why it does not do something; a provider turns it into an error of ours."""

    code: str = ""
    """Such as InsufficientInstanceCapacity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amazon:
    """An account in one region."""

    provider: str
    """Who asks, as in a job file; for messages."""
    region: str = ""
    """Empty: by AWS_REGION or the profile."""
    profile: str = ""
    """Of ~/.aws/config. Empty: by AWS_PROFILE, or the default."""

    async def call(
        self,
        service: str,
        operation: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        once: bool = False,
    ) -> dict[str, Any]:
        """Call one operation and return what it answers.

        Args:
            service: such as ec2.
            operation: as botocore has it, such as run_instances.
            arguments: by Amazon's names.
            once: never repeat it, because that could order twice.

        Raises:
            Refusal: it is not done; `code` says why.
            Unanswered: with `once`; it was sent, and its fate is unknown.
            ConnectionLost: the service cannot be reached, or fails.
            RateLimited: it asks to wait.
            CredentialsError: there are no credentials, or they do not suffice.
            DependencyError: botocore is not installed.
        """
        call = partial(self._call, service, operation, arguments or {}, once=once)
        # Only what may not be repeated matters to those who gave it up.
        return await aside(lambda given_up: call(given_up=given_up if once else None))

    def known_region(self) -> str:
        """Return the region that is asked in; empty if none is set.

        Raises:
            CredentialsError: there is no such profile.
            DependencyError: botocore is not installed.
        """
        with _making:
            session = _session(self.provider, self.profile)
        from botocore.exceptions import BotoCoreError

        try:
            return _region(self, session)
        except BotoCoreError as error:
            raise _failed("its settings", error, once=False) from error

    def _call(
        self,
        service: str,
        operation: str,
        arguments: Mapping[str, Any],
        *,
        once: bool,
        given_up: threading.Event | None = None,
    ) -> dict[str, Any]:
        client = self._client(service, once=once)
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
        from botocore.parsers import ResponseParserError

        _sending.given_up = given_up
        name = f"{service}:{client.meta.method_to_api_mapping[operation]}"
        try:
            answer: dict[str, Any] = getattr(client, operation)(**arguments)
        except ClientError as error:
            raise _refused(name, error.response, once=once) from error
        except ParamValidationError as error:
            raise ConfigError(f"{name} cannot be asked: {error}.") from error
        except (BotoCoreError, ResponseParserError) as error:
            raise _failed(name, error, once=once) from error
        return answer

    def _client(self, service: str, *, once: bool) -> Any:
        with _making:
            try:
                return _made(self, service, once=once)
            except ImportError as error:
                raise _missing(self.provider) from error
            except ValueError as error:  # a name of a region that cannot be one
                raise ConfigError(f"provider {self.provider}: {error}.") from error


def _missing(provider: str) -> DependencyError:
    return DependencyError(
        f"provider {provider} needs boto3.", "pip install 'training-orchestrator[aws]'"
    )


@cache
def _session(provider: str, profile: str) -> Any:
    try:
        from botocore.session import Session
    except ImportError as error:
        raise _missing(provider) from error
    session = Session(profile=profile or None)
    # The descriptions of services take a quarter of a second to read, and never change.
    session.register_component("data_loader", _loader())
    # Where the library would not look, or take its address for it.
    if not profile and may_change(SECRET_KEY):
        session.register_component("credential_provider", _KeptElsewhere())
    return session


class _KeptElsewhere:
    """Keys that the library would not find; it asks for credentials once, and freezes them per request."""

    def load_credentials(self) -> Any:
        from botocore.credentials import Credentials, ReadOnlyCredentials

        class Renewed(Credentials):  # type: ignore[misc] # botocore has no types
            def get_frozen_credentials(self) -> Any:
                key_id, key, token = map(renewed, KEYS)
                return ReadOnlyCredentials(key_id, key, token or None)

        key_id, key, token = map(secret, KEYS)
        return Renewed(key_id, key, token or None)


@cache
def _loader() -> Any:
    from botocore.loaders import create_loader

    return create_loader()


def _region(account: Amazon, session: Any) -> str:
    # The library itself knows AWS_DEFAULT_REGION only.
    named = account.region or os.environ.get("AWS_REGION", "").strip()
    return named or str(session.get_config_variable("region") or "")


@cache
def _made(account: Amazon, service: str, *, once: bool) -> Any:
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    # One try for an order: the library would repeat what lacks capacity too, and use up the pace.
    config = Config(
        retries={"total_max_attempts": 1 if once else TRIES, "mode": "standard"},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
    )
    try:
        session = _session(account.provider, account.profile)
        region = _region(account, session) or None
        client = session.create_client(service, region_name=region, config=config)
    except BotoCoreError as error:
        raise _failed(service, error, once=once) from error
    client.meta.events.register("before-send", _refuse_given_up)
    return client


def _refuse_given_up(**_: Any) -> None:
    """Send nothing that was given up while a key or a connection was waited for.

    Whoever gave it up has looked by then whether anything came of it.
    """
    if _sending.given_up and _sending.given_up.is_set():
        raise GivenUp


def forget() -> None:
    """Make every client anew, with the settings of the environment as they are now."""
    with _making:
        _made.cache_clear()
        _session.cache_clear()


def _refused(name: str, response: Mapping[str, Any], *, once: bool) -> OrchestratorError:
    """Return what an answer means that reports a failure; its code comes before its HTTP status."""
    error = response.get("Error") or {}
    code = str(error.get("Code") or "")
    message = f"Amazon says to {name}: {str(error.get('Message') or code).rstrip('.')} ({code})."
    status = int((response.get("ResponseMetadata") or {}).get("HTTPStatusCode") or 0)
    if code == "OptInRequired":
        return CredentialsError(message, OPT_IN)
    if code in CREDENTIALS or status == 401:
        return CredentialsError(message, SET_KEYS)
    if code in FORBIDDEN or (status == 403 and not code.strip("0123456789")):
        # What is missing may be another one than that of the call, such as iam:PassRole.
        named = re.search(r"to perform:? ([\w-]+:\w+)", message)
        missing = named[1] if named else name
        return CredentialsError(
            # What follows is encoded, long, and says nothing to a person.
            message.partition(" Encoded authorization failure message")[0],
            f"Allow {missing} in the policy of the user or role.",
        )
    if code in SLOWER or status == 429:
        return RateLimited(message)
    # A lack of capacity is a 500 too, and has a code of its own.
    if code in INTERNAL or not code.strip("0123456789"):
        if once and status >= 500:
            return Unanswered(message)
        return ConnectionLost(message)
    refusal = Refusal(message)
    refusal.code = code
    return refusal


def _failed(name: str, error: Exception, *, once: bool) -> OrchestratorError:
    """Return what it means that there is no answer."""
    from botocore import exceptions

    kinds = (
        *(exceptions.NoCredentialsError, exceptions.PartialCredentialsError),
        *(exceptions.CredentialRetrievalError, exceptions.ProfileNotFound),
        *(exceptions.SSOError, exceptions.TokenRetrievalError, exceptions.ConfigParseError),
    )
    why = str(error).rstrip(".")
    if isinstance(error, kinds):
        return CredentialsError(f"Amazon cannot be asked ({name}): {why}.", SET_KEYS)
    if isinstance(error, exceptions.NoRegionError):
        return ConfigError(f"Amazon cannot be asked ({name}): no region is set.", "Set AWS_REGION.")
    never_sent = isinstance(
        error, (exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError)
    )
    if once and not never_sent:
        return Unanswered(f"Amazon gave no usable answer to {name}: {why}.")
    return ConnectionLost(f"Amazon cannot be used ({name}): {why}.")
