"""On the provider's notice a training saves at once, and goes on."""

import subprocess

import pytest

from tests.trainer.jobs import Job
from tests.trainer.supervised import ENVIRONMENT, command
from tests.waiting import PATIENCE
from trainer.contract.job_directory import JobState
from trainer.engine.control import ControlReader

pytestmark = pytest.mark.xdist_group("torch")


class NoticedAfter(ControlReader):
    """Hears of the notice when a given number of steps was made."""

    def __init__(self, job: Job, steps: int) -> None:
        super().__init__(job.directory)
        self._asked = 0
        self._steps = steps
        self._file = job.directory.notice

    def has_new_notice(self) -> bool:
        self._asked += 1
        if self._asked == self._steps:
            self._file.write_text("{}")
        return super().has_new_notice()


def test_a_checkpoint_is_saved_once_at_the_step_under_way(make_job, tmp_path):
    job = make_job(tmp_path / "job", save_steps=100, save_total_limit=5)

    assert job.train(NoticedAfter(job, 3)) is JobState.COMPLETED

    assert sorted(job.saved_steps) == [3, 8]


@pytest.mark.thorough
def test_a_real_trainer_saves_when_the_providers_line_ends_well(make_job, tmp_path):
    job = make_job(tmp_path / "job", max_steps=200, save_steps=1000, save_total_limit=5)
    status = job.directory.status
    line = f"until grep -Eq '\"step\": [1-9]' {status}; do sleep 0.05; done"
    job.write(config=job.config, notice=line)

    done = subprocess.run(
        command(job.directory.root), env=ENVIRONMENT, capture_output=True, timeout=PATIENCE * 2
    )

    assert done.returncode == 0, done.stderr
    first = min(job.saved_steps)
    assert 0 < first < 200
    saved = [event for event in job.events if event.kind == "saved" and event.step == first]
    [notice] = [event for event in job.events if event.kind == "notice"]
    assert saved
    assert notice.at < saved[0].at
