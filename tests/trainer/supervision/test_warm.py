"""Whom a warm process serves: those who would get the same by starting anew."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from trainer.supervision import warm
from trainer.training import warm_process


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("HF_TOKEN", True),  # read when it is needed, and different from job to job
        ("CUDA_VISIBLE_DEVICES", True),
        ("TRAINING_ORCHESTRATOR_HOME", True),
        ("HF_HUB_OFFLINE", False),  # read by an import
        ("OMP_NUM_THREADS", False),
        ("ANYTHING_ELSE", False),
    ],
)
def test_only_what_is_read_late_may_differ(name, is_one, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(name, raising=False)
    before = warm.fingerprint()

    monkeypatch.setenv(name, "1")

    assert (warm.fingerprint() == before) is is_one


def test_changed_code_has_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = tmp_path / "trainer"
    code.mkdir()
    (code / "__init__.py").touch()
    monkeypatch.setattr(warm.trainer, "__file__", str(code / "__init__.py"))
    before = warm.fingerprint()
    (code / "new.py").write_text("x = 1\n")
    changed = warm.fingerprint()

    assert len({before, changed, warm.fingerprint()}) == 2


def test_there_is_none_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    for value in ("", "0", "soon"):
        monkeypatch.setenv(warm.SECONDS, value)

        assert warm.serve_warmly(["--detach", "/nowhere"]) is None


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(warm, "MEMORY", tmp_path)
    monkeypatch.setenv(warm.SECONDS, "60")
    return warm.runtime_folder()


def test_without_memory_none_is_started(memory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(warm, "free_gb", lambda: warm.LEAST_FREE_GB - 0.1)

    assert warm.serve_warmly(["--detach", "/nowhere"]) is None
    assert not list(memory.glob("*.socket"))


def test_of_too_many_the_one_that_served_longest_ago_ends(
    memory: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(warm, "_start", lambda *_: False)
    for n in range(warm.MOST):
        (memory / f"{n}.socket").touch()
        os.utime(memory / f"{n}.socket", (n, n))

    assert warm.serve_warmly(["--detach", "/nowhere"]) is None
    assert {path.name for path in memory.glob("*.socket")} == {"1.socket"}


def test_a_warm_process_that_hangs_is_done_without(monkeypatch: pytest.MonkeyPatch):
    # The path of a socket is short.
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX) as hanging,
    ):
        monkeypatch.setattr(warm, "MEMORY", Path(folder))
        monkeypatch.setattr(warm, "ANSWER_SECONDS", 0.2)
        monkeypatch.setenv(warm.SECONDS, "60")
        hanging.bind(str(warm.runtime_folder() / f"{warm.fingerprint()}.socket"))
        hanging.listen()

        assert warm.serve_warmly(["--detach", "/nowhere"]) is None


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(warm, "MEMORY", tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (tmp_path / "training-orchestrator-12345").mkdir()

    with pytest.raises(PermissionError, match="belongs to somebody else"):
        warm.runtime_folder()


def test_no_secret_stays_in_a_warm_process_or_decides_whom_it_serves(monkeypatch):
    before = warm.fingerprint()
    for name in ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "JUDGE_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, "canary")
    assert warm.fingerprint() == before
    assert not [
        name for name in os.environ if warm.is_secret(name) and not warm._is_read_late(name)
    ]


def test_a_package_that_is_installed_anew_in_the_same_version_is_noticed(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "some-1.0.dist-info"
    package.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(package.parent))
    before = warm.code_facts()
    os.utime(package, (1, 1))
    assert warm.code_facts() != before


def test_one_that_may_not_fork_here_is_not_tried_by_every_job(memory: Path, monkeypatch):
    started = []

    class Process:
        def __init__(self, *_: object, **__: object) -> None:
            started.append(1)

    monkeypatch.setattr(warm.subprocess, "Popen", Process)  # it ends without a word
    monkeypatch.setattr(warm, "free_gb", lambda: 64.0)
    for _ in range(3):
        assert warm.serve_warmly(["--detach", "/nowhere"]) is None
    assert started == [1]
    for mark in memory.glob("*.refused"):
        os.utime(mark, (1, 1))
    assert warm.serve_warmly(["--detach", "/nowhere"]) is None
    assert started == [1, 1]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_whoever_may_do_less_is_not_served_by_one_that_may_do_more():
    show = (sys.executable, "-c", "from trainer.supervision import warm; print(warm.fingerprint())")
    free, confined = (
        subprocess.run([*before, *show], capture_output=True, text=True, check=True).stdout
        for before in ([], ["setpriv", "--no-new-privs"])
    )
    assert free != confined


def test_a_request_whose_sender_waits_no_longer_is_carried_out_by_nobody():
    asking, asked = socket.socketpair()
    with asked:
        with asking:
            assert not warm_process._has_hung_up(asked)
        assert warm_process._has_hung_up(asked)
