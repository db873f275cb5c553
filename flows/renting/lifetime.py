"""How long a machine may live at most: a provider that can end it by itself is asked to do so then.

The lease ends a machine that nobody renews; this ends one on which the lease itself fails.
"""

from __future__ import annotations

import math

from flows.renting.hire import HOUR
from trainer.config import TrainingJob

WEEK_SECONDS = 7 * 24 * HOUR  # where neither time nor money is limited
SETUP_SECONDS = 6 * HOUR
"""To install, and to bring data and model there, perhaps over a slow line: no limit of a job's counts
it, and a machine that was ended meanwhile would only be followed by the next one."""
TEARDOWN_SECONDS = HOUR  # to bring home what a machine holds when its time is up


def lifetime(
    job: TrainingJob, *, boot_seconds: float, price_per_hour: float, usd_left: float
) -> float:
    """Return after how many seconds a machine that is ordered now is certainly not needed any more.

    Args:
        job: the job that it is for.
        boot_seconds: how long it may take until it is ready.
        price_per_hour: USD.
        usd_left: what the job may still spend; infinite without a limit.
    """
    if job.keep_minutes:  # other jobs come after this one
        return WEEK_SECONDS
    limits = job.limits
    training = SETUP_SECONDS + (limits.max_runtime_minutes or math.inf) * 60
    paid_for = max(0.0, usd_left) / price_per_hour * HOUR if price_per_hour > 0 else math.inf
    longest = min(training, paid_for)
    if math.isinf(longest):
        return WEEK_SECONDS
    return boot_seconds + longest + limits.lease_minutes * 60 + TEARDOWN_SECONDS
