"""What a rented machine runs in its first second: an end that needs nobody to arrive.

The dead-man switch of `blocks.machines.sentinel` is armed by whoever reaches the machine first. One
that nobody ever reaches, because our process or the network is gone, would be billed for ever; so
where the provider takes a script, the machine waits for the switch and else ends itself.
"""

from __future__ import annotations

import math

from blocks.machines.shell import FOLDER

AGAIN_SECONDS = 60  # from one attempt at shutting down to the next


def first_script(term_seconds: float, shutdown_command: str) -> str:
    """Return sh that ends its machine unless the dead-man switch is armed within a time.

    Args:
        term_seconds: how long that may take: booting, and one term of the lease.
        shutdown_command: a line of sh by which the machine ends itself.
    """
    seconds = max(1, math.ceil(term_seconds))
    # The lease is there from the moment that the switch is armed. Whose home it is in depends on
    # whom we log in as.
    return (
        f"armed() {{ ls /root/{FOLDER}/lease /home/*/{FOLDER}/lease >/dev/null 2>&1; }}; "
        f"sleep {seconds}; until [ -e ~/{FOLDER}/lease ] || armed; do {shutdown_command}; "
        f"sleep {AGAIN_SECONDS}; done"
    )
