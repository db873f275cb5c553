import os
from uuid import uuid4

import pytest

from blocks.home import home
from blocks.marks import Mark, installation_id, ours, read_mark, run_prefix
from trainer.contract.errors import ConfigError


def test_the_mark_of_a_runs_machine_says_its_run_and_attempt():
    run_id = uuid4()

    text = str(Mark.of_run(run_id, 12))

    assert text.startswith(run_prefix(run_id))
    assert len(text) <= 60
    assert (ours(text).run_id, ours(text).attempt, ours(text).rank) == (run_id, 12, 0)


def test_the_mark_of_a_machine_beside_the_first_says_its_rank():
    mark = Mark.of_run(uuid4(), 9999, 127)

    assert str(mark).startswith(str(Mark.of_run(mark.run_id, 9999)))
    assert len(str(mark)) <= 60
    assert ours(str(mark)) == mark


def test_the_mark_of_a_kept_machine_says_until_when_and_what_it_is():
    mark = Mark.kept(1_700_000_000.9, "0badcafe")

    assert ours(str(mark)) == mark
    assert (mark.run_id, mark.kept_until, mark.shape) == (None, 1_700_000_000, "0badcafe")


def test_the_installation_is_named_once():
    assert installation_id() == installation_id()


def drawn_by(count: int) -> set[str]:
    """Return the ids that processes get that ask at the same moment."""
    (wait, start), (answers, answer) = os.pipe(), os.pipe()
    children = []
    for _ in range(count):
        if not (child := os.fork()):
            try:
                os.read(wait, 1)
                os.write(answer, installation_id().ljust(8, "?").encode())
            finally:
                os._exit(0)  # nothing of the tests may run twice
        children.append(child)
    os.close(answer)
    os.write(start, b"x" * count)
    ids = {os.read(answers, 8).decode() for _ in range(count)}
    for descriptor in (wait, start, answers):
        os.close(descriptor)
    for child in children:
        os.waitpid(child, 0)
    return ids


@pytest.mark.fault(63, "two first processes of a home")
@pytest.mark.parametrize("_", range(20))
@pytest.mark.thorough
def test_processes_that_come_first_at_the_same_time_get_the_same_id(_):
    assert drawn_by(4) == {installation_id()}


@pytest.mark.parametrize("content", ["", "\n", "0badcaf", "0badcafe0", "installation"])
def test_a_damaged_installation_is_named_and_never_replaced(content):
    path = home() / "installation"
    path.write_text(content)

    with pytest.raises(ConfigError, match=r"installation holds .* remove the file"):
        Mark.of_run(uuid4(), 1)
    assert path.read_text() == content


def test_machines_of_another_installation_are_not_ours():
    mark = Mark.of_run(uuid4(), 1)

    (home() / "installation").write_text("00000000")

    assert ours(str(mark)) is None
    assert read_mark(str(mark)) == mark


@pytest.mark.parametrize("text", ["", "to", "to-x", "web", "to-{id}-1", "x-to-{id}-{run}-1"])
def test_texts_that_only_look_like_ours_are_no_marks(text):
    assert ours(text.format(id=installation_id(), run=uuid4().hex)) is None


@pytest.mark.parametrize("added", ["-copy", "\n", "-0", "-1-1"])
def test_what_is_added_to_one_of_our_marks_makes_it_somebody_elses(added):
    assert ours(f"{Mark.of_run(uuid4(), 1)}{added}") is None
