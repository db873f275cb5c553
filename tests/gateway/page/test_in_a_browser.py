"""The page in a real browser: a job from the form to its artifact, in both themes and on a phone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import get_client

from deployments.deploy import deploy
from flows.run_folder import RunFolder
from gateway.access.users import add_user
from gateway.rest.application import create_app
from gateway.rest.settings import ServiceSettings
from tests.gateway.page.conftest import made_job
from tests.gateway.streams.conftest import Served, serving
from trainer.contract.files import replace_json
from trainer.contract.manifest import write_manifest

CHROMIUM = shutil.which("chromium")
PATIENCE = 60_000  # milliseconds, on a busy machine
PHONE, WIDE = 390, 1280
PASSWORD = "a long password"  # noqa: S105 - of nobody
FIRST_LOAD = 150_000  # bytes
PASTED = """\
# from a file
training:
  model: examples:tiny-llama
  dataset: examples:quickstart.jsonl
resources: {gpu_count: 0}
"""
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(
        CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium"
    ),
]


@asynccontextmanager
async def browsing() -> AsyncIterator[Any]:
    api = pytest.importorskip("playwright.async_api", reason="needs: pip install playwright")
    async with api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        api.expect.set_options(timeout=PATIENCE)
        yield browser
        await browser.close()


def told_by(page: Any) -> list[str]:
    """Return a list to which comes what goes wrong in a page."""
    page.set_default_timeout(PATIENCE)
    said: list[str] = []
    # What the policy refuses is told there, and nowhere else.
    page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    return said


async def with_curves(served: Served, id: str) -> None:
    records = [{"step": n, "train_loss": 4 / n} for n in range(1, 50)]
    await served.store.append(id, records)


def with_artifact(id: UUID, folder: Path) -> None:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    write_manifest(folder)
    replace_json(RunFolder(id).report, {"path": str(folder), "training": {}})


async def test_from_the_form_to_the_artifact(prefect_api: str, tmp_path: Path):
    async with get_client() as client:
        await deploy(client, lambda _: None)
    mark = uuid4().hex[:8]  # other tests, and other tries, use the same server
    done = await made_job(f"{mark}-done")
    with_artifact(done, tmp_path / "made")
    app = create_app(ServiceSettings())
    async with browsing() as browser, serving(app) as served:
        from playwright.async_api import expect  # which browsing() skips the test without

        await add_user(app.state.gate.engine, "ada", ["submit"], password=PASSWORD)
        await with_curves(served, str(done))
        page = await browser.new_page(base_url=f"http://127.0.0.1:{served.port}")
        said = told_by(page)

        await page.goto("/new")
        await page.fill("[name=name]", "ada")
        await page.fill("[name=password]", PASSWORD)
        await page.click("main button")
        await page.wait_for_url("**/new")

        await page.fill("#yaml", PASTED)
        model = page.locator('[name="f.training.model"]')
        await expect(model).to_have_value("examples:tiny-llama")
        await page.fill('[name="f.name"]', "a b")
        await page.get_by_text("must be 1 to 63 letters").wait_for()
        await page.click("button[value=submit]")
        await page.get_by_text("1 thing is to correct").wait_for()
        assert await page.input_value("#yaml") == PASTED.replace(
            "training:\n", "name: a b\ntraining:\n", 1
        )
        await page.fill('[name="f.name"]', f"{mark}-new")
        await page.click("button[value=submit]")
        await page.wait_for_url("**/jobs/*")

        id = page.url.rpartition("/")[2]
        assert await page.inner_text("h1") == f"{mark}-new created"
        await with_curves(served, id)
        await page.locator(".chart canvas").first.wait_for()

        await page.goto(f"/jobs?text={mark}-&sort=name")
        await page.check("#all")
        await page.get_by_text("2 selected").wait_for()
        await page.fill("#tag", "pair")
        await page.press("#tag", "Enter")
        await page.locator(".tag", has_text="pair").first.wait_for()
        await page.check("#all")
        await page.click("#compare")
        await page.locator(".chart canvas").first.wait_for()
        assert await page.inner_text("h1") == "Compare 2 jobs"

        await page.goto(f"/jobs/{id}")
        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_text("stopped").or_(page.get_by_text("stopping")).first.wait_for()

        await page.goto(f"/jobs/{done}")
        async with page.expect_download() as started:
            await page.click("text=adapter_model.safetensors")
        file = Path(await (await started.value).path())
        assert await asyncio.to_thread(file.read_bytes) == b"weights"
        assert said == []


@pytest.mark.parametrize(
    ("width", "theme"), [(WIDE, "light"), (WIDE, "dark"), (PHONE, "light"), (PHONE, "dark")]
)
async def test_every_page_fits_is_light_and_can_be_read_by_all(
    prefect_api: str, tmp_path: Path, width: int, theme: str
):
    axe = pytest.importorskip(
        "axe_playwright_python.async_playwright", reason="needs: pip install axe-playwright-python"
    ).Axe()
    ids = [await made_job(f"shown-{theme}-{width}-{n}") for n in range(2)]
    with_artifact(ids[0], tmp_path / "made")
    pair = "&".join(f"job={id}" for id in ids)
    async with serving(create_app(ServiceSettings())) as served, browsing() as browser:
        for id in ids:
            await with_curves(served, str(id))
        for path in (
            *("/jobs", "/new", f"/jobs/{ids[0]}", f"/compare?{pair}"),
            *("/queue", "/money", "/sign-in"),
        ):
            page = await browser.new_page(
                base_url=f"http://127.0.0.1:{served.port}",
                viewport={"width": width, "height": 900},
                color_scheme=theme,
            )
            said, loaded = told_by(page), []
            page.on("response", lambda one, loaded=loaded: loaded.append(one))
            await page.goto(path, wait_until="load")
            if "/jobs/" in path or "/compare" in path:
                await page.locator(".chart canvas").first.wait_for()
            found = (await axe.run(page)).response["violations"]
            # A live job's stream of events has no end.
            files = [one for one in loaded if one.request.resource_type != "eventsource"]
            sizes = await asyncio.gather(*(one.body() for one in files))

            assert [(one["id"], one["nodes"][0]["html"]) for one in found] == [], path
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert sum(map(len, sizes)) <= FIRST_LOAD, path
            assert {one.url.partition("/")[0] for one in loaded} == {"http:"}
            assert said == []
            await page.close()
