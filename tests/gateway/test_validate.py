"""`trainctl validate` looks at everything and trains nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.gateway.commanding import call_here, job_file

TINY_LLAMA_PARAMETERS = 1_115_264  # as examples/tiny-llama/config.json gives them


@pytest.mark.thorough
def test_validate_estimates_what_the_training_takes(tmp_path: Path, capfd):
    path = job_file(tmp_path, max_steps=-1, num_train_epochs=2.0)

    done = call_here(capfd, "validate", path, "--json")

    assert done.returncode == 0, done.stderr
    checks = json.loads(done.stdout)["checks"]
    found = checks["estimate"]
    rows = checks["dataset"]["rows"]
    assert found["trainable_parameters"] == TINY_LLAMA_PARAMETERS
    assert found["memory_gb"]["optimizer"] == round(TINY_LLAMA_PARAMETERS * 8 / 1e9, 4)
    assert found["steps"] == 2 * -(-round(rows * 0.9) // 4)
    assert 0 < found["seconds_per_step"] < 30


def test_validate_names_a_wrong_argument(tmp_path: Path, capfd):
    path = job_file(tmp_path, arguments={"adam_beta3": 0.9})

    done = call_here(capfd, "validate", path)

    assert done.returncode == 2
    assert "arguments.adam_beta3 = 0.9: sft has no such argument" in done.stdout
    assert "adam_beta2" in done.stdout


def test_validate_tells_everything_that_is_wrong_at_once(tmp_path: Path, capfd):
    path = job_file(tmp_path, model="./none", dataset="./none.jsonl")
    job = YAML(typ="safe").load(path)
    YAML().dump({**job, "resources": {"disk_gb": 1e9}}, path)

    done = call_here(capfd, "validate", path, "--json")

    assert done.returncode == 2
    checks = json.loads(done.stdout)["checks"]
    assert [name for name, check in checks.items() if not check["ok"]] == [
        "model",
        "dataset",
        "machine",
    ]
    assert checks["machine"]["class"] == "CapacityError"


def test_validate_takes_the_provider_that_run_takes(tmp_path: Path, capfd):
    done = call_here(capfd, "validate", job_file(tmp_path), "--provider", "nosuch", "--json")

    assert done.returncode == 2
    assert "nosuch" in done.stdout


def test_validate_reads_own_code_and_runs_none_of_it(tmp_path: Path, capfd):
    proof, code = tmp_path / "proof", tmp_path / "mine.py"
    code.write_text(f"open({str(proof)!r}, 'w')\ndef tidy(row):\n    return row\n")

    good = call_here(capfd, "validate", job_file(tmp_path, formatting="mine.py:tidy"))
    bad = call_here(capfd, "validate", job_file(tmp_path, formatting="mine.py:tidi"))

    assert (good.returncode, bad.returncode) == (0, 2), good.stdout
    assert "the job uses code of yours" in good.stdout
    assert "mine.py has no 'tidi'; it has tidy. Did you mean tidy?" in bad.stdout
    assert not proof.exists()
