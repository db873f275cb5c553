"""Send what waits and is due, and end: `python -m flows.notifying`. Nothing here imports Prefect."""

from __future__ import annotations

import sys

from flows.notifying.outbox import outboxes
from flows.notifying.sending import send_waiting


def main() -> int:
    """Look once at every outbox."""
    for outbox in outboxes():
        send_waiting(outbox)
    return 0


if __name__ == "__main__":
    sys.exit(main())
