"""A mistake is one line on standard error and an exit code, before anything starts."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from gateway.cli import main
from gateway.exits import ApiUnreachable, Exit, code_of_error, code_of_state, reported
from tests.gateway.commanding import EXAMPLES, call_trainctl, job_file
from trainer.contract.errors import ConfigError, DataError, DiskFull, OrchestratorError
from trainer.contract.job_directory import JobState


def _complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    return int(leaving.value.code or 0), captured.err


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"max_stepps": 3}, r"training.max_stepps is not a field; did you mean max_steps?"),
        ({"learning_rate": -3}, "training.learning_rate = -3: must be greater than 0"),
        ({"model": "./none"}, "none is not a folder"),
        ({"dataset": "./none.jsonl"}, "none.jsonl': there is no such file or folder"),
        ({"method": "dpoo"}, "dpoo"),
        ({"init": "random", "peft": {}}, "set peft: null"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_starts(
    training: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = job_file(tmp_path, **training)

    code, error = _complaint(["run", str(path)], capsys)

    assert code == Exit.BAD_INPUT
    assert message in error
    assert error.count("\n") == 1


def test_automations_that_are_not_there_are_named_before_anything_is_deployed(
    capsys: pytest.CaptureFixture[str],
):
    code, error = _complaint(["deploy", "--automations", "nosuch"], capsys)

    assert code == Exit.BAD_INPUT
    assert error.startswith("error: --automations = 'nosuch': there is no such file")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "status x",
        "logs x",
        "cancel x",
        "download x",
        "monitor x",
        "run FILE",
        "submit FILE",
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_an_address_without_api_is_said_by_every_command(
    slash: str,
    command: str,
    prefect_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    root = prefect_server.removesuffix("/api")
    monkeypatch.setenv("PREFECT_API_URL", root + slash)
    words = command.replace("FILE", str(job_file(tmp_path))).split()

    with pytest.raises(SystemExit) as leaving:
        main(words)

    assert leaving.value.code == Exit.UNREACHABLE
    assert capfd.readouterr().err.splitlines()[-1] == (
        f"error: What answers at {root} is not Prefect's API. "
        f"Correct PREFECT_API_URL; of a Prefect server it ends in /api: {root}/api."
    )


def test_a_bad_row_is_named_by_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = tmp_path / "rows.jsonl"
    good = (EXAMPLES / "quickstart.jsonl").read_text().splitlines()[0]
    rows.write_text(f'{good}\n{{"messages": []}}\n')
    path = job_file(tmp_path, dataset=str(rows))

    code, error = _complaint(["run", str(path)], capsys)

    assert code == Exit.BAD_INPUT
    assert "rows.jsonl:2" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "absent.yaml"], "absent.yaml: No such file"),
        (["run"], "Missing argument 'FILE'"),
        (["runn"], "No such command 'runn'"),
        (["list", "--state", "sleeping"], "sleeping"),
        (["list", "--limit", "0"], "'--limit'"),
        (["list", "--limt", "3"], "Possible options: --limit) See: trainctl list --help"),
        (["lst"], "Did you mean 'list'?"),
        (["server", "strat"], "Did you mean 'start'"),
        (["submit", "job.yaml", "--priority", "urgent"], "high, default, low"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    code, error = _complaint(arguments, capsys)

    assert code == Exit.BAD_INPUT
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"a\0b", "this is not valid YAML"),
        (b"\x89PNG\r\n\xff", "is not UTF-8"),
        (b"[" * 1000, "is nested too deeply"),
        (b"name: 2024-13-45\n", "a value in it cannot be read"),
        (b"x: " + b"1" * 5000, "a value in it cannot be read"),
        (b"? [a]\n: b\n", "must be strings"),
        (b"- a\n", "not a mapping"),
        (b"a: b: c\n", "line 1: this is not valid YAML"),
        (b"x" * ((1 << 20) + 1), "is larger than 1 MiB"),
    ],
)
def test_what_is_no_job_file_is_one_line(
    data: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "job.yaml"
    path.write_bytes(data)

    code, error = _complaint(["show", str(path)], capsys)

    assert (code, error.count("\n")) == (Exit.BAD_INPUT, 1)
    assert error.startswith(f"error: {path}")
    assert message in error


@pytest.mark.parametrize(
    "name", ["", ".", "x" * 5000, "a\0b", "~nobody-of-that-name/x", "/dev/zero"]
)
def test_what_is_no_file_is_one_line(name: str, capsys: pytest.CaptureFixture[str]):
    code, error = _complaint(["show", name], capsys)

    assert (code, error.count("\n")) == (Exit.BAD_INPUT, 1)


@pytest.mark.parametrize("text", ["", "\udcff", "a\0b", "x" * 5000, "%", "a\nb", "🙂", "{x}"])
def test_what_is_no_id_is_one_line(text: str, prefect_api: str, capsys: pytest.CaptureFixture[str]):
    for command in ("status", "push", "logs"):
        code, error = _complaint([command, text], capsys)

        assert code == Exit.BAD_INPUT
        assert "There is no job" in error


def test_an_error_of_ours_is_one_line_and_its_traceback_is_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from gateway.cli import showing

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(showing, "show_job", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    code, error = _complaint(["show", "job.yaml"], capsys)

    (log,) = tmp_path.glob("trainctl-*.log")
    assert (code, error.count("\n")) == (Exit.FAILED, 1)
    assert "ZeroDivisionError: nobody foresaw this" in error
    assert str(log) in error
    assert "in broken" in log.read_text()


@pytest.mark.parametrize("given", ["", ",", " , "])
def test_an_option_that_names_no_provider_is_refused(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, error = _complaint(["run", str(job_file(tmp_path)), "--provider", given], capsys)

    assert code == Exit.BAD_INPUT
    assert f"--provider = {given!r}: names no provider" in error


def test_a_terminal_that_knows_few_characters_is_no_obstacle(tmp_path: Path):
    path = job_file(tmp_path, dataset="./ü.jsonl")

    done = call_trainctl("run", path, PYTHONIOENCODING="ascii")

    assert done.returncode == Exit.BAD_INPUT
    assert "there is no such file" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_api_that_does_not_answer_has_its_own_exit_code():
    done = call_trainctl("list", PREFECT_API_URL="http://127.0.0.1:9/api")

    assert done.returncode == Exit.UNREACHABLE
    assert done.stdout == ""
    assert done.stderr.startswith("error: Prefect's API at http://127.0.0.1:9/api does not answer")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), Exit.BAD_INPUT),
        (DataError("x"), Exit.BAD_INPUT),
        (ApiUnreachable("x"), Exit.UNREACHABLE),
        (DiskFull("x"), Exit.FAILED),
    ],
)
def test_errors_have_exit_codes(error: OrchestratorError, code: Exit):
    assert code_of_error(error) is code


def test_every_end_of_a_job_has_an_exit_code_of_its_own():
    ends = [JobState.COMPLETED, JobState.FAILED, JobState.PAUSED, JobState.STOPPED]

    assert [int(code_of_state(state)) for state in ends] == [0, 1, 3, 4]


WITHOUT_PREFECT = """
import sys
from gateway.cli import main
for words, may_fail in COMMANDS:
    try:
        main(words.split())
    except SystemExit as end:
        assert may_fail or not end.code, words
    assert not {"prefect", "torch", "httpx"} & sys.modules.keys(), words
"""


def test_what_needs_no_prefect_does_not_import_it(tmp_path: Path):
    words = ["--help", "init new.yaml", "version", "--version", "list --help"]
    program = WITHOUT_PREFECT.replace("COMMANDS", repr([(w, False) for w in words]))

    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True)

    assert done.returncode == 0, done.stderr


def test_a_command_that_only_looks_does_without_prefect(prefect_server: str):
    words = ["list", "list --json", "status x", "monitor x", "logs x", "push x"]
    program = WITHOUT_PREFECT.replace("COMMANDS", repr([(w, True) for w in words]))

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PREFECT_API_URL": prefect_server},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("There is no job 'x'") == 4


def test_every_command_has_an_example_in_its_help(capsys: pytest.CaptureFixture[str]):
    from gateway.cli import app

    groups = [app, *(one.typer_instance for one in app.registered_groups if one.typer_instance)]
    commands = [command for group in groups for command in group.registered_commands]

    assert len(commands) >= 25
    for command in commands:
        assert "Example: trainctl " in ((command.callback and command.callback.__doc__) or "")


def test_the_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--help"])

    text = " ".join(capsys.readouterr().out.split())
    assert "0 completed, 1 failed, 2 bad input, 3 paused, 4 stopped" in text


def test_a_disk_that_takes_nothing_is_named_with_its_room_and_the_remedy(home, capsys):
    with pytest.raises(typer.Exit) as ended, reported():
        raise OSError(errno.ENOSPC, "No space left on device")

    assert ended.value.exit_code == Exit.FAILED
    said = capsys.readouterr().err
    assert f"{home} cannot be written: No space left on device" in said
    assert "set TRAINING_ORCHESTRATOR_HOME" in said
