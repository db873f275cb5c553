"""How long a machine may live at most."""

import math

import pytest

from flows.renting.lifetime import SETUP_SECONDS, TEARDOWN_SECONDS, WEEK_SECONDS, lifetime
from tests.flows.flow_runs import make_job

SLACK = 600 + 60 + TEARDOWN_SECONDS  # to boot, one lease, and to bring home what there is


@pytest.mark.parametrize(
    ("changes", "limits", "price", "left", "seconds"),
    [
        ({}, {}, 1.0, math.inf, WEEK_SECONDS),
        ({}, {"max_runtime_minutes": 30}, 1.0, math.inf, SETUP_SECONDS + 30 * 60 + SLACK),
        ({}, {"max_cost": 9.0}, 2.0, 4.0, 2 * 3600 + SLACK),
        ({}, {"max_cost": 9.0, "max_runtime_minutes": 30}, 2.0, 4.0, 2 * 3600 + SLACK),
        (
            {},
            {"max_cost": 90.0, "max_runtime_minutes": 30},
            2.0,
            40.0,
            SETUP_SECONDS + 1800 + SLACK,
        ),
        ({}, {"max_cost": 9.0}, 0.0, 4.0, WEEK_SECONDS),
        ({}, {"max_cost": 9.0}, 0.1, -4.0, SLACK),
        ({"keep_minutes": 10}, {"max_runtime_minutes": 30}, 1.0, 4.0, WEEK_SECONDS),
    ],
    ids=[
        "no limit",
        "time",
        "money",
        "less money",
        "less time",
        "free",
        "spent",
        "kept for others",
    ],
)
def test_it_is_what_the_jobs_time_and_money_allow_else_a_week(
    changes, limits, price, left, seconds
):
    limits = make_job().limits.model_copy(update={"lease_minutes": 1.0, **limits})
    job = make_job().model_copy(update={"limits": limits, **changes})

    assert lifetime(job, boot_seconds=600, price_per_hour=price, usd_left=left) == seconds
