"""Jobs on several data sets: judged by each and by all, resumed exactly, and told."""

import json
import re
import shutil
import subprocess

import pytest

from tests.trainer.jobs import PausesAfter
from tests.trainer.supervised import ENVIRONMENT, command
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import Desired, JobState

pytestmark = pytest.mark.xdist_group("torch")


def answers(words, count):
    asked = {"role": "user", "content": "a model"}
    said = [{"role": "assistant", "content": " ".join([words] * (1 + i % 3))} for i in range(count)]
    return [{"messages": [asked, each]} for each in said]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return a folder with the files of two data sets, and of both together."""
    folder = tmp_path_factory.mktemp("two")
    sets = {"short": answers("token", 9), "long": answers("the loss of data is a rank", 5)}
    for name, rows in {**sets, "both": [*sets["short"], *sets["long"]]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def mix(folder):
    """Return settings of a mix, each of whose data sets is evaluated on too."""
    paths = {name: str(folder / f"{name}.jsonl") for name in ("short", "long")}
    return {
        "dataset": [
            {"path": paths["short"], "eval_path": paths["short"], "share": 0.6},
            {"path": paths["long"], "eval_path": paths["long"], "share": 0.4},
        ],
        "peft": {"r": 4, "lora_dropout": 0.1},
        "learning_rate": 0.01,
        "max_steps": 6,
        "eval_steps": 3,
        "per_device_eval_batch_size": 3,
    }


@pytest.fixture(scope="module")
def whole(two, tmp_path_factory, base_model, make_job):
    """Return a job on the mix that nothing has interrupted."""
    job = make_job(tmp_path_factory.mktemp("whole") / "job", **mix(two))
    assert job.train() is JobState.COMPLETED
    return job


def test_every_data_set_has_a_loss_and_the_whole_one_is_of_all_their_tokens(
    whole, two, make_job, tmp_path
):
    def before(path):
        data = {"path": str(two / "both.jsonl"), "eval_path": str(path)}
        job = make_job(tmp_path / path.stem, data=data, max_steps=1)
        assert job.train() is JobState.COMPLETED
        return job.metrics[0]["eval_loss"]

    first = whole.metrics[0]

    assert first["eval_short_loss"] == pytest.approx(before(two / "short.jsonl"), rel=1e-5)
    assert first["eval_long_loss"] == pytest.approx(before(two / "long.jsonl"), rel=1e-5)
    assert first["eval_loss"] == pytest.approx(before(two / "both.jsonl"), rel=1e-5)
    assert first["eval_loss"] != pytest.approx(
        (first["eval_short_loss"] + first["eval_long_loss"]) / 2
    )
    assert sorted(whole.evaluations) == [0, 3, 6]


def test_the_mix_is_told(whole):
    manifest = json.loads((whole.directory.output / "MANIFEST.json").read_text())
    card = (whole.directory.output / "README.md").read_text()

    told = {
        s["name"]: (s["rows"], s["epoch_rows"], s["share"]) for s in manifest["data"]["sources"]
    }
    assert told == {"short": (9, 8, pytest.approx(8 / 13)), "long": (5, 5, pytest.approx(5 / 13))}
    assert len({source["sha256"] for source in manifest["data"]["sources"]}) == 2
    assert "| mixed | short: 61.5% of an epoch, 8 rows of 9, drawn by the seed; long: 38.5%" in card
    assert re.search(r"\| eval_long_loss \(lower is better\) \| [\d.]+ → [\d.]+ \|", card)


@pytest.mark.thorough
def test_a_mix_resumes_exactly(whole, two, make_job, tmp_path):
    job = make_job(tmp_path / "job", **mix(two))
    assert job.train(PausesAfter(job.directory, 4)) is JobState.PAUSED
    job.directory.request(Desired.RUN)
    shutil.rmtree(job.directory.cache)  # as on another machine

    assert job.train() is JobState.COMPLETED

    assert job.curve == whole.curve
    assert job.weights == whole.weights


@pytest.mark.thorough
def test_two_processes_see_the_mix_that_one_sees(two, make_job, tmp_path):
    # Within one epoch: at its end two processes share the last rows out in another way.
    plain = {"peft": {"r": 4, "lora_dropout": 0.0}, "max_steps": 3}
    alone = make_job(tmp_path / "alone", **mix(two) | plain, per_device_train_batch_size=4)
    pair = make_job(tmp_path / "pair", **mix(two) | plain, per_device_train_batch_size=2)
    pair.write(config=pair.config, world={"processes": 2})

    assert alone.train() is JobState.COMPLETED
    words = command(pair.directory.root)
    subprocess.run(words, env=ENVIRONMENT, capture_output=True, timeout=240, check=True)

    names = ("eval_short_loss", "eval_long_loss", "eval_loss", "train_loss")
    curves = [
        {(n, name): row[name] for n, row in job.metrics.items() for name in names if name in row}
        for job in (alone, pair)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


@pytest.mark.thorough
def test_a_data_set_of_a_mix_that_has_changed_is_named(two, make_job, tmp_path):
    shutil.copytree(two, tmp_path / "own")
    job = make_job(tmp_path / "job", **mix(tmp_path / "own"))
    assert job.train(PausesAfter(job.directory, 2)) is JobState.PAUSED
    job.directory.request(Desired.RUN)
    with (tmp_path / "own" / "long.jsonl").open("a") as stream:
        stream.write(json.dumps(answers("batch", 1)[0]) + "\n")

    with pytest.raises(ConfigError) as refused:
        job.train()

    assert "the data set long (SHA-256" in refused.value.message
    assert "the rows to evaluate on of long (SHA-256" in refused.value.message
    assert "short" not in refused.value.message


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["orpo", "kto"])
def test_methods_that_judge_answers_have_a_loss_of_each_too(
    method, make_job, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # as the trainer's process has it
    rows = [
        {"prompt": "the model", "chosen": f"{'data ' * (i + 1)}", "rejected": "loss loss"}
        for i in range(4)
    ]
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = [str(tmp_path / f"{name}.jsonl") for name in ("one", "two")]
    job = make_job(
        tmp_path / "job",
        dataset=[{"path": path, "eval_path": path} for path in paths],
        method=method,
        max_steps=1,
    )

    assert job.train() is JobState.COMPLETED

    last = job.metrics[1]
    assert last["eval_one_loss"] == pytest.approx(last["eval_two_loss"], rel=1e-5)
    assert last["eval_loss"] == pytest.approx(last["eval_one_loss"], rel=1e-5)
