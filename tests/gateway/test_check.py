"""`trainctl check` also tells what is wrong with the reports' settings."""

from __future__ import annotations

import json


def test_an_address_without_its_token_is_one_warning_and_no_failure(trainctl, monkeypatch):
    monkeypatch.setenv("METRICS_API_URL", "http://127.0.0.1:9/metrics")
    monkeypatch.delenv("JOB_TOKEN", raising=False)

    result = trainctl("check", "--json")

    rows = json.loads(result.stdout)  # others may be saved on the tests' server
    accounts = [row for row in rows if row["provider"]]
    assert {"provider": "local", "ok": True} in [
        {name: account[name] for name in ("provider", "ok")} for account in accounts
    ]
    assert result.returncode == (0 if all(account["ok"] for account in accounts) else 1)
    assert result.stderr.count("METRICS_API_URL is set and JOB_TOKEN is not") == 1


def test_a_token_that_cannot_be_read_is_named_and_no_failure(trainctl, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_FILE", str(tmp_path / "none"))

    result = trainctl("check", "--json")

    assert json.loads(result.stdout)
    assert result.stderr.count(f"HF_TOKEN_FILE = {tmp_path / 'none'}: cannot be read") == 1
