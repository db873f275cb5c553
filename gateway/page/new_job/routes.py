"""The addresses of the form of a new job."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Request
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from gateway.page import looking
from gateway.page.new_job import deeds
from gateway.page.new_job.draft import Draft, merged
from gateway.page.new_job.fields import parts
from gateway.page.rendering import TEMPLATES, PageRoute, html
from gateway.prefect.client import connected
from gateway.rest.configured import Settings
from gateway.rest.gatekeeper import only_looked
from gateway.rest.guards import Submitter
from gateway.rest.prefect_link import Prefect
from trainer.config import TrainingJob
from trainer.config.explain import Fault
from trainer.contract.errors import ConfigError, OrchestratorError

router = APIRouter(route_class=PageRoute, include_in_schema=False)
FIELD = "f."
"""How the names of the fields begin in what the form sends."""
MISSING = " is missing"


@router.get("/new")
def new_job(request: Request, caller: Submitter, like: UUID | None = None) -> Response:
    """Show the form: empty, or filled in as an earlier job was."""
    text = ""
    if like is not None:
        text = _text_of(looking.find(connected(), caller, str(like)).parameters.get("job") or {})
    return html(
        request,
        "new_job.html",
        title="New job",
        parts=parts(),
        yaml=text,
        filled=Draft(text).filled_in(),
        form=str(uuid4()),
    )


def _text_of(asked: dict[str, Any]) -> str:
    """Return a job as a job file, without what it would be anyway."""
    try:
        job = TrainingJob.model_validate(asked)
        short = job.model_dump(mode="json", exclude_defaults=True)
        is_same = TrainingJob.model_validate(short) == job
    except ValidationError:  # of another version, or of a kind that is named by a default
        is_same = False
    return looking.as_yaml(short if is_same else asked)


async def _sent(request: Request) -> dict[str, str]:
    text = (await request.body()).decode("utf-8", "replace")
    return dict(parse_qsl(text, keep_blank_values=True))


Sent = Annotated[dict[str, str], Depends(_sent)]


@router.post("/new/{deed}")
async def act(
    request: Request,
    caller: Submitter,
    prefect: Prefect,
    settings: Settings,
    sent: Sent,
    deed: Literal["write", "validate", "estimate", "offers", "submit"],
) -> Response:
    """Bring YAML and fields together, and do what a button says; all that was written comes back."""
    given = {name.removeprefix(FIELD): text for name, text in sent.items() if FIELD in name[:2]}
    if deed != "submit":
        only_looked(request)
    try:
        draft, faults = merged(sent.get("yaml", ""), sent.get("before", ""), given)
    except ConfigError as error:
        return JSONResponse({"yaml_fault": str(error)})
    answer: dict[str, Any] = {"yaml": draft.text, "fields": draft.filled_in()}
    faults += deeds.mistakes(draft)
    if deed == "write":
        # Nobody has come to the empty ones yet.
        return _answer(answer, [one for one in faults if not one.text.endswith(MISSING)])
    if faults:
        return _answer(answer, faults, deeds.Outcome())
    try:
        if deed == "submit":
            outcome = await asyncio.to_thread(deeds.check_for_worker, draft)
            if not outcome.faults:
                run = await deeds.submit(
                    prefect, caller, draft, sent.get("form", ""), settings.deployments
                )
                return JSONResponse({**answer, "go": f"/jobs/{run.id}"})
        elif deed == "offers":
            outcome = await asyncio.to_thread(deeds.ask_offers, draft)
        else:
            outcome = await asyncio.to_thread(deeds.look, draft, estimate=deed == "estimate")
    except OrchestratorError as error:
        return _answer(answer, [deeds.fault_of(error)], deeds.Outcome())
    return _answer(answer, outcome.faults, outcome)


def _answer(
    answer: dict[str, Any], faults: list[Fault], outcome: deeds.Outcome | None = None
) -> Response:
    placed: dict[str, str] = {}
    for fault in faults:
        placed[fault.place] = (
            f"{placed[fault.place]}; {fault.text}" if fault.place in placed else fault.text
        )
    shown = (
        TEMPLATES.get_template("outcome.html").render(outcome=outcome, faults=faults)
        if outcome
        else ""
    )
    return JSONResponse({**answer, "faults": placed, "outcome": shown})
