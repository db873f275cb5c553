"""The table of jobs, and what a job has left, by plain HTTP."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from flows.run_folder import RunFolder
from gateway.page import results
from tests.gateway.page.conftest import made_job
from trainer.contract.files import replace_json
from trainer.contract.manifest import write_manifest

OURS = {"Origin": "http://127.0.0.1:8000"}


def names(text: str) -> list[str]:
    return re.findall(r'/jobs/[0-9a-f-]{36}">([^<]+)</a>', text)


async def test_rows_are_sorted_by_a_column_either_way(browser: httpx.AsyncClient):
    for name in ("sorted-b", "sorted-a", "sorted-c"):
        await made_job(name)

    up, down = [
        await browser.get("/jobs", params={"text": "sorted-", "sort": sort})
        for sort in ("name", "-name")
    ]

    assert names(up.text) == ["sorted-a", "sorted-b", "sorted-c"]
    assert names(down.text) == ["sorted-c", "sorted-b", "sorted-a"]
    assert 'aria-sort="ascending"' in up.text
    wrong = await browser.get("/jobs", params={"sort": "colour"})
    assert (wrong.status_code, "there is no such column" in wrong.text) == (400, True)


async def test_selected_jobs_are_tagged_and_found_by_the_tag(browser: httpx.AsyncClient):
    ids = [str(await made_job(f"tagged-{n}")) for n in range(3)]

    done = await browser.post(
        "/jobs/selected/tag?text=tagged-", data={"job": ids[:2], "tag": "paper"}, headers=OURS
    )

    assert (done.status_code, done.headers["location"]) == (303, "/jobs?text=tagged-")
    found = await browser.get("/jobs", params={"tag": "paper"})
    assert sorted(names(found.text)) == ["tagged-0", "tagged-1"]
    await browser.post("/jobs/selected/untag", data={"job": ids[:1], "tag": "paper"}, headers=OURS)
    assert names((await browser.get("/jobs", params={"tag": "paper"})).text) == ["tagged-1"]


@pytest.mark.parametrize(
    "sent",
    [{}, {"job": "x", "tag": "a"}, {"job": str(UUID(int=4)), "tag": "idempotency-key:1"}],
)
async def test_what_cannot_be_tagged_is_refused(browser: httpx.AsyncClient, sent: dict[str, str]):
    answer = await browser.post("/jobs/selected/tag", data=sent, headers=OURS)

    assert answer.status_code == 400, answer.text


async def test_of_selected_jobs_those_that_cannot_be_cancelled_are_told(
    browser: httpx.AsyncClient,
):
    ids = [str(await made_job("many-cancelled")), str(UUID(int=4))]

    answer = await browser.post("/jobs/selected/cancel", data={"job": ids}, headers=OURS)

    assert "1 done, 1 not" in answer.text
    assert "There is no job" in answer.text
    assert "stopping" in (await browser.get("/jobs", params={"text": "many-cancelled"})).text


async def test_an_artifact_is_listed_loaded_and_downloaded(
    browser: httpx.AsyncClient, tmp_path: Path
):
    id = await made_job("artifact-page")
    (tmp_path / "made" / "sub").mkdir(parents=True)
    (tmp_path / "made" / "sub" / "adapter.safetensors").write_bytes(b"weights")
    (tmp_path / "secret").write_text("of nobody")
    write_manifest(tmp_path / "made")
    replace_json(RunFolder(id).report, {"path": str(tmp_path / "made"), "training": {}})

    page = (await browser.get(f"/jobs/{id}")).text
    [link] = re.findall(rf'href="(/jobs/{id}/artifact/[^"]+)"', page)
    file = await browser.get(link)

    assert "from_pretrained" in page
    assert (file.content, "attachment" in file.headers["content-disposition"]) == (b"weights", True)
    other = await browser.get(f"/jobs/{id}/artifact/..%2Fsecret")
    assert other.status_code == 404


async def test_checkpoints_are_listed_with_their_size(browser: httpx.AsyncClient):
    id = await made_job("checkpoints-page")
    for step in (5, 10):
        folder = RunFolder(id).checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model").write_bytes(bytes(2048))
    write_manifest(folder)

    page = (await browser.get(f"/jobs/{id}")).text

    assert page.index("checkpoint-10") < page.index("checkpoint-5 (not whole)")


async def test_rows_are_shown_as_the_model_sees_them(browser: httpx.AsyncClient, monkeypatch):
    parts = [
        {"kind": "seen", "text": "<b>Hi", "is_special": False},
        {"kind": "learned", "text": "yes", "is_special": False},
        {"kind": "learned", "text": "</s>", "is_special": True},
    ]
    row = {
        "place": "rows.jsonl, line 2", "learned": 2, "seen": 1, "cut": 0, "dropped": "",
        "texts": {"": parts},
    }  # fmt: skip
    # The trainer's own answer, which imports torch, is tested with `trainctl preview`.
    monkeypatch.setattr(results, "ask_trainer", lambda *_: {"rows": [row]})
    id = await made_job("rows-page")

    text = (await browser.get(f"/jobs/{id}/rows", params={"first": 2})).text

    assert '<span class="seen">&lt;b&gt;Hi</span><mark class="learned">yes</mark>' in text
    assert "⟨&lt;/s&gt;⟩" in text
    assert "Row 2" in text


async def test_a_job_that_was_cancelled_is_resumed_by_its_button(browser: httpx.AsyncClient):
    id = await made_job("resume-page")
    page = (await browser.get(f"/jobs/{id}")).text
    assert "/resume" not in page

    answer = await browser.post(f"/jobs/{id}/resume", headers=OURS)

    assert answer.status_code == 400
    assert "waits for its start already" in answer.text
