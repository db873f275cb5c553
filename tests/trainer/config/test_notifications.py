"""Who is told: short and long forms, and no secret in a job file."""

from __future__ import annotations

import pytest

from trainer.config.explain import validated
from trainer.config.notifications import Notable, Notifications
from trainer.contract.errors import ConfigError

HOURS = {"start": "22:00", "end": "07:00", "time_zone": "Europe/Berlin"}
TOKEN = "TIiajkdnlazkcOXrIdevi7FQ"  # noqa: S105


def test_an_address_alone_stands_for_a_receiver():
    one = Notifications.model_validate({"to": "SLACK_URL"})
    two = Notifications.model_validate({"to": ["SLACK_URL", "mailto:ada@example.org"]})

    assert [each.to for each in one.to] == ["SLACK_URL"]
    assert [each.to for each in two.to] == ["SLACK_URL", "mailto:ada@example.org"]
    assert two.events == list(Notable)
    assert Notifications.model_validate(two.model_dump(mode="json")) == two


@pytest.mark.parametrize(
    "to",
    [
        *("SLACK_URL", "secret://aws/chat", "secret://file/~/keys/chat", "mailto:ada@example.org"),
        {"to": "https://hooks.example.org/jobs", "key": "HOOK_KEY"},
        {"to": "HOOK_URL", "key": "secret://gcp/hook", "events": ["failed"]},
    ],
)
def test_what_holds_no_secret_may_stand_in_a_job(to):
    assert Notifications.model_validate({"to": [to]}).to


@pytest.mark.parametrize(
    "to",
    [
        f"slack://T1JJ3T3L2/A1BRTD4JD/{TOKEN}",
        f"https://hooks.slack.com/services/T1/A1/{TOKEN}",
        f"mailto://ada:{TOKEN}@example.org",
        {"to": f"https://ada:{TOKEN}@example.org", "key": "KEY"},
        {"to": f"https://example.org/?token={TOKEN}", "key": "KEY"},
        {"to": "https://example.org", "key": TOKEN},
    ],
)
def test_a_secret_in_a_job_is_refused_and_not_repeated(to):
    with pytest.raises(ConfigError, match=r"notifications\.to") as caught:
        validated(Notifications, {"to": [to]}, "job.yaml")

    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"start": "25:00"}, "start = '25:00'"),
        ({"end": "7:00"}, "end = '7:00'"),
        ({"time_zone": "Berlin"}, "time_zone = 'Berlin': is not a time zone"),
        ({"end": "22:00"}, "start and end are the same"),
        ({"urgent": ["fire"]}, "urgent.0 = 'fire'"),
    ],
)
def test_hours_that_are_none_are_refused_by_name(changes, named):
    with pytest.raises(ConfigError) as caught:
        validated(Notifications, {"quiet_hours": {**HOURS, **changes}}, "job.yaml")

    assert named in caught.value.message
