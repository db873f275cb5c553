"""The place of the result: whatever is not ours there is never removed."""

from __future__ import annotations

import os
from uuid import uuid4

import pytest

from flows.artifact_folder import check_artifact_folder
from flows.run_folder import RunFolder, newest
from trainer.contract.errors import ConfigError
from trainer.contract.manifest import MANIFEST


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(ConfigError, match="does not hold an artifact"):
        check_artifact_folder(tmp_path)

    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_absent_an_empty_and_an_own_folder_are_taken(tmp_path):
    own = tmp_path / "own"
    own.mkdir()

    check_artifact_folder(tmp_path / "new" / "place")
    check_artifact_folder(own)
    (own / MANIFEST).write_text("{}")
    check_artifact_folder(own)

    assert [path.name for path in own.iterdir()] == [MANIFEST]


def test_the_newest_are_those_whose_file_is_there_and_was_written_last(home):
    runs = [RunFolder(uuid4()) for _ in range(4)]
    for age, run in enumerate(runs[:3]):
        run.report.write_text("{}")
        os.utime(run.report, (1000 - age, 1000 - age))

    found = newest(runs, 2, lambda run: run.report)

    assert found == runs[:2]
