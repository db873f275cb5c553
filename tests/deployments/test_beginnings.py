"""Only a few runs begin at a time."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

from blocks.home import runs
from deployments import beginnings
from deployments.beginnings import AT_ONCE, FEW, Beginnings
from tests.waiting import until


def has_begun(id: UUID) -> None:
    folder = runs() / str(id)
    folder.mkdir()
    (folder / "train.log").touch()


async def test_more_may_begin_once_few_do(home: Path, monkeypatch):
    monkeypatch.setattr(beginnings, "AGAIN_SECONDS", 0.01)
    known, rung = Beginnings(), list[bool]()
    wait = [uuid4() for _ in range(2 * AT_ONCE)]
    begun = known.few(wait, lambda: rung.append(known.is_full))
    assert begun == wait[:AT_ONCE]
    for id in begun:
        known.note(id)
    assert known.is_full
    for id in begun[: FEW - 1]:
        has_begun(id)
    assert known.is_full
    assert not rung

    has_begun(begun[FEW - 1])

    assert await until(lambda: rung) == [False]
    assert known.few(wait[AT_ONCE:], lambda: None) == wait[AT_ONCE : AT_ONCE + FEW]


def test_who_waits_for_something_else_than_prefect_lets_others_begin(home: Path, monkeypatch):
    monkeypatch.setattr(beginnings, "BEGIN_SECONDS", -1.0)
    known = Beginnings()
    for _ in range(AT_ONCE):
        known.note(uuid4())

    assert not known.is_full
