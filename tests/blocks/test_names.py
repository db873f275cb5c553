from uuid import uuid4

import pytest

from blocks.home import home
from blocks.names import installation_id, kept_name, ours, run_name, run_prefix


def test_a_runs_machine_tells_its_run_and_attempt():
    run_id = uuid4()

    name = run_name(run_id, 12)

    assert name.startswith(run_prefix(run_id))
    assert len(name) <= 60
    assert (ours(name).run_id, ours(name).attempt) == (run_id, 12)


def test_a_machine_beside_the_first_tells_its_rank():
    run_id = uuid4()

    name = run_name(run_id, 9999, 127)

    assert name.startswith(run_name(run_id, 9999))
    assert len(name) <= 60
    assert (ours(name).run_id, ours(name).attempt, ours(name).node) == (run_id, 9999, 127)
    assert ours(run_name(run_id, 1)).node == 0


def test_a_kept_machine_tells_until_when_and_what_it_is():
    kept = ours(kept_name(1_700_000_000.9, "0badcafe"))

    assert (kept.run_id, kept.kept_until, kept.shape) == (None, 1_700_000_000, "0badcafe")


def test_the_installation_is_named_once():
    assert installation_id() == installation_id()


def test_machines_of_another_installation_are_not_ours():
    name = run_name(uuid4(), 1)

    (home() / "installation").write_text("00000000")

    assert ours(name) is None


@pytest.mark.parametrize("name", ["", "to", "to-x", "web", "to-{id}-1", "x-to-{id}-{run}-1"])
def test_names_that_only_look_like_ours_are_not(name):
    assert ours(name.format(id=installation_id(), run=uuid4().hex)) is None


def test_what_is_added_to_one_of_our_names_makes_it_somebody_elses():
    assert ours(run_name(uuid4(), 1) + "-copy") is None
    assert ours(run_name(uuid4(), 1) + "\n") is None
    assert ours(run_name(uuid4(), 1) + "-0") is None
    assert ours(run_name(uuid4(), 1, 1) + "-1") is None
