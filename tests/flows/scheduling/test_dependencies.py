"""Which jobs of a batch may start, which are held, and which can never start."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.scheduling.dependencies import (
    MAY_START,
    Clearance,
    Member,
    WantedEnd,
    after_of,
    as_label,
    verdicts,
)
from trainer.contract.job_directory import JobState

C, R, P, OK, F, S = (
    *(JobState.CREATED, JobState.RUNNING, JobState.PAUSED),
    *(JobState.COMPLETED, JobState.FAILED, JobState.STOPPED),
)


def job(name: str, state: JobState = C, after: str = "", why: str = "", *, stops: bool = False):
    return Member(id=name, name=name, state=state, after=after_of(after), why=why, stops=stops)


@pytest.mark.parametrize(
    ("before", "ending", "verdict"),
    [
        (job("a", OK), "ok", MAY_START),
        (job("a", OK), "any", MAY_START),
        (job("a", F), "any", MAY_START),
        (job("a", S), "any", MAY_START),
        (job("a", F), "failed", MAY_START),
        (job("a", S), "failed", MAY_START),
        (job("a", C), "ok", Clearance(held="comes after job a, which waits")),
        (job("a", R), "any", Clearance(held="comes after job a, which runs")),
        (job("a", P), "failed", Clearance(held="comes after job a, which is paused")),
        (
            job("a", F, why="OutOfMemory: too much."),
            "ok",
            Clearance(never="comes after job a, which failed (OutOfMemory: too much)"),
        ),
        (job("a", S), "ok", Clearance(never="comes after job a, which was stopped")),
        (
            job("a", OK),
            "failed",
            Clearance(never="comes after the failure of job a, which is completed"),
        ),
    ],
)
def test_a_job_starts_when_those_before_it_have_ended_as_it_needs(before, ending, verdict):
    assert verdicts([before, job("b", after=f"a:{ending}")])["b"] == verdict


def test_what_comes_after_a_job_that_can_never_start_ends_with_it_through_a_long_chain():
    chain = [job("0", F), *(job(str(n), after=f"{n - 1}:ok") for n in range(1, 1500))]

    found = verdicts([*reversed(chain), job("any", after="1499:any"), job("no", after="1:failed")])

    assert all(found[str(n)].never for n in range(1, 1500))
    assert found["2"].never.startswith(
        "comes after job 1, which can never start: it comes after job 0,"
    )
    assert found["any"] == found["no"] == MAY_START


def test_a_batch_that_stops_starts_nothing_more_but_what_clears_up():
    after_failure = [job("x", F), job("b", stops=True), job("c", stops=True, after="x:any")]

    found = verdicts([*after_failure, job("d", stops=True, after="b:any"), job("e")])

    assert found["b"].never == "job x failed, and its batch starts nothing more then"
    assert found["c"] == found["d"] == found["e"] == MAY_START


def test_a_circle_or_a_job_that_is_not_there_holds_and_ends_nothing():
    found = verdicts([job("a", after="b:ok"), job("b", after="a:ok"), job("c", after="gone:ok")])

    assert found["a"].held == "comes after job b, which waits"
    assert found["c"].held.startswith("comes after job gone, which Prefect does not have")
    assert not any(one.never for one in found.values())


def test_of_many_some_are_named():
    many = [job(f"j{n}", R) for n in range(9)]
    label = as_label({one.name: WantedEnd.OK for one in many})

    found = verdicts([*many, job("last", after=label)])

    assert (
        found["last"].held
        == "comes after job j0, which runs, job j1, which runs, job j2, which runs and 6 more"
    )


@pytest.mark.parametrize("label", ["a:ok,b:any", "", None, "nonsense", "a:perhaps", 5])
def test_a_label_reads_as_it_was_written_and_nonsense_holds(label):
    found = after_of(label)

    assert as_label(found) == label or found.keys() == {str(label)} or not label


ENDINGS = st.sampled_from(WantedEnd)
STATES = st.sampled_from(list(JobState))


@st.composite
def batches(draw) -> list[Member]:
    count = draw(st.integers(1, 8))
    found = []
    for n in range(count):
        before = (
            st.dictionaries(st.sampled_from([str(m) for m in range(n)]), ENDINGS)
            if n
            else st.just({})
        )
        found.append(
            Member(
                id=str(n),
                name=str(n),
                state=draw(STATES),
                after=draw(before),
                stops=draw(st.booleans()),
            )
        )
    return draw(st.permutations(found))


@given(batches())
def test_nothing_starts_before_what_it_comes_after_and_nothing_waits_for_ever(members):
    found = verdicts(members)
    by_name = {one.name: one for one in members}

    assert found.keys() == {one.id for one in members if one.state is C}
    for id, verdict in found.items():
        assert not (verdict.held and verdict.never)
        before = [by_name[name] for name in by_name[id].after]
        for name, ending in by_name[id].after.items():
            one = by_name[name]
            gone = one.id in found and found[one.id].never != ""
            if verdict == MAY_START:
                assert one.has_ended or (gone and ending is not WantedEnd.OK)
                assert ending is not WantedEnd.OK or one.state is OK
        if verdict.held:  # somebody before it still waits or works
            assert any(
                not b.has_ended and not (b.id in found and found[b.id].never) for b in before
            )
