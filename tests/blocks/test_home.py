import stat

import pytest

from blocks import home
from trainer.contract.errors import ConfigError


def test_home_is_where_the_variable_says_and_private(tmp_path, monkeypatch):
    monkeypatch.setenv(home.HOME_VARIABLE, str(tmp_path / "deep" / "home"))

    folders = [home.home(), home.runs(), home.instances(), home.artifacts()]

    root = tmp_path / "deep" / "home"
    assert folders == [root, root / "runs", root / "instances", root / "artifacts"]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_home_is_in_the_users_folder_without_the_variable(tmp_path, monkeypatch):
    monkeypatch.delenv(home.HOME_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert home.home() == tmp_path / ".training-orchestrator"


def test_a_home_that_cannot_be_made_is_told_with_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(home.HOME_VARIABLE, str(tmp_path / "file" / "home"))

    with pytest.raises(ConfigError, match=r"file/home cannot be created: .*Set TRAINING_"):
        home.home()
