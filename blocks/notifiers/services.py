"""Slack, Teams, Discord, mail, ntfy and a hundred more, by Apprise.

Apprise is imported when the first message goes out: it takes a third of a second.
"""

from __future__ import annotations

import logging
import re
from urllib.parse import quote, unquote

from blocks.notifiers.message import MessageRefused, NotDelivered, PersonalMessage
from trainer.contract.redaction import remember

NAME = "Training Orchestrator"
LOGGER = "apprise"
SMTP = "SMTP_URL"
"""The variable with the mail server: mailtos://user:password@server:587?from=ADDRESS."""
_REFUSED = re.compile(r"error=(400|401|403|404|410)\b")  # as Apprise logs an answer


def send_by_apprise(url: str, message: PersonalMessage) -> None:
    """Send a message to an address of Apprise; an https:// address of Slack, Discord or Teams is one too.

    Raises:
        MessageRefused: it is no address of Apprise, or the service refuses it.
        NotDelivered: the service did not take the message.
    """
    import apprise

    for part in re.split(r"[/:@?&=]", url):  # Apprise logs parts of it
        remember(unquote(part))
    asset = apprise.AppriseAsset(app_id=NAME, app_desc=NAME, async_mode=False)
    with _Heard() as heard:
        service = apprise.Apprise.instantiate(url, asset=asset)
        if not isinstance(service, apprise.NotifyBase):
            raise MessageRefused(
                f"Apprise does not understand this address{heard.reason()}.",
                "See https://github.com/caronc/apprise/wiki, then: trainctl notify test",
            )
        taken = service.notify(
            body=message.body,
            title=message.title,
            notify_type=apprise.NotifyType(message.level),
            body_format=apprise.NotifyFormat.TEXT,
        )
    if taken:
        return
    said = f"{service.service_name} did not take the message{heard.reason()}."
    raise MessageRefused(said) if _REFUSED.search(said) else NotDelivered(said)


def mail_address(server: str, to: str) -> str:
    """Return the address of Apprise that mails to somebody.

    Args:
        server: what SMTP_URL holds.
        to: who gets it.

    Raises:
        MessageRefused: there is no server.
    """
    if not server:
        raise MessageRefused(
            f"mailto:{to}: {SMTP} is not set, so no server sends it.",
            f"Set {SMTP}=mailtos://user:password@server:587?from=you@example.com",
        )
    return f"{server}{'&' if '?' in server else '?'}to={quote(to, safe='@')}"


class _Heard(logging.Handler):
    """Hears what Apprise logs meanwhile: it says why only there."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def reason(self) -> str:
        """Return the reason in brackets, if there is one."""
        return f" ({' '.join(self._lines[-1].split()).rstrip('.')})" if self._lines else ""

    def __enter__(self) -> _Heard:
        logging.getLogger(LOGGER).addHandler(self)
        return self

    def __exit__(self, *exception: object) -> None:
        logging.getLogger(LOGGER).removeHandler(self)
