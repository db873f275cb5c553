"""Where a point lies on an axis: by step, epoch, tokens or time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gateway.metrics.codec import Steps, Values
from gateway.metrics.series import TIME, Curves

AXES = ("step", "epoch", "tokens", "time", "seconds")
"""`time` is seconds since 1970, `seconds` those since the first point of the job."""
COUNTED = ("num_input_tokens_seen", "num_tokens", "tokens")
"""What trainers call the tokens so far, those who count them."""
PACE = "tokens_per_second"
POSITIONS: Mapping[str, tuple[str, ...]] = {
    "step": (),
    "epoch": ("epoch",),
    "tokens": (*COUNTED, PACE, TIME),
    "time": (TIME,),
    "seconds": (TIME,),
}
"""The metrics that an axis is made of."""
MEAN = -1  # the column of what several points have in common; of single ones the only


def positions(axis: str, steps: Steps, curves: Curves) -> Values:
    """Return where steps lie on an axis; NaN where the job has not recorded what it takes.

    Args:
        axis: one of `AXES`.
        steps: (points).
        curves: of the job, those in `POSITIONS` among them.
    """
    if axis == "step":
        return steps.astype(np.float64)
    known = _tokens(curves) if axis == "tokens" else _recorded(axis, curves)
    if known is None or not len(known[0]):
        return np.full(len(steps), np.nan)
    # Between two recorded points a step lies in proportion: an evaluation has no time of its own.
    return np.interp(steps.astype(np.float64), known[0].astype(np.float64), known[1])


def _recorded(axis: str, curves: Curves) -> tuple[Steps, Values] | None:
    curve = curves.get("epoch" if axis == "epoch" else TIME)
    if curve is None:
        return None
    steps, values = curve[0], curve[1][MEAN]
    return steps, values - values[0] if axis == "seconds" else values


def _tokens(curves: Curves) -> tuple[Steps, Values] | None:
    """Return the tokens so far: counted by the trainer, or else by its pace and the time."""
    for name in COUNTED:
        if name in curves:
            return curves[name][0], curves[name][1][MEAN]
    if PACE not in curves or TIME not in curves:
        return None
    steps, pace = curves[PACE][0], np.nan_to_num(curves[PACE][1][MEAN])
    at = np.interp(steps, curves[TIME][0], curves[TIME][1][MEAN])
    passed = np.diff(at, prepend=np.nan)
    usual = float(np.nanmedian(passed)) if len(at) > 1 else 0.0
    # Pauses, and the time between two machines, are no training.
    passed = np.where((passed >= 0) & (passed <= 10 * usual), passed, usual)
    return steps, np.cumsum(pace * passed)
