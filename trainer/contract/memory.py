"""What orchestrator and trainer both go by when they say whether a training fits on a GPU."""

from __future__ import annotations

ROOM = 0.9
"""The share of a GPU's memory that may be used up by what is predicted, or was measured."""
