"""Send a message to where a receiver is told: the secrets are read now, and stay in this process."""

from __future__ import annotations

from blocks.notifiers.message import MessageRefused, PersonalMessage
from blocks.notifiers.services import SMTP, mail_address, send_by_apprise
from blocks.notifiers.signed_webhook import send_signed
from blocks.secrets.reading import is_address, renewed

MAILTO = "mailto:"
WEB = ("http://", "https://")
KNOWN = "KEY"
"""By which errors call a key that has an address and no variable."""


def send(to: str, key: str | None, message: PersonalMessage) -> None:
    """Send a message; it may take as long as the receiver does, at most some seconds.

    Args:
        to: a receiver's `to`, and
        key: its `key`; see `trainer.config.notifications.Receiver`.
        message: what is sent.

    Raises:
        MessageRefused: it will never be taken like this.
        NotDelivered: it was not taken this time.
        OrchestratorError: a secret cannot be read; see `blocks.secrets.reading.secret`.
    """
    url = _url(to)
    if url.startswith(WEB) and key:
        secret = _read(key, KNOWN)
        if not secret:
            raise MessageRefused(f"{key} is not set, so nothing can be signed.", f"Set {key}.")
        send_signed(url, secret, message)
    else:
        send_by_apprise(url, message)


def _url(to: str) -> str:
    if to.startswith(MAILTO) and not to.startswith(f"{MAILTO}//"):
        return mail_address(renewed(SMTP), to.removeprefix(MAILTO))
    if to.startswith(WEB):
        return to
    if not (url := _read(to, "notifications.to")):
        raise MessageRefused(
            f"{to} is not set here, so nobody is told.",
            f"Set {to} to an address such as slack://…, where the job runs.",
        )
    return url


def _read(where: str, name: str) -> str:
    """Return a secret, of a variable or of an address."""
    return renewed(name, where) if is_address(where) else renewed(where)
