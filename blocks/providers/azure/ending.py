"""How a machine of Azure ends itself, and how it hears that Azure takes it back."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from blocks.providers.azure.resources import MACHINES, VERSIONS


def _one_line(name: str) -> str:
    script = Path(__file__).with_name(name).read_text(encoding="utf-8")
    lines = (line.strip() for line in script.splitlines())
    return " ".join(line for line in lines if line and not line.startswith("#"))


NOTICE = _one_line("notice.sh")
"""Waits until Azure announces an eviction; it may come eight seconds before, or not at all."""
_DELETE_ITSELF = _one_line("delete_itself.sh")


def delete_itself(url: str) -> str:
    """Return a line of sh by which a machine with a managed identity deletes itself.

    Args:
        url: of Azure Resource Manager.
    """
    asked_for = _DELETE_ITSELF.replace("resource=@ARM@", f"resource={quote(url, safe='')}")
    return asked_for.replace("@ARM@", url).replace("@VERSION@", VERSIONS[MACHINES])
