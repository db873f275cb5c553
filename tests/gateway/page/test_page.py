"""The page by plain HTTP: what it shows, and what it refuses."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import httpx
import pytest
from fastapi import FastAPI

from gateway import jobs
from gateway.access.users import add_user
from tests.gateway.page.conftest import made_job

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"
PASSWORD = "a long password"  # noqa: S105 - of nobody
FIRST_LOAD = 150_000  # bytes


async def test_jobs_are_listed_filtered_and_paged(browser: httpx.AsyncClient, monkeypatch):
    monkeypatch.setattr("gateway.page.table.ROWS", 1)
    mine = [await made_job(f"paged-page-{number}") for number in range(2)]

    first = (await browser.get("/jobs", params={"text": "paged-page"})).text
    second = (await browser.get("/jobs", params={"text": "paged-page", "page": 2})).text

    assert "Older" in first
    assert "Older" not in second
    assert [str(id) in first or str(id) in second for id in mine] == [True, True]
    assert "paged-page" not in (
        await browser.get("/jobs", params={"text": "paged-page", "state": "failed"})
    ).text.replace('value="paged-page"', "").replace("text=paged-page", "")


async def test_what_is_unchanged_is_not_sent_again(browser: httpx.AsyncClient):
    await made_job("etag-page")
    query = {"text": "etag-page"}
    first = await browser.get("/jobs", params=query, headers={"HX-Request": "true"})
    again = {"HX-Request": "true", "If-None-Match": first.headers["etag"]}

    assert "<html" not in first.text
    assert (await browser.get("/jobs", params=query, headers=again)).status_code == 304


class Parsed(HTMLParser):
    """What a browser takes for elements and attributes in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.scripts: list[bool] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag == "script":
            self.scripts.append("src" in dict(attrs))


@pytest.mark.parametrize("path", ["/jobs", "/jobs/{id}", "/compare?job={id}&job={other}"])
async def test_a_hostile_name_is_text_everywhere(browser: httpx.AsyncClient, path: str):
    id, other = await made_job(HOSTILE, chat_template=HOSTILE), await made_job("hostile-other")

    answer = await browser.get(path.format(id=id, other=other))

    assert answer.status_code == 200, answer.text
    assert "&lt;script&gt;alert(1)" in answer.text
    assert "{{7*7}}" in answer.text
    found = Parsed(answer.text)
    assert "img" not in found.tags
    assert found.scripts == [True] * len(found.scripts), "each script is a file of its own"
    assert not [name for name in found.attributes if name == "style" or name.startswith("on")]
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


async def test_a_job_shows_its_states_its_configuration_and_its_log(
    browser: httpx.AsyncClient, tmp_path
):
    id = await made_job("whole-page", learning_rate=0.125)

    text = (await browser.get(f"/jobs/{id}")).text

    assert "Pending" in text
    assert "learning_rate: 0.125" in text
    assert f'<a href="{jobs.link(id)}"' in text
    assert "No line." in (await browser.get(f"/jobs/{id}/log", params={"text": "x"})).text


async def test_curves_of_several_jobs_lie_over_the_axis_that_is_asked_for(
    app: FastAPI, browser: httpx.AsyncClient
):
    ids = [await made_job("curves-page-a"), await made_job("curves-page-b")]
    for id in ids:
        records = [{"step": n, "epoch": n / 2, "train_loss": 4.0 - n} for n in (1, 2)]
        await app.state.metrics.append(str(id), records)

    answer = await browser.get("/curves", params={"job": [str(id) for id in ids], "x": "epoch"})

    assert [(chart["title"], len(chart["curves"])) for chart in answer.json()] == [("Loss", 2)]
    assert answer.json()[0]["curves"][1] == {
        "job": str(ids[1]), "name": "curves-page-b", "metric": "train_loss",
        "x": [0.5, 1.0], "y": [3.0, 2.0],
    }  # fmt: skip


async def test_a_comparison_shows_only_what_differs(browser: httpx.AsyncClient):
    ids = [await made_job(f"differs-{n}", learning_rate=rate) for n, rate in ((1, 0.5), (2, 0.25))]

    text = (await browser.get("/compare", params={"job": [str(id) for id in ids]})).text

    assert "training.learning_rate" in text
    assert "training.model" not in text


@pytest.mark.parametrize("origin", ["http://evil.example", "null"])
async def test_another_site_cannot_cancel(browser: httpx.AsyncClient, origin: str):
    id = await made_job("foreign-page")

    answer = await browser.post(f"/jobs/{id}/cancel", headers={"Origin": origin})

    assert answer.status_code == 403
    assert "created" in (await browser.get(f"/jobs/{id}")).text


async def test_a_job_is_cancelled_by_its_button(browser: httpx.AsyncClient):
    id = await made_job("cancel-page")

    answer = await browser.post(f"/jobs/{id}/cancel", headers={"Origin": "http://127.0.0.1:8000"})

    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{id}")
    assert "Cancel" in (await browser.get(f"/jobs/{id}")).text


async def test_queue_and_money_are_shown_where_there_is_nothing(browser: httpx.AsyncClient):
    for path in ("/queue", "/money", "/money?by=day", "/money?by=project"):
        answer = await browser.get(path)
        assert answer.status_code == 200, answer.text


async def test_mistakes_are_pages(browser: httpx.AsyncClient):
    answer = await browser.get("/jobs/00000000-0000-4000-8000-000000000000")

    assert answer.status_code == 404
    assert "There is no job" in answer.text
    assert "<html" in answer.text
    assert (await browser.get("/static/..%2froutes.py")).status_code == 404


async def test_a_stranger_is_sent_to_the_form_and_signed_in_comes_back(
    app: FastAPI, outsider: httpx.AsyncClient
):
    await add_user(app.state.gate.engine, "ada", ["submit"], password=PASSWORD)
    id = await made_job("signed-in-page")
    sent = await outsider.get(f"/jobs/{id}", headers={"Accept": "text/html"})
    form = await outsider.get(sent.headers["location"])

    came = await outsider.post(
        "/sign-in", data={"name": "ada", "password": PASSWORD, "next": f"/jobs/{id}"}
    )

    assert (sent.status_code, form.status_code) == (303, 200)
    assert f'value="/jobs/{id}"' in form.text
    page = await outsider.get(came.headers["location"])
    token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert token
    path = f"/jobs/{id}/cancel"
    assert (await outsider.post(path)).status_code == 403
    done = await outsider.post(path, data={"csrf_token": token[1]})
    assert done.status_code == 303


async def test_the_first_load_is_light_and_names_no_other_host(browser: httpx.AsyncClient):
    id = await made_job("light-page")
    page = await browser.get(f"/jobs/{id}")
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    loaded = [page, *[await browser.get(file) for file in files]]

    assert len(files) == 5
    assert sum(len(answer.content) for answer in loaded) <= FIRST_LOAD
    for answer in loaded:
        assert not re.search(r'(src|action)="https?:|url\(|@import', answer.text)
