"""A batch file becomes jobs in order, or one sentence that names the field, the value and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.batches.plan import BatchPlan, load_plan
from flows.job_file import examples, load_job
from flows.scheduling.dependencies import WantedEnd
from trainer.contract.errors import ConfigError

BASE = """
defaults:
  training: {model: org/model, dataset: org/rows, peft: null}
"""


def plan(folder: Path, jobs: str, base: str = BASE, name: str = "batch.yaml") -> BatchPlan:
    path = folder / name
    path.write_text(f"{base}\n{jobs}")
    return load_plan(path)


def refusal(folder: Path, jobs: str) -> str:
    base = BASE.replace(", peft: null", "") if "adapter:" in jobs else BASE
    with pytest.raises(ConfigError) as caught:
        plan(folder, jobs, base)
    return str(caught.value).replace(f"{folder}/", "")


def test_the_example_is_in_order_and_each_takes_the_model_of_the_one_before():
    jobs = {one.name: one for one in load_plan(examples() / "batch.yaml").jobs}

    assert list(jobs) == ["cpt", "sft", "dpo-0.1", "dpo-0.5"]
    assert jobs["sft"].after == {"cpt": WantedEnd.OK}  # by what it takes
    assert jobs["dpo-0.5"].after == {"sft": WantedEnd.OK}
    assert jobs["dpo-0.5"].job.training.model == "${sft.output}"
    assert (jobs["dpo-0.1"].job.training.beta, jobs["dpo-0.5"].job.training.beta) == (0.1, 0.5)
    handbook = str(examples() / "methods" / "handbook.jsonl")
    assert jobs["cpt"].job.training.dataset.path == handbook  # relative to the job's own file
    assert jobs["cpt"].job.training.num_train_epochs == 1  # the batch outweighs that file
    assert jobs["cpt"].retries.max == 1
    assert {one.deployment for one in jobs.values()} == {"train/local"}


def test_defaults_file_and_entry_outweigh_each_other_field_by_field(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "job.yaml").write_text(
        "name: x\ntraining: {model: ./m, dataset: rows.jsonl, seed: 1, max_steps: 5}\n"
    )

    made = plan(tmp_path, "jobs: {a: {file: sub/job.yaml, training: {seed: 2}, provider: runpod}}")

    job = made.jobs[0].job
    assert (job.name, job.training.seed, job.training.max_steps, job.training.peft) == (
        "a",
        2,
        5,
        None,
    )
    assert job.training.model == str(tmp_path / "sub" / "m")
    assert made.jobs[0].deployment == "train/cloud"
    assert made.name == "batch"


def test_a_matrix_sets_fields_and_variables_and_a_group_means_all_of_them(tmp_path):
    made = plan(
        tmp_path,
        """
jobs:
  - name: train
    matrix: {training.learning_rate: [1.0e-4, 2.0e-4], size: [small, large]}
    training: {model: "org/${matrix.size}"}
  - name: eval-${matrix.size}
    matrix: {size: [small, large]}
    training: {model: "${train-0.0001-${matrix.size}.output}"}
  - {name: report, after: {train: any}}
""",
    )

    jobs = {one.name: one for one in made.jobs}
    assert jobs["train-0.0002-large"].job.training.model == "org/large"
    assert jobs["train-0.0002-large"].job.training.learning_rate == 2e-4
    assert jobs["eval-large"].after == {"train-0.0001-large": WantedEnd.OK}
    assert jobs["report"].after == dict.fromkeys((n for n in jobs if "train" in n), WantedEnd.ANY)


def test_the_model_of_an_adapter_that_goes_on_is_that_of_the_job_before(tmp_path):
    lora = BASE.replace(", peft: null", "").replace("model: org/model, ", "")

    made = plan(
        tmp_path,
        'jobs: {a: {training: {model: org/m}}, b: {training: {adapter: "${a.output}"}}}',
        lora,
    )

    assert made.jobs[1].job.training.model == "org/m"


def test_a_batch_may_be_toml_and_have_the_names_of_other_orchestrators(tmp_path):
    (tmp_path / "job.toml").write_text(
        'name = "x"\n[training]\nmodel = "org/m"\ndataset = "org/rows"\nlearning_rate = 1e-4\n'
    )
    made = plan(
        tmp_path,
        """
[[jobs]]
id = "j1"
name = "character_v1"
config_path = "job.toml"
priority = 10
gpu_requirements = 2
vram_requirements = 16
retry_count = 3
timeout = 3600
[[jobs]]
name = "second"
config_path = "job.toml"
dependencies = ["j1"]
""",
        "",
        "batch.toml",
    )

    first, second = made.jobs
    assert (first.name, first.job.priority, first.retries.max) == ("character_v1", 10, 3)
    assert (first.job.resources.gpu_count, first.job.resources.min_vram_gb) == (2, 16)
    assert first.job.limits.max_runtime_minutes == 60
    assert second.after == {"character_v1": WantedEnd.OK}


def test_what_makes_a_job_another_changes_its_digest_and_defaults_do_not(tmp_path):
    one, same, other = (
        plan(tmp_path, f"jobs: {{a: {{{given}}}}}").jobs[0].digest()
        for given in ("", "resources: {}", "training: {seed: 7}")
    )

    assert one != other
    assert plan(tmp_path, "jobs: {a: {}}").jobs[0].digest() == one != same


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ("name: b", "batch.yaml: has no jobs"),
        ("jobs: {}", "jobs is empty"),
        ("jobs: 5", "jobs = 5: must be a mapping of names to jobs, or a list of jobs."),
        ("jobs: [{file: a.yaml}]", "jobs[0]: has no name."),
        ("jobs: {a: {trainin: {}}}", "jobs.a: trainin is not a field; did you mean training?"),
        ("jobs: {a: {}}\ncolour: red", "colour is not a field"),
        ("jobs: {a: {}}\nmax_concurrent: 0", "max_concurrent = 0: must be greater than"),
        ("jobs: {a: {}}\non_failure: panic", "on_failure = 'panic': must be 'continue' or 'stop'"),
        (
            "jobs: {a: {after: b}}",
            "jobs.a.after = 'b': there is no such job in the batch. There are: a.",
        ),
        (
            "jobs: {a: {}, b: {after: {a: done}}}",
            "jobs.b.after.a = 'done': must be one of ok, any, failed.",
        ),
        (
            "jobs: {a: {after: b}, b: {after: a}}",
            "goes in a circle: a after b after a. Remove one of them.",
        ),
        ("jobs: {a: {after: a}}", "goes in a circle: a after a."),
        (
            'jobs: {a: {training: {model: "${b.output}"}}}',
            "jobs.a: training.model takes the output of 'b', which is no job of the batch. Name one of: a.",
        ),
        (
            'jobs: {a: {}, b: {training: {model: "${a.outptu}"}}}',
            "training.model takes ${a.outptu}, and a job has no outptu. Write ${a.output}",
        ),
        (
            'jobs: {a: {}, b: {after: {a: any}, training: {model: "${a.output}"}}}',
            "jobs.b.after.a = 'any': training.model takes its output, which it has only when it is completed.",
        ),
        (
            'jobs: {a: {matrix: {training.seed: [1, 2]}}, b: {training: {model: "${a.output}"}}}',
            "takes the output of 'a', which is 2 jobs. Name one of: a-1, a-2.",
        ),
        ("jobs: {a: {matrix: {lr: [1]}}}", "matrix.lr changes nothing. Use it as ${matrix.lr}"),
        (
            "jobs: {a: {matrix: {training.seed: 5}}}",
            "matrix.training.seed = 5: must be a list of values.",
        ),
        (
            "jobs: {a: {setup: ['${matrix.x}']}}",
            "${matrix.x} is not a variable of its matrix; this job has no matrix.",
        ),
        ("jobs: [{name: a}, {name: a}]", "the name 'a' is taken."),
        (
            "jobs: {a: {retries: {errors: [OutOfMemry]}}}",
            "is not an error of a job; did you mean OutOfMemory?",
        ),
        (
            'jobs: {a: {training: {peft: {r: 8}}}, b: {training: {model: "${a.output}"}}}',
            "job a leaves an adapter, not a model. Set training.merge: true in a, or write training.adapter:",
        ),
        (
            'jobs: {a: {training: {peft: null}}, b: {training: {adapter: "${a.output}"}}}',
            "job a trains all weights, and leaves a model. Write training.model: ${a.output} instead.",
        ),
        ("jobs: {a: {file: none.yaml}}", "none.yaml: No such file or directory."),
        ("jobs: {a: {log_file: x}}", "log_file is not a field"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_starts(jobs, message, tmp_path):
    assert message in refusal(tmp_path, jobs)


def test_what_a_program_understands_itself_stays_in_its_command(tmp_path):
    made = plan(tmp_path, "jobs: {a: {setup: ['echo ${HOME} ${model.dim} ${x%.y}']}}")

    assert made.jobs[0].job.setup == ["echo ${HOME} ${model.dim} ${x%.y}"]


def test_too_many_jobs_are_refused(tmp_path):
    axes = ", ".join(
        f"training.{name}: [{','.join(map(str, range(1, 30)))}]"
        for name in ("seed", "max_steps", "save_steps")
    )

    assert "has more than 10,000 jobs. Make several batches." in refusal(
        tmp_path, f"jobs: {{a: {{matrix: {{{axes}}}}}}}"
    )


def test_a_single_job_cannot_take_the_output_of_another(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("name: a\ntraining: {model: '${b.output}', dataset: org/rows}\n")

    with pytest.raises(ConfigError, match=r"training.model takes \$\{b.output\}.* trainctl batch"):
        load_job(path)


def test_what_a_job_passes_on_when_it_is_completed_is_its_own_and_no_reference(tmp_path):
    after = "on_completion: {deployment: a/b, parameters: {m: '${job.output}', x: '${matrix.x}'}}"
    one, _ = plan(tmp_path, f"jobs: {{a: {{matrix: {{x: [1, 2]}}, {after}}}}}").jobs

    assert one.after == {}
    assert one.job.on_completion.parameters == {"m": "${job.output}", "x": 1}
