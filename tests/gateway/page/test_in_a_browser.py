"""The page in a real browser: nothing is refused by its policy, it fits a phone, its buttons work."""

from __future__ import annotations

import shutil

import pytest

from tests.gateway.page.conftest import made_job
from tests.gateway.streams.conftest import serving

CHROMIUM = shutil.which("chromium")
PHONE, WIDE = 390, 1280


@pytest.mark.thorough
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")
async def test_watch_compare_and_cancel(prefect_api: str):
    api = pytest.importorskip("playwright.async_api", reason="needs: pip install playwright")
    ids = [await made_job(f"browser-{n}") for n in range(2)]
    async with serving() as served, api.async_playwright() as playwright:
        for id in ids:
            records = [{"step": n, "train_loss": 4 / n} for n in range(1, 50)]
            await served.store.append(str(id), records)
        base = f"http://127.0.0.1:{served.port}"
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        said: list[str] = []
        for width, theme in ((WIDE, "light"), (WIDE, "dark"), (PHONE, "dark")):
            page = await browser.new_page(
                viewport={"width": width, "height": 900}, color_scheme=theme
            )
            # What the policy refuses is told there, and nowhere else.
            page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda error: said.append(str(error)))
            for path in ("/jobs", f"/jobs/{ids[0]}", "/queue", "/money", "/sign-in"):
                await page.goto(base + path)
                assert await page.evaluate("document.documentElement.scrollWidth") <= width, path
            await page.close()
        page = await browser.new_page()
        await page.goto(f"{base}/jobs?text=browser-")
        for box in await page.locator('input[name="job"]').all():
            await box.check()
        await page.click("#compare")
        await page.locator(".chart canvas").first.wait_for()
        assert await page.inner_text("h1") == "Compare 2 jobs"
        await page.goto(f"{base}/jobs/{ids[0]}")
        await page.click("text=Cancel")
        await page.get_by_text("stopped").or_(page.get_by_text("stopping")).first.wait_for()
        assert said == []
        await browser.close()
