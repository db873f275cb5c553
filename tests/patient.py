"""Requests to a Prefect server that all tests share, and whose SQLite is busy at times."""

from __future__ import annotations

import httpx

from tests.waiting import until_now


class PatientClient(httpx.Client):
    """A client of Prefect's API that repeats a request for as long as the answer is 503."""

    def __init__(self, url: str) -> None:
        super().__init__(base_url=url, timeout=240)

    def send(self, request: httpx.Request, **options: object) -> httpx.Response:
        def answer() -> httpx.Response | None:
            found = super(PatientClient, self).send(request, **options)  # type: ignore[arg-type]
            return None if found.status_code == 503 else found

        return until_now(answer)
