"""The form of a new job by plain HTTP: YAML and fields write each other, and nothing is lost."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from gateway.access import audit
from gateway.access.users import add_user
from gateway.page.new_job.draft import Draft, merged
from gateway.page.new_job.fields import OPEN, fields, parts
from tests.gateway.page.conftest import made_job
from trainer.config import TrainingJob
from trainer.contract.errors import ConfigError

PASSWORD = "a long password"  # noqa: S105 - of nobody
WRITTEN = """\
# of Ada
name: chats  # short
training:
  model: a/b
  dataset: rows.jsonl
"""
GOOD = {
    "f.name": "from-the-form",
    "f.training.model": "examples:tiny-llama",
    "f.training.dataset.path": "examples:quickstart.jsonl",
    "f.resources.gpu_count": "0",
}
BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


async def press(browser: httpx.AsyncClient, deed: str, **sent: str) -> dict[str, Any]:
    answer = await browser.post(f"/new/{deed}", data={"yaml": "", "before": "", **sent})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_every_field_of_the_model_is_in_the_form_once():
    shown = [
        field.path
        for part in parts()
        for field in (*part.fields, *(one for _, folded in part.folded for one in folded))
    ]

    assert sorted(shown) == sorted(fields())
    tops = {path.partition(".")[0] for path in shown}
    assert tops == set(TrainingJob.model_fields)
    assert list(OPEN) == ["Name", "What to train", "What it runs on", "Limits"]


def test_every_field_that_may_be_left_empty_says_what_happens_then():
    silent = [
        field.path
        for field in fields().values()
        if field.default is not None
        and "eft empty: " not in field.about
        and field.path != "training.dataset.path"
    ]
    unsaid = [f.path for f in fields().values() if f.default == "null" and "null:" not in f.help]

    assert silent == []
    assert unsaid == []


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("training.learning_rate", "2e-4", 2e-4),
        ("training.merge", "true", True),
        ("training.zero_stage", "3", 3),
        ("training.gguf_quantization", "F32", "F32"),
        ("setup", "pip install x\nls -a, -b", ["pip install x", "ls -a, -b"]),
        ("provider", "[vast, runpod]", ["vast", "runpod"]),
        ("training.arguments", "{adam_beta1: 0.8}", {"adam_beta1": 0.8}),
        ("training.learning_rate", "fast", "fast"),
        ("training.labels", "null", None),
    ],
)
def test_what_is_filled_in_is_a_value_of_its_kind(path: str, text: str, value: object):
    draft = Draft("")
    assert draft.change(path, text) is None

    found: Any = draft.value
    for name in path.split("."):
        found = found[name]
    assert found == value
    assert fields()[path].value(Draft(draft.text).filled_in()[path]) == value


def test_a_field_is_written_in_its_place_and_comments_stay():
    draft, faults = merged(
        WRITTEN,
        WRITTEN,
        {"name": "other", "training.dataset.eval_fraction": "0.1", "training.method": "dpo"},
    )

    assert faults == []
    assert draft.text == (
        "# of Ada\nname: other  # short\ntraining:\n  method: dpo\n  model: a/b\n"
        "  dataset:\n    path: rows.jsonl\n    eval_fraction: 0.1\n"
    )


def test_what_was_changed_in_the_yaml_outweighs_the_fields_that_were_not():
    draft, _ = merged(
        WRITTEN.replace("a/b", "c/d"), WRITTEN, {"training.model": "a/b", "name": "new"}
    )

    assert draft.value["training"]["model"] == "c/d"
    assert draft.value["name"] == "new"


def test_settings_of_which_nothing_is_left_go_too():
    text = "name: a\nlimits:\n  max_cost: 1\n"
    draft, _ = merged(text, text, {"limits.max_cost": ""})

    assert draft.value == {"name": "a"}


@pytest.mark.parametrize("text", ["a: [", "- 1", "a: 1\na: 2", BOMB])
def test_what_is_no_job_file_is_refused_in_a_sentence(text: str):
    with pytest.raises(ConfigError, match="The YAML"):
        Draft(text)


async def test_every_mistake_is_told_beside_its_field(browser: httpx.AsyncClient):
    told = await press(
        browser,
        "validate",
        **{"f.name": "a b", "f.limits.max_cost": "-1", "f.training.beta": "0.1"},
    )

    assert set(told["faults"]) == {
        *("name", "limits.max_cost", "training.model", "training.dataset.path")
    }
    assert told["faults"]["limits.max_cost"] == "limits.max_cost = -1: must be greater than 0"
    assert "name: a b" in told["yaml"]
    assert told["fields"]["training.beta"] == "0.1"


async def test_a_rule_of_several_fields_is_told_beside_the_one_to_change(
    browser: httpx.AsyncClient,
):
    told = await press(browser, "write", **GOOD, **{"f.training.beta": "0.1"})

    assert list(told["faults"]) == ["training.beta"]


async def test_nothing_is_said_of_what_nobody_has_come_to(browser: httpx.AsyncClient):
    told = await press(browser, "write", **{"f.name": "mine"})

    assert (told["yaml"], told["faults"]) == ("name: mine\n", {})


async def test_yaml_that_is_none_is_told_and_kept(browser: httpx.AsyncClient):
    told = await press(browser, "validate", yaml="name: [", **{"f.name": "mine"})

    assert "line" in told["yaml_fault"]
    assert "yaml" not in told


async def test_a_file_that_is_not_there_is_told_beside_its_field(browser: httpx.AsyncClient):
    told = await press(
        browser, "validate", **GOOD | {"f.training.dataset.path": "/nowhere/rows.jsonl"}
    )

    assert "/nowhere/rows.jsonl" in told["faults"]["training.dataset.path"]
    assert "error" in told["outcome"]


async def test_offers_of_this_computer_are_shown(browser: httpx.AsyncClient, monkeypatch):
    monkeypatch.setattr("gateway.cli.renting.can_estimate", lambda _: False)

    told = await press(browser, "offers", **GOOD)

    assert told["faults"] == {}, told
    assert "local" in told["outcome"]
    assert "EXPECTED" in told["outcome"]


async def test_a_job_is_submitted_once_however_often_the_button_is_pressed(
    deployed: httpx.AsyncClient, browser: httpx.AsyncClient
):
    first, second = [await press(browser, "submit", form="1", **GOOD) for _ in range(2)]
    other = await press(browser, "submit", form="1", **GOOD | {"f.name": "another"})

    assert first["go"] == second["go"]
    assert first["go"].startswith("/jobs/")
    assert other["go"] != first["go"]
    page = await browser.get(first["go"])
    assert "from-the-form" in page.text
    like = await browser.get("/new", params={"like": first["go"].rpartition("/")[2]})
    assert "examples:tiny-llama" in like.text
    assert "stall_timeout_minutes: " not in like.text, "only what was asked for"


async def test_a_job_that_the_worker_would_refuse_is_refused_here(
    deployed: httpx.AsyncClient, browser: httpx.AsyncClient
):
    told = await press(
        browser, "submit", **GOOD | {"f.training.formatting": "examples:build_tiny_llama.py:no"}
    )

    assert "training.formatting" in told["faults"], told


async def test_only_those_who_may_submit_have_the_form(app: FastAPI, outsider: httpx.AsyncClient):
    path = f"/jobs/{await made_job('not-hers')}"
    await add_user(app.state.gate.engine, "eve", ["read"], password=PASSWORD)
    assert (await outsider.get("/new")).status_code == 401
    await outsider.post("/sign-in", data={"name": "eve", "password": PASSWORD, "next": "/"})

    jobs, job = await outsider.get("/jobs"), await outsider.get(path)
    assert (jobs.status_code, job.status_code) == (200, 200)
    assert not re.search("/new|/cancel|/pause", jobs.text + job.text)
    assert (await outsider.get("/new")).status_code == 403
    assert (await outsider.post("/new/write", data={})).status_code == 403


async def test_whoever_may_submit_is_shown_how(browser: httpx.AsyncClient):
    path = f"/jobs/{await made_job('ours')}"

    assert "/new" in (await browser.get("/jobs")).text
    assert "/cancel" in (await browser.get(path)).text


async def test_what_changes_nothing_is_not_in_the_audit_log(
    app: FastAPI, browser: httpx.AsyncClient
):
    await press(browser, "write", **GOOD)
    noted = [deed.action async for deed in audit.deeds(app.state.gate.engine, 100)]

    assert not [action for action in noted if "/new" in action]
