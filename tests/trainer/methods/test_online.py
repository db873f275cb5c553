"""Learning from rewards: by functions, by a model, with the user's own code around it."""

import hashlib
import json
import shutil

import pytest

from tests.trainer.jobs import TINY_LLAMA
from trainer.contract.errors import CodeError, ConfigError, DataError
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import verify
from trainer.rewards.scorer import Scorer

pytestmark = [
    pytest.mark.xdist_group("torch"),
    # PEFT 0.21 still reads old names of transformers'; the trainer's process says nothing of it.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning"),
]
METHODS = TINY_LLAMA.parent / "methods"
CODE = """\
from transformers import TrainerCallback

def asked(row):
    return {"prompt": row["question"], "answer": row["right"]}

class Notes(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        with open(__file__ + ".steps", "a") as stream:
            stream.write(f"{state.global_step} ")

class Broken(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        raise RuntimeError("no idea")
"""
TWO_STEPS = {"method": "rloo", "max_steps": 2, "per_device_train_batch_size": 4}


@pytest.fixture(scope="module")
def scorer(tmp_path_factory, make_job):
    """The output of method reward: an adapter, and a merged model."""
    job = make_job(
        tmp_path_factory.mktemp("scorer") / "job",
        method="reward",
        data={"path": str(METHODS / "preferences.jsonl"), "max_rows": 8},
        max_steps=2,
        learning_rate=0.01,
        merge=True,
    )
    assert job.train() is JobState.COMPLETED
    return job.directory.output


@pytest.mark.thorough
def test_the_merged_reward_model_scores_as_the_adapter_does(tmp_path, scorer):
    from transformers import AutoModelForSequenceClassification

    shutil.copytree(scorer, tmp_path / "adapter", ignore=shutil.ignore_patterns("merged"))
    prompts, answers = ["What is it? ", "Why? "], ["It is a model of data.", "No."]

    scores = [Scorer(str(path), "cpu")(prompts, answers) for path in (scorer, tmp_path / "adapter")]

    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(scorer / "merged")
    assert plain.config.num_labels == 1
    assert len({round(score, 4) for score in scores[0]}) == 2


@pytest.mark.thorough
def test_a_model_trained_by_method_reward_scores_answers(tmp_path, make_online, scorer):
    job = make_online(tmp_path / "job", **TWO_STEPS, reward_functions=[], reward_model=str(scorer))

    assert job.train() is JobState.COMPLETED

    assert "rewards/reward_model/mean" in job.metrics[2]
    assert job.metrics[2]["reward_std"] > 0


def test_no_language_model_is_taken_for_a_reward_model(tmp_path, make_online, base_model):
    job = make_online(tmp_path / "job", **TWO_STEPS, reward_model=str(base_model))

    with pytest.raises(ConfigError, match="is not a sequence classifier with one score"):
        job.train()


@pytest.fixture
def own_code(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    rows = [{"question": f"What is {i}? ", "right": "two"} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.thorough
def test_own_formatting_and_callbacks_take_part(tmp_path, make_online, own_code):
    job = make_online(
        tmp_path / "job",
        **TWO_STEPS,
        data={"path": str(tmp_path / "rows.jsonl")},
        reward_functions=["exact_match", "length"],
        formatting=f"{own_code}:asked",
        callbacks=[f"{own_code}:Notes"],
    )

    assert job.train() is JobState.COMPLETED

    assert own_code.with_name("mine.py.steps").read_text() == "1 2 "
    manifest = verify(job.directory.output)
    assert manifest["code"] == {"mine.py": hashlib.sha256(own_code.read_bytes()).hexdigest()}
    assert job.metrics[2]["rewards/length/mean"] == 1


def test_errors_in_own_code_name_row_file_and_line(tmp_path, make_online, own_code):
    callback = make_online(tmp_path / "a", **TWO_STEPS, callbacks=[f"{own_code}:Broken"])
    formatting = make_online(tmp_path / "b", **TWO_STEPS, formatting=f"{own_code}:asked")

    with pytest.raises(CodeError, match=r"mine\.py, line 13, in on_step_end: RuntimeError: no id"):
        callback.train()
    with pytest.raises(CodeError, match=r"prompts\.jsonl:1: .*line 4, in asked: KeyError"):
        formatting.train()


@pytest.mark.parametrize("method", ["grpo", pytest.param("rloo", marks=pytest.mark.thorough)])
def test_the_mean_reward_rises(tmp_path, make_online, method):
    job = make_online(
        tmp_path / "job",
        method=method,
        loss_type="dr_grpo" if method == "grpo" else None,
        model=str(TINY_LLAMA),
        peft={"r": 16},
        per_device_train_batch_size=16,
        num_generations=8,
        max_steps=12,
        learning_rate=0.01,
        lr_scheduler_type="constant",
    )

    assert job.train() is JobState.COMPLETED

    rewards = [record["reward"] for record in job.metrics.values()]
    assert sum(rewards[-3:]) > 1.3 * sum(rewards[:3])


def test_too_few_prompts_for_one_rollout_are_told(tmp_path, make_online):
    job = make_online(tmp_path / "job", method="ppo", per_device_train_batch_size=16)

    with pytest.raises(DataError, match="12 prompts are left to train on, and 16 are answered"):
        job.train()


@pytest.mark.parametrize(
    "name", ["ppo", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("grpo", "rloo"))]
)
def test_the_examples_train(tmp_path, name):
    from flows.job_file import load_job
    from tests.trainer.jobs import Job

    training = load_job(METHODS / f"{name}.yaml").training
    assert training.reward_functions[0].startswith(str(METHODS / "rewards.py:"))

    job = Job(tmp_path / "job", **{**training.model_dump(mode="json"), "max_steps": 1})

    assert job.train() is JobState.COMPLETED
    assert "reward" in job.metrics[1]


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["ppo", pytest.param("grpo", marks=pytest.mark.thorough)])
def test_tokens_are_drawn_by_the_jobs_settings_alone(method, tmp_path, make_online, base_model):
    """A model's own samplers would draw from another distribution than the loss is about."""
    model = shutil.copytree(base_model, tmp_path / "model")
    own = {"do_sample": True, "min_p": 1.0, "no_repeat_ngram_size": 1, "eos_token_id": 2}
    (model / "generation_config.json").write_text(json.dumps(own))
    settings = {"method": method, "max_steps": 2, "per_device_train_batch_size": 4}
    settings |= {"num_generations": 2} if method == "grpo" else {}
    jobs = [
        make_online(tmp_path / path.name / "job", model=str(path), **settings)
        for path in (base_model, model)
    ]
    assert [job.train() for job in jobs] == [JobState.COMPLETED] * 2

    assert jobs[0].curve == jobs[1].curve
    assert jobs[0].metrics[1]["reward"] == jobs[1].metrics[1]["reward"]
    kept = json.loads((jobs[1].directory.output / "generation_config.json").read_text())
    assert kept["min_p"] == 1.0
