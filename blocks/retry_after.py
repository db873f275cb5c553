"""How long an answer over HTTP asks us to wait."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after(text: str | None) -> float | None:
    """Return the seconds in a Retry-After, which may be a number or a date; None if it is neither."""
    text = text or ""
    try:
        seconds = float(text)
    except ValueError:
        try:
            # A date in "-0000" comes back without a time zone: subtracting is then a TypeError.
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return None
    return None if math.isnan(seconds) else max(0.0, seconds)
