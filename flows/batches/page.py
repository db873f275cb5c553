"""The page of a batch: how many jobs are where, when each waited and ran, and why one waits or failed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from flows.batches.gantt import Line, gantt
from flows.batches.members import BatchRun, is_skipped, member
from flows.scheduling.dependencies import Clearance, Member, WantedEnd, verdicts
from flows.shown import short_id
from flows.streaming.chart import data_uri
from trainer.contract.job_directory import JobState
from trainer.contract.words import NOTHING, duration
from trainer.results.markdown import cell, code

LINK = re.compile(r"[\[\]<>`]")
ORDER = ("running", "waiting", "paused", "failed", "stopped", "skipped", "completed")
HEAD = ("job", "state", "after", "waited", "took", "")
PAGE_STYLE = """:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:920px;padding:0 1rem;
color:#27272a;background:#fafafa}h1{font-size:1.4rem;margin:0}p{color:#71717a;margin:.25rem 0 1rem}
svg{max-width:100%;height:auto}table{border-collapse:collapse;width:100%;margin-top:1rem;font-size:14px}
th,td{text-align:left;padding:.4rem .6rem;border-bottom:1px solid #e4e4e7;vertical-align:top}
th{color:#71717a;font-weight:500}td.time{font-variant-numeric:tabular-nums;white-space:nowrap}
a{color:inherit}.scroll{overflow-x:auto}
@media (prefers-color-scheme:dark){body{color:#e4e4e7;background:#09090b}th,td{border-color:#27272a}
p,th{color:#a1a1aa}}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job of a batch as its page shows it."""

    id: str
    name: str
    word: str
    """Its state in a word: one of `ORDER`."""
    after: Mapping[str, WantedEnd]
    line: Line
    text: str
    """Why it waits, or why it ended as it did."""


def rows(runs: Sequence[BatchRun], now: datetime) -> list[JobRow]:
    """Return the rows of a page.

    Args:
        runs: all runs of the batch, in the order of the page.
        now: the time.
    """
    members = [member(run, run.labels) for run in runs]
    found = verdicts(members)
    return [
        JobRow(
            id=one.id,
            name=one.name,
            word=(word := word_of(run, one)),
            after=one.after,
            line=_line(run, one, now, word),
            text=_text(run, one, found.get(one.id)),
        )
        for run, one in zip(runs, members, strict=True)
    ]


def word_of(run: BatchRun, one: Member) -> str:
    """Return a job's state in a word."""
    if is_skipped(run):
        return "skipped"
    words = {JobState.CREATED: "waiting", JobState.INITIALIZING: "running"}
    return words.get(one.state, str(one.state))


def summary(found: Sequence[JobRow]) -> str:
    """Return how many jobs are where: `2 running, 1 waiting, 5 completed`."""
    counts = Counter(row.word for row in found)
    return ", ".join(f"{counts[word]} {word}" for word in ORDER if counts[word])


def picture(found: Sequence[JobRow], now: datetime) -> str:
    """Return the batch as an SVG picture."""
    return gantt([row.line for row in found], now)


def markdown(batch: str, found: Sequence[JobRow], now: datetime) -> str:
    """Return the page for an artifact of Prefect's."""
    lines = [
        f"**{code(batch)}**: {summary(found)}, by {now:%Y-%m-%d %H:%M:%S} UTC",
        "",
        f"![when each job waited and ran]({data_uri(picture(found, now))})",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{' --- |' * len(HEAD)}",
    ]
    for row in found:
        # Prefect shows no code in the text of a link; a name of anybody's could end the link.
        linked = f"[{LINK.sub(' ', cell(row.name))}](/runs/flow-run/{row.id})"
        cells = [linked, row.word, cell(_after(row)), *_times(row, now), cell(row.text)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def html(batch: str, found: Sequence[JobRow], now: datetime, link: Mapping[str, str]) -> str:
    """Return the page as a file of its own, which needs nothing else.

    Args:
        batch: its name.
        found: the rows.
        now: the time.
        link: the address of each run in Prefect's UI, by id; one without has no link.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in HEAD)
    body = "".join(_html_row(row, now, link.get(row.id, "")) for row in found)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>batch {escape(batch)}</title><style>{PAGE_STYLE}</style></head><body>"
        f"<h1>{escape(batch)}</h1><p>{escape(summary(found))}, by {now:%Y-%m-%d %H:%M:%S} UTC</p>"
        f'{picture(found, now)}<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></body></html>\n"
    )


def _html_row(row: JobRow, now: datetime, link: str) -> str:
    name = escape(row.name)
    shown = f'<a href="{escape(link, quote=True)}">{name}</a>' if link else name
    waited, took = _times(row, now)
    return (
        f'<tr><td title="{short_id(row.id)}">{shown}</td><td>{row.word}</td><td>{escape(_after(row))}</td>'
        f'<td class="time">{waited}</td><td class="time">{took}</td><td>{escape(row.text)}</td></tr>'
    )


def _after(row: JobRow) -> str:
    return ", ".join(
        name if ending is WantedEnd.OK else f"{name} ({ending})"
        for name, ending in row.after.items()
    )


def _times(row: JobRow, now: datetime) -> tuple[str, str]:
    """Return how long a job waited, and how long it took from its beginning on."""
    line = row.line
    began = line.began or line.until(now)
    waited = duration((began - line.submitted).total_seconds())
    took = duration((line.until(now) - began).total_seconds()) if line.began else NOTHING
    return waited, took


def _line(run: BatchRun, one: Member, now: datetime, word: str) -> Line:
    ended = run.end_time
    if one.state is JobState.PAUSED and run.state is not None:
        ended = run.state.timestamp
    return Line(
        name=one.name,
        state=one.state,
        submitted=run.created or now,
        began=run.start_time,
        ended=ended,
        after=tuple(one.after),
        word=word,
    )


def _text(run: BatchRun, one: Member, verdict: Clearance | None) -> str:
    if verdict and (verdict.held or verdict.never):
        return verdict.held or verdict.never
    message = (run.state.message if run.state else None) or ""
    return message if one.state in {JobState.FAILED, JobState.STOPPED, JobState.CREATED} else ""
