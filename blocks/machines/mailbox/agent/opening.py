"""Open the mailbox that an agent is started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blocks.machines.mailbox.agent.box import Box


def opened(url: str, options: dict[str, Any], beside: Path) -> Box:
    """Return the bucket at a URL, or the one that a signed address leads to.

    Args:
        url: such as s3://models/mailboxes/x; or the signed address of the object `grant`.
        options: further settings of its store; `role`: the machine's own opens it.
        beside: a folder for a library that has to be installed.
    """
    # Each agent has only that module with it which it needs.
    if url.startswith(("http://", "https://")):
        from blocks.machines.mailbox.agent.signed import BySigned

        return BySigned(url)
    if options.get("role"):
        from blocks.machines.mailbox.agent.roles import ByRole

        return ByRole(url, options)
    from blocks.machines.mailbox.agent import libraries

    return libraries.opened(url, options, beside)
