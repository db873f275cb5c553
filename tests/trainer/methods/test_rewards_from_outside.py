"""A sandboxed function and a judge in a training: it goes on, resumes exactly, and pays nothing twice."""

import hashlib
import shutil

import pytest

from tests.clouds.chat import KEY, MODEL, running_chat, said
from tests.trainer.jobs import PausesAfter
from trainer.contract.job_directory import Desired, JobState
from trainer.contract.manifest import verify

pytestmark = [
    pytest.mark.xdist_group("torch"),
    # PEFT 0.21 still reads old names of transformers'; the trainer's process says nothing of it.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning"),
]
CODE = """\
import os, random

def odd(completions, **columns):
    texts = [answer[0]["content"] for answer in completions]
    for text in texts:
        if len(text) % 5 == 0:
            os._exit(1)
    return [len(text) + random.random() for text in texts]
"""


@pytest.fixture
def judged_jobs(tmp_path, make_online, monkeypatch):
    """A maker of jobs, and the server that judges."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "mine.py").write_text(CODE)
    with running_chat() as server:

        def opinion(text):
            number = hashlib.sha256(text.encode()).digest()[0]
            return said("I had rather not." if number < 50 else f"Score: {number % 10}")

        server.judge = opinion

        def make(name):
            return make_online(
                tmp_path / name,
                method="rloo",
                max_steps=6,
                save_steps=2,
                per_device_train_batch_size=4,
                reward_functions=[f"{tmp_path}/mine.py:odd"],
                reward_sandbox={"timeout_seconds": 30},
                reward_judge={"base_url": server.base_url, "model": MODEL, "concurrency": 2},
            )

        yield make, server


@pytest.mark.thorough
def test_steps_that_are_trained_again_are_the_same_and_cost_nothing(judged_jobs, capfd):
    make, server = judged_jobs
    whole, torn = make("whole"), make("torn")
    assert whole.train() is JobState.COMPLETED
    printed, asked = capfd.readouterr().out, len(server.asked)

    assert torn.train(PausesAfter(torn.directory, 4)) is JobState.PAUSED
    shutil.rmtree(torn.checkpoint(4))  # as if it had died before it was saved
    torn.directory.request(Desired.RUN)
    server.asked.clear()
    assert torn.train() is JobState.COMPLETED

    assert torn.curve == whole.curve
    assert torn.weights == whole.weights
    found = [verify(job.directory.output)["training"]["rewards"] for job in (whole, torn)]
    assert found[1]["judge: calls"] == found[0]["judge: calls"] == asked
    assert len(server.asked) < asked
    refused = f"no score: the judge {MODEL}: its reply held no score"
    died = "no score: mine.py:odd: ended its process (exit code 1)"
    for name in (refused, died):
        assert found[0][name] == found[1][name] > 0
    assert f"answers got no score by {died.removeprefix('no score: ')}." in printed
    card = (whole.directory.output / "README.md").read_text()
    assert f"| judge | {asked} calls, " in card
    assert KEY not in printed + card + "".join(
        path.read_text(errors="replace")
        for path in whole.directory.root.rglob("*")
        if path.is_file()
    )
