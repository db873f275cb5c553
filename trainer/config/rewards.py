"""The reward functions that a job names without a file; `trainer.rewards.builtin` has them."""

from __future__ import annotations

BUILTIN_REWARDS: dict[str, tuple[str, ...]] = {
    "contains_answer": ("answer",),
    "exact_match": ("answer",),
    "format": (),
    "json": (),
    "length": (),
}
"""The columns that each cannot do without, by its name in a job file."""
