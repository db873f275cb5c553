"""A reward function in a process of its own: whatever it does, the trainer goes on."""

import os
import time
from pathlib import Path

import psutil
import pytest

from trainer.config import SandboxConfig
from trainer.contract.errors import CodeError
from trainer.rewards.counts import Counts, sentences
from trainer.rewards.sandbox import Sandbox

LONG = 3600
CODE = f"""\
import os, random, signal, subprocess, sys, time

KEPT = []

def score(completions, prompts, answer):
    found = []
    for text in completions:
        if text == "hang": time.sleep({LONG})
        if text == "exit": os._exit(3)
        if text == "leave": sys.exit(0)
        if text == "abort": os.kill(os.getpid(), signal.SIGSEGV)
        if text == "eat": KEPT.append(bytearray(3 << 30))
        if text == "raise": raise KeyError("nothing")
        if text == "nonsense": return [1]
        if text == "draw": found.append(random.random()); continue
        if text == "pid": found.append(os.getpid()); continue
        if text == "child": found.append(subprocess.Popen(["sleep", "{LONG}"]).pid); continue
        if text == "orphan": subprocess.Popen(["sleep", "{LONG}"]); os._exit(4)
        if text == "silence":
            os.closerange(0, 100); time.sleep({LONG})
        if text == "mess":
            print("noise " * 10); os.chdir("/"); sys.stdout = None; random.seed(1)
        found.append(None if text == "none" else len(text))
    return found
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("code") / "mine.py"
    path.write_text(CODE)
    return path


@pytest.fixture(scope="module")
def sandbox(path):
    made = Sandbox(f"{path}:score", SandboxConfig(timeout_seconds=0.3, memory_gb=2), Counts())
    yield made
    made._end()


def scores(sandbox, *answers, **further):
    columns = {"prompts": ["?"] * len(answers), "answer": [None] * len(answers)}
    return sandbox(completions=list(answers), **columns, **further, trainer_state=object())


def test_a_function_scores_as_it_does_without_a_sandbox(sandbox):
    assert scores(sandbox, "a", "none", "bcd", other=[1, 2, 3]) == [1.0, None, 3.0]
    assert sandbox.__name__ == "score"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("hang", "took longer than 0.3 s"),
        ("exit", r"ended its process (exit code 3)"),
        pytest.param("leave", r"ended its process (exit code 0)", marks=pytest.mark.thorough),
        pytest.param("abort", "was ended by SIGSEGV", marks=pytest.mark.thorough),
        ("eat", "needed more than 2 GiB of memory"),
        pytest.param("orphan", r"ended its process (exit code 4)", marks=pytest.mark.thorough),
        pytest.param("silence", "closed its connection", marks=pytest.mark.thorough),
    ],
)
def test_an_answer_at_which_it_hangs_or_crashes_gets_no_score(sandbox, capsys, answer, why):
    sandbox._counts.by_name.clear()

    assert scores(sandbox, "ab", answer, "abc") == [2.0, None, 3.0]

    assert sentences(sandbox._counts.by_name) == [f"1 answer got no score by mine.py:score: {why}."]
    assert capsys.readouterr().out.count(why) == 1


@pytest.mark.thorough
def test_what_happens_again_is_counted_and_not_said_again(sandbox, capsys):
    sandbox._counts.by_name.clear()
    scores(sandbox, "a", "exit")
    capsys.readouterr()

    assert scores(sandbox, "a", "exit", "exit") == [1.0, None, None]

    assert "ended its process" not in capsys.readouterr().out
    assert sentences(sandbox._counts.by_name)[0].startswith("3 answers")


def test_errors_and_nonsense_are_errors_here_too(sandbox):
    with pytest.raises(CodeError, match=r"mine\.py, line \d+, in score: KeyError: 'nothing'\."):
        scores(sandbox, "a", "raise")
    with pytest.raises(CodeError, match="returned 1 rewards for 2 completions"):
        scores(sandbox, "a", "nonsense")
    assert scores(sandbox, "a") == [1.0]


def test_what_it_does_to_its_process_stays_there(sandbox):
    here, environment = Path.cwd(), dict(os.environ)

    assert scores(sandbox, "mess") == [4.0]

    assert (Path.cwd(), dict(os.environ)) == (here, environment)
    assert scores(sandbox, "a") == [1.0]


def test_what_is_drawn_depends_on_the_answers_alone(path, sandbox):
    drawn = scores(sandbox, "draw", "draw")
    scores(sandbox, "draw")
    other = Sandbox(f"{path}:score", SandboxConfig(), Counts())

    assert scores(sandbox, "draw", "draw") == scores(other, "draw", "draw") == drawn
    assert drawn[0] != drawn[1] != scores(sandbox, "draw", "a", "draw")[0]


def test_its_process_and_what_that_has_started_end_with_it(path):
    sandbox = Sandbox(f"{path}:score", SandboxConfig(), Counts())
    pids = [int(pid) for pid in scores(sandbox, "pid", "child")]
    assert all(map(psutil.pid_exists, pids))

    del sandbox  # as when a training is over

    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.thorough
def test_a_function_that_scores_nothing_ends_the_job(path, sandbox):
    broken = Sandbox(f"{path}:score", SandboxConfig(timeout_seconds=0.2), Counts())
    with pytest.raises(
        CodeError, match=r"score in .*mine\.py scored none of 1 answers: it took lon"
    ):
        scores(broken, "hang")

    scores(sandbox, "a")
    assert [scores(sandbox, "exit") for _ in "12"] == [[None], [None]]
    with pytest.raises(CodeError, match="scored none of 1 answers"):
        scores(sandbox, "exit")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("1 / 0", r"mine\.py, line 1: ZeroDivisionError|line 1, in <module>: ZeroDivisionError"),
        ("import os; os._exit(5)", r"cannot be loaded in the sandbox: the process ended .*code 5"),
        ("other = 1", "has no function or class 'score'"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_an_error_before_training(tmp_path, body, problem):
    (tmp_path / "mine.py").write_text(body)

    with pytest.raises((CodeError, Exception), match=problem):
        Sandbox(f"{tmp_path}/mine.py:score", SandboxConfig(), Counts())
