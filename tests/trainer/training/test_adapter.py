"""An adapter is trained further: from its own weights, by its own settings, and into a new one."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from tests.trainer.jobs import PausesAfter
from trainer.contract.errors import ConfigError, ModelNotFound
from trainer.contract.job_directory import Desired, JobState

pytestmark = pytest.mark.xdist_group("torch")
ADAPTER = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
HELD_OUT = {"eval_fraction": 0.2}


@pytest.fixture(scope="module")
def first(tmp_path_factory, make_job):
    """A job of sft whose output is gone on with."""
    folder = tmp_path_factory.mktemp("first") / "job"
    job = make_job(folder, peft=ADAPTER, data=HELD_OUT, max_steps=6, learning_rate=0.01)
    assert job.train() is JobState.COMPLETED
    return job


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"token {n}", "chosen": f" model data {n}", "rejected": f" loss step {n}"}
        for n in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_it_begins_where_the_adapter_ended_and_has_its_settings(first, tmp_path, make_job, capsys):
    adapter = str(first.directory.output)
    job = make_job(tmp_path / "job", adapter=adapter, data=HELD_OUT, max_steps=3)
    job.write(config=job.config, continues="the-id-of-its-job")

    assert job.train() is JobState.COMPLETED

    assert f"goes on with {adapter}, rank 4\n" in capsys.readouterr().out
    assert job.evaluations[0] == pytest.approx(first.evaluations[6], abs=1e-6)
    assert job.evaluations[3] != job.evaluations[0]
    made = json.loads((job.directory.output / "adapter_config.json").read_text())
    assert (made["r"], sorted(made["target_modules"])) == (4, ["q_proj", "v_proj"])
    card = (job.directory.output / "README.md").read_text()
    assert "'r': 4, 'lora_alpha': 8" in card
    assert "'target_modules': ['q_proj', 'v_proj']" in card
    manifest = json.loads((job.directory.output / "MANIFEST.json").read_text())
    assert manifest["continues"]["adapter"] == adapter
    assert manifest["continues"]["job"] == "the-id-of-its-job"
    assert len(manifest["continues"]["sha256"]) == 64


def test_the_reference_of_dpo_is_the_adapter_as_it_was(first, tmp_path, make_job, pairs):
    adapter = str(first.directory.output)
    data = {"path": str(pairs), "eval_fraction": 0.25}
    job = make_job(tmp_path / "job", method="dpo", adapter=adapter, data=data, max_steps=2)

    assert job.train() is JobState.COMPLETED

    # Against the base model the rewards would differ before the first step.
    assert job.metrics[0]["eval_rewards/margins"] == 0
    assert job.metrics[2]["eval_rewards/margins"] != 0


@pytest.mark.thorough
def test_the_reference_of_ppo_is_the_adapter_as_it_was_and_it_resumes_exactly(
    first, tmp_path, make_job
):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"token {n}"}) + "\n" for n in range(8)))
    (tmp_path / "own.py").write_text(
        "def varied(completions, **_):\n    return [len(set(said)) for said in completions]\n"
    )
    settings = {
        "method": "ppo",
        "adapter": str(first.directory.output),
        "data": {"path": str(prompts)},
        "reward_functions": [f"{tmp_path / 'own.py'}:varied"],
        "max_completion_length": 8,
        "max_steps": 6,
        "save_steps": 3,
        "learning_rate": 0.01,
    }
    whole, paused = (make_job(tmp_path / name, **settings) for name in ("whole", "paused"))
    assert whole.train() is JobState.COMPLETED

    # Against the base model it would be far from it before the first step.
    kl = [record["kl"] for record in whole.metrics.values() if "kl" in record]
    assert kl[0] == pytest.approx(0, abs=1e-5)
    assert abs(kl[-1]) > 1e-4
    assert [path.name for path in whole.directory.output.rglob("*.safetensors")] == [
        "adapter_model.safetensors"
    ]
    assert paused.train(PausesAfter(paused.directory, 3)) is JobState.PAUSED
    paused.directory.request(Desired.RUN)
    assert paused.train() is JobState.COMPLETED
    assert paused.weights == whole.weights


@pytest.mark.thorough
def test_a_reward_model_goes_on_from_what_wrote_and_from_what_scored(
    first, tmp_path, make_job, pairs
):
    data = {"path": str(pairs), "eval_path": str(pairs)}
    settings = {"method": "reward", "data": data, "max_steps": 3, "learning_rate": 0.01}
    scorer = make_job(tmp_path / "scorer", adapter=str(first.directory.output), **settings)
    assert scorer.train() is JobState.COMPLETED
    further = make_job(tmp_path / "further", adapter=str(scorer.directory.output), **settings)
    assert further.train() is JobState.COMPLETED

    before, begun, after = (
        load_file(job.directory.output / "adapter_model.safetensors")
        for job in (first, scorer, further)
    )
    assert before.keys() < begun.keys()
    assert begun.keys() == after.keys()
    assert further.evaluations[0] == pytest.approx(scorer.evaluations[3], abs=1e-6)
    made = json.loads((further.directory.output / "adapter_config.json").read_text())
    assert (made["task_type"], made["modules_to_save"]) == ("SEQ_CLS", ["classifier", "score"])
    with pytest.raises(ConfigError, match="was trained for SEQ_CLS, and is to write text here"):
        make_job(tmp_path / "writes", adapter=str(scorer.directory.output)).train()


@pytest.mark.thorough
def test_classes_are_those_of_the_adapter(tmp_path, make_job):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"token {n}", "label": "ba"[n % 2]} for n in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"method": "classify", "data": {"path": str(path), "eval_path": str(path)}}
    first = make_job(tmp_path / "first", labels=["b", "a", "c"], max_steps=2, **settings)
    assert first.train() is JobState.COMPLETED
    adapter = first.directory.output

    further = make_job(tmp_path / "further", adapter=str(adapter), max_steps=1, **settings)
    assert further.train() is JobState.COMPLETED

    assert further.evaluations[0] == pytest.approx(first.evaluations[2], abs=1e-6)
    manifest = json.loads((further.directory.output / "MANIFEST.json").read_text())
    assert manifest["training"]["labels"] == ["b", "a", "c"]

    def refusal(name, **given):
        with pytest.raises(ConfigError) as caught:
            make_job(tmp_path / name, adapter=str(adapter), **{**settings, **given}).train()
        return str(caught.value)

    assert "is a classifier of b, a, c, in this order" in refusal("order", labels=["a", "b", "c"])
    assert "was trained on one class a row" in refusal("several", several_labels=True)
    (adapter / "MANIFEST.json").unlink()
    assert "is an adapter of classes without names" in refusal("nameless")
    assert "gives 3 scores, and classify needs 2 here" in refusal("two", labels=["a", "b"])


def test_it_resumes_exactly(first, tmp_path, make_job):
    settings = {"adapter": str(first.directory.output), "max_steps": 4, "learning_rate": 0.01}
    whole, paused = (make_job(tmp_path / name, **settings) for name in ("whole", "paused"))
    assert whole.train() is JobState.COMPLETED

    assert paused.train(PausesAfter(paused.directory, 2)) is JobState.PAUSED
    paused.directory.request(Desired.RUN)
    assert paused.train() is JobState.COMPLETED

    assert paused.weights == whole.weights
    assert paused.curve == whole.curve


def test_one_of_another_model_is_said_to_be(first, tmp_path, make_job, capsys):
    folder = shutil.copytree(first.directory.output, tmp_path / "adapter")
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text()) | {"base_model_name_or_path": "org/other"}
    path.write_text(json.dumps(settings))

    assert make_job(tmp_path / "job", adapter=str(folder), max_steps=1).train()

    assert f"{folder}, rank 4; trained on org/other, here put on " in capsys.readouterr().out


def test_an_adapter_that_does_not_fit_or_cannot_be_trained_further_is_refused(
    first, tmp_path, make_job
):
    def job_with(name, change):
        folder = tmp_path / name
        shutil.copytree(first.directory.output, folder)
        change(folder)
        return make_job(tmp_path / f"{name}-job", adapter=str(folder), max_steps=1)

    def other_shapes(folder):
        weights = load_file(folder / "adapter_model.safetensors")
        save_file(
            {n: w[..., :3].contiguous() for n, w in weights.items()},
            folder / "adapter_model.safetensors",
        )

    def other_kind(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"peft_type": "P_TUNING"}))

    with pytest.raises(ConfigError, match=r"training\.adapter: .* does not fit "):
        job_with("shapes", other_shapes).train()
    with pytest.raises(ConfigError, match="is an adapter of type P_TUNING; LoRA"):
        job_with("kind", other_kind).train()
    with pytest.raises(ModelNotFound, match=r"has no adapter_model\.safetensors"):
        job_with("none", lambda folder: (folder / "adapter_model.safetensors").unlink()).train()
    with pytest.raises(ModelNotFound, match="is an adapter, not a model") as named:
        make_job(tmp_path / "as-model", model=str(first.directory.output)).train()
    assert "training.adapter" in named.value.suggestion
