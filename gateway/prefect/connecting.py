"""Prefect's API over HTTP: find it, ask it, and say in words why it does not work.

It uses the standard library alone: a client library costs more CPU time than a command's work.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from blocks.retry_after import retry_after
from gateway.exits import ApiUnreachable, note
from gateway.prefect.settings import CLOUD, PrefectSettings
from trainer.contract.errors import ConfigError, OrchestratorError

PROBE_SECONDS = 5.0
BUSY = {408, 429, 502, 503}  # Prefect's own client repeats these too: prefect/client/base.py
TRIES = 4
LONGEST_WAIT = 30.0  # seconds between two tries, whatever the API asks for


def api_url(settings: PrefectSettings) -> str:
    """Return the URL of the API that is configured, or of our own server, started if need be.

    Prefect would otherwise start a temporary server in every process, and lose sight of the
    runs of the others.

    Raises:
        ConfigError: what is configured is not the address of an API.
        ApiUnreachable: our own server does not come up.
    """
    url = settings.url
    if url is None:
        return _own_server()
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"PREFECT_API_URL = {url!r}: begins with neither http:// nor https://.",
            "Write the whole address of the API, such as http://127.0.0.1:4200/api.",
        )
    return url


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: a status, and the value or the text of the body."""

    status: int
    value: Any
    text: str
    wait: float | None = None
    """Seconds after which the API wants to be asked again."""


class PrefectApi:
    """One API; its methods block."""

    def __init__(self, url: str, settings: PrefectSettings) -> None:
        self.url = url
        self.settings = settings
        self._headers = settings.headers | {"Accept": "application/json"}
        # To read the certificates of the world takes as long as an answer.
        is_safe = url.startswith("https:")
        handlers = [urllib.request.HTTPSHandler(context=_trust(settings))] if is_safe else []
        self._open = urllib.request.build_opener(*handlers).open

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the value of the answer.

        Raises:
            ApiUnreachable: the API does not answer, or refuses us.
            ConfigError: the API does not take what was sent, or has nothing there.
        """
        return self._value_of(self._patiently(method, path, body))

    def ask_anything(self, method: str, path: str, body: Any = None) -> Any:
        """Return the value of the answer, which may be empty: None.

        Raises:
            ApiUnreachable: the API does not answer, or refuses us.
            ConfigError: the API does not take what was sent, or has nothing there.
        """
        answer = self._patiently(method, path, body)
        return None if answer.status == 204 else self._value_of(answer)

    def find(self, path: str, body: Any = None) -> Any:
        """Return the value of the answer to a GET, with a body to a POST; None: no such object.

        Raises:
            ApiUnreachable: the API does not answer, or refuses us.
            ConfigError: the API does not take what was sent.
        """
        answer = self._patiently("GET" if body is None else "POST", path, body)
        if answer.status == 404 and _missing(answer.text):
            return None
        return self._value_of(answer)

    def _patiently(self, method: str, path: str, body: Any) -> Reply:
        """Ask until the answer is more than that the API is busy, within reason."""
        # POST is repeated too: requests that create something carry an idempotency key.
        for attempt in range(1, TRIES + 1):
            answer = self._once(method, path, body, self.settings.timeout)
            # PREFECT_SERVER_CSRF_PROTECTION_ENABLED; the token is got only when a server asks for
            # it.
            if answer.status == 403 and "CSRF token" in answer.text:
                self._get_csrf_token()
            elif answer.status in BUSY and attempt < TRIES:
                time.sleep(min(answer.wait or 2.0**attempt, LONGEST_WAIT))
            else:
                break
        return answer

    def must_answer(self) -> None:
        """Ask whether the API is there; Prefect's own client would go on trying for minutes.

        Raises:
            ApiUnreachable: it does not answer, or what answers is not Prefect's API.
        """
        self._value_of(self._once("GET", "health", None, PROBE_SECONDS))

    def _once(self, method: str, path: str, body: Any, timeout: float) -> Reply:
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers | ({} if data is None else {"Content-Type": "application/json"})
        try:
            request = urllib.request.Request(  # noqa: S310 - http(s), as the user configured it
                f"{self.url}/{path}", data, headers, method=method
            )
            with self._open(request, timeout=timeout) as answer:
                return _read(answer.status, answer)
        except urllib.error.HTTPError as error:
            with error:
                return _read(error.code, error)
        # ValueError: a URL that urllib cannot parse. HTTPException: an answer that is not HTTP.
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise silent(self.url, error) from None

    def _value_of(self, answer: Reply) -> Any:
        if answer.status >= 400:
            raise refused(self.url, self.settings, answer.status, answer.text)
        if answer.value is None:
            raise no_api(self.url)
        return answer.value

    def _get_csrf_token(self) -> None:
        """Get the token that a server with protection against forged requests wants to see."""
        client = str(uuid4())
        path = f"csrf-token?client={client}"
        token = self._value_of(self._once("GET", path, None, self.settings.timeout))["token"]
        self._headers |= {"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": token}


def _read(status: int, answer: Any) -> Reply:
    text = answer.read().decode(errors="replace")
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return Reply(status, value, text, retry_after(answer.headers.get("Retry-After")))


def _trust(settings: PrefectSettings) -> ssl.SSLContext:
    """Return which servers to trust; like Prefect, those on certifi's list.

    Raises:
        ConfigError: the file of certificates that is configured cannot be used.
    """
    trusted = settings.certificates
    if trusted is False:
        context = ssl.create_default_context()
        # In this order: Python refuses CERT_NONE while host names are checked.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    import certifi  # seldom needed

    try:
        return ssl.create_default_context(
            cafile=trusted if isinstance(trusted, str) else certifi.where()
        )
    except OSError as error:
        raise ConfigError(
            f"PREFECT_API_SSL_CERT_FILE = {trusted!r}: {error.strerror or error}.",
            "Name a file of certificates in PEM.",
        ) from None


def silent(url: str, error: Exception) -> ApiUnreachable:
    """Return the error of an API that does not answer."""
    # urllib wraps the cause in a URLError; the text of the wrapper says "<urlopen error …>".
    cause = getattr(error, "reason", None) or error
    reason = str(getattr(cause, "strerror", None) or cause).strip().rstrip(".")
    reason = reason or type(cause).__name__
    return ApiUnreachable(
        f"Prefect's API at {url} does not answer: {reason}.", _remedy(url, str(cause))
    )


def refused(url: str, settings: PrefectSettings, status: int, text: str) -> OrchestratorError:
    """Return the error of an API that answers with an error of HTTP."""
    if status in {401, 403}:
        remedy = _how_to_be_let_in(url, settings, status)
        return ApiUnreachable(f"Prefect's API at {url} refuses us (HTTP {status}).", remedy)
    if status == 404 and (what := _missing(text)):
        return ConfigError(
            f"Prefect's API at {url} answers: {what.rstrip('.')}.",
            "Perhaps it was deleted in the meantime: try again.",
        )
    if status in {404, 405}:
        return no_api(url)
    # On one line: it may be a page of HTML, or a validation error of many lines.
    text = " ".join(text.split())[:300]
    if status in {409, 422}:
        return ConfigError(
            f"Prefect's API does not take what was sent: {text}.",
            "Its version differs: install the same one everywhere, and run 'trainctl deploy' again.",
        )
    return ApiUnreachable(
        f"Prefect's API at {url} failed (HTTP {status}): {text}.", "Look into the server's log."
    )


def _missing(text: str) -> str | None:
    """Return what Prefect says in a 404 about an object; None for a path that it does not have."""
    try:
        value = json.loads(text)
    except ValueError:
        return None  # the page of another server
    if not isinstance(value, dict):
        return None
    what = value.get("exception_message") or value.get("detail")
    # "Not Found" is what its web framework says of a path, for example without /api; of an object
    # Prefect says more, such as "Flow run not found".
    return what if isinstance(what, str) and what != "Not Found" else None


def no_api(url: str) -> ApiUnreachable:
    """Return the error for an answer that is not from Prefect's API."""
    ending = "" if "/api" in urlsplit(url).path else f": {url}/api"
    return ApiUnreachable(
        f"What answers at {url} is not Prefect's API.",
        f"Correct PREFECT_API_URL; of a Prefect server it ends in /api{ending}.",
    )


def _how_to_be_let_in(url: str, settings: PrefectSettings, status: int) -> str:
    """Return what to do about a refusal: by who answers, and by what we sent."""
    sent = settings.credential.setting if settings.credential else None
    cloud = url.startswith((settings.text("PREFECT_CLOUD_API_URL") or CLOUD, CLOUD))
    wanted = "PREFECT_API_KEY" if cloud else "PREFECT_API_AUTH_STRING"
    # Prefect sends the name and password even if a key is set too, so the key is never tried.
    if sent == "PREFECT_API_AUTH_STRING" and cloud:
        return "Prefect Cloud takes a key: unset PREFECT_API_AUTH_STRING and set PREFECT_API_KEY."
    if status == 403:
        if cloud:
            return (
                f"The key in {sent or wanted} may not do that here: look at its permissions, and at "
                "the account and the workspace in PREFECT_API_URL."
            )
        return (
            "Perhaps a proxy in front of the server wants a header of its own: "
            "PREFECT_CLIENT_CUSTOM_HEADERS. Or ask the administrator of the server."
        )
    if cloud:
        what = "no longer holds" if sent else "is not set"
        return f"The key in PREFECT_API_KEY {what}: make one in Prefect Cloud, and set it."
    if sent == wanted:
        return (
            f"{wanted} must be the name:password that the server has in "
            "PREFECT_SERVER_API_AUTH_STRING, and is another."
        )
    instead = f" {sent} is for Prefect Cloud." if sent else ""
    return (
        f"Set {wanted} to the name:password that the server has in "
        f"PREFECT_SERVER_API_AUTH_STRING.{instead}"
    )


def _remedy(url: str, reason: str) -> str | None:
    # OpenSSL's words for an answer in plain HTTP; which of them depends on its version.
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason:
        return f"It speaks without encryption: set PREFECT_API_URL to http{url[5:]}."
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return "Name the file of its authority in PREFECT_API_SSL_CERT_FILE."
    if "disconnected without sending" in reason and url.startswith("http:"):
        return f"Perhaps it wants encryption: set PREFECT_API_URL to https{url[4:]}."
    return None


def _own_server() -> str:
    from gateway.prefect import server  # it costs a little, and is seldom needed

    running = server.known()
    if running and server.answers(running.url):
        return running.url
    from rich.console import Console

    began = time.monotonic()
    message = "starting the Prefect server (once; it stays) …"
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(message):
            url = server.start()
    else:
        note(message)
        url = server.start()
    note(f"the Prefect server answers at {url} ({time.monotonic() - began:.1f} s)")
    return url
