"""How a foreign command may end badly, and what the job says then."""

from __future__ import annotations

from tests.trainer.command.scripts import foreign, python


def test_memory_that_ran_out_gets_its_name_and_a_failure_its_last_lines(tmp_path):
    job = foreign(tmp_path / "job", "--fails", "3")
    other = foreign(tmp_path / "other", run=python("print('no such column: loss'); exit(7)"))

    assert job.run().returncode == 1
    assert other.run().returncode == 1

    assert job.status.error["class"] == "OutOfMemory"
    assert "CUDA out of memory" in job.status.error["message"]
    assert other.status.error["class"] == "TrainingFailed"
    assert "exit code 7" in other.status.error["message"]
    assert "no such column: loss" in other.status.error["message"]


def test_memory_that_ran_out_is_met_with_a_smaller_batch_where_the_command_is_told_of_it(tmp_path):
    code = (
        "import sys; size = int(sys.argv[1]); print('batch', size, 'times', sys.argv[2])\n"
        "if size > 2: sys.exit('CUDA out of memory')\n"
        "import pathlib; out = pathlib.Path(sys.argv[3]); out.mkdir(parents=True)\n"
        "(out / 'a.safetensors').touch()"
    )
    words = ["{per_device_train_batch_size}", "{gradient_accumulation_steps}", "{output}"]
    job = foreign(tmp_path / "job", run=[*python(code), *words])

    assert job.run().returncode == 0

    assert "batch 8 times 1" in job.log
    assert "batch 2 times 4" in job.log


def test_an_output_that_is_missing_or_a_pickle_is_named(tmp_path):
    missing = foreign(tmp_path / "missing", run=python("print('well')"))
    pickle = foreign(tmp_path / "pickle", "--weights", "model.pt")

    assert missing.run().returncode == 1
    assert pickle.run().returncode == 1

    assert "its output out/final is not there" in missing.status.error["message"]
    assert pickle.status.error["class"] == "IntegrityError"
    assert "model.pt" in pickle.status.error["message"]
    assert not pickle.job.output.exists()


def test_success_must_have_been_printed(tmp_path):
    job = foreign(tmp_path / "job", success="all is well")

    assert job.run().returncode == 1

    assert "training.command.success" in job.status.error["message"]


def test_a_loss_that_is_no_number_ends_the_job(tmp_path):
    code = "import time; print('step 3/9 loss nan lr 1e-3', flush=True); time.sleep(600)"
    job = foreign(tmp_path / "job", run=python(code))

    assert job.run().returncode == 1

    assert job.status.error["class"] == "TrainingDiverged"
