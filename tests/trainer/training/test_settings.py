"""What a job file may say, and how a person is told that it may not."""

from typing import Any

import pytest

from trainer.config import LoraConfig, TrainingConfig, TrainingJob
from trainer.config.explain import MAX_PROBLEMS, validated
from trainer.contract.errors import ConfigError

LEAST = {"model": "m", "dataset": "d"}


def config(**settings: Any) -> TrainingConfig:
    return validated(TrainingConfig, LEAST | settings, "job.yaml")


def refusal(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config(**settings)
    return caught.value.message


def refused_job(value: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        validated(TrainingJob, value, "job.yaml")
    return caught.value.message


def test_little_is_needed():
    job = validated(TrainingJob, {"name": "a", "training": LEAST}, "job.yaml")

    assert (job.training.dataset.path, job.provider) == ("d", "local")
    assert job.training.peft is not None


def test_settings_cannot_be_changed_unnoticed():
    with pytest.raises(ValueError, match="frozen"):
        config().max_length = 1  # type: ignore[misc] # that is the point


@pytest.mark.parametrize(
    "name", ["../a", "a/b", "a\\b", "..", "a..b", "a\nb", "a\n", "", "-a", ".a", "ü", "a b", "x" * 64]
)  # fmt: skip
def test_a_name_that_is_no_safe_file_name_is_refused(name):
    assert "must be 1 to 63 letters" in refused_job({"name": name, "training": LEAST})


@pytest.mark.parametrize("name", ["a", "my-job_1.2", "9", "x" * 63])
def test_a_safe_name_is_accepted(name):
    assert validated(TrainingJob, {"name": name, "training": LEAST}, "job.yaml").name == name


def test_what_is_missing_is_named():
    assert refused_job({"name": "a", "training": {"model": "m"}}) == (
        "job.yaml: training.dataset is missing."
    )


def test_a_misspelt_field_is_answered_with_the_right_one():
    assert refusal(learnig_rate=1) == (
        "job.yaml: learnig_rate is not a field; did you mean learning_rate?"
    )


def test_a_misspelt_field_deep_inside_is_answered_with_the_right_one():
    job = {"name": "a", "training": LEAST | {"peft": {"lora_dropot": 0.1}}}

    assert refused_job(job) == (
        "job.yaml: training.peft.lora_dropot is not a field; did you mean lora_dropout?"
    )


def test_an_unknown_field_is_answered_with_the_list():
    assert "limits.zzz is not a field; there are: max_runtime_minutes, " in refused_job(
        {"name": "a", "training": LEAST, "limits": {"zzz": 1}}
    )


WRONG = {
    "learning_rate = -1: must be greater than 0": {"learning_rate": -1},
    "learning_rate = nan: must be a finite number": {"learning_rate": float("nan")},
    "num_train_epochs = inf: must be a finite number": {"num_train_epochs": float("inf")},
    "save_steps = 'ten': must be a valid integer": {"save_steps": "ten"},
    "max_length = 1.5: must be a valid integer": {"max_length": 1.5},
    "max_steps = 0: must be 1 or more, or -1 for no limit": {"max_steps": 0},
    "max_steps = -2: must be greater than or equal to -1": {"max_steps": -2},
    "model = '': must have at least 1 character": {"model": ""},
    "model = 'a\\nb': must not hold control characters": {"model": "a\nb"},
    "method = 'magic': is not a training method; there are: classify, cpt, dpo, ": {
        "method": "magic"
    },
    "dtype = 'int8': must be 'auto', 'float32', 'bfloat16' or 'float16'": {"dtype": "int8"},
    "dataset.eval_fraction = 0.9: must be less": {"dataset": {"path": "d", "eval_fraction": 0.9}},
    "peft.r = 0: must be greater than or equal to 1": {"peft": {"r": 0}},
    "peft.target_modules = 'q,v': must be all-linear, a list of names": {
        "peft": {"target_modules": "q,v"}
    },
    "peft = {'peft_type': 'boft'}: must be lora, ia3, loha, lokr, oft, vera, prompt_tuning or": {
        "peft": {"peft_type": "boft"}
    },
    "peft: use_dora belongs to peft_type: lora, this one is prefix_tuning": {
        "peft": {"peft_type": "prefix_tuning", "use_dora": True}
    },
    "peft.zzz is not a field; there are: peft_type, num_virtual_tokens, prompt_tuning_init, ": {
        "peft": {"peft_type": "prompt_tuning", "zzz": 5}
    },
    "peft: prompt_tuning_init: text needs prompt_tuning_init_text": {
        "peft": {"peft_type": "prompt_tuning", "prompt_tuning_init": "text"}
    },
    "peft: target_modules: an adapter on lm_head": {"peft": {"target_modules": ["lm_head"]}},
    "prompt_tuning works with sft and cpt, not with dpo": {
        "peft": {"peft_type": "prompt_tuning"},
        "method": "dpo",
    },
    "packing: with prompt_tuning the rows of one sequence cannot be kept apart": {
        "peft": {"peft_type": "prompt_tuning"},
        "packing": True,
    },
    "gradient_checkpointing drops what prefix_tuning trains: set it to false": {
        "peft": {"peft_type": "prefix_tuning"},
        "gradient_checkpointing": True,
    },
    "quantization: set load_in_4bit: true or load_in_8bit: true, one of them": {
        "quantization": {"load_in_4bit": True, "load_in_8bit": True}
    },
    "quantization: deepspeed would share out weights whose scales it does not know": {
        "quantization": {"load_in_4bit": True},
        "parallelism": "deepspeed",
        "zero_stage": 3,
    },
    "optim = 'adafactor' does not know weights that fsdp has split": {
        "parallelism": "fsdp",
        "optim": "adafactor",
    },
    "parallelism: fsdp would leave a part of what prefix_tuning trains": {
        "peft": {"peft_type": "prefix_tuning"},
        "parallelism": "fsdp",
    },
    "quantization: weights of so few bits cannot be trained: set peft": {
        "quantization": {"load_in_4bit": True},
        "peft": None,
    },
    "report_to.0 = 'comet': must be 'tensorboard', 'wandb' or 'mlflow'": {"report_to": ["comet"]},
    "merge: peft: null leaves a whole model, no adapter": {"merge": True, "peft": None},
    "gguf_quantization = 'Q4_K_M': is not supported": {"gguf_quantization": "Q4_K_M"},
    "push_to_hub = 'mine': must be owner/name": {"push_to_hub": "mine"},
    "export: gguf is for models that write text": {"export": ["gguf"], "method": "reward"},
    "merge works with trainer: builtin": {"merge": True, "trainer": "axolotl"},
    "method = 'embeddings': is not a training method: models of embeddings are not trained here": {
        "method": "embeddings"
    },
    "labels = ['a', 'a']: give two or more, each once": {
        "method": "classify",
        "labels": ["a", "a"],
    },
    "class_weights.c is not one of labels": {
        "method": "classify",
        "labels": ["a", "b"],
        "class_weights": {"c": 2},
    },
    "class_weights: with several_labels each class is learned apart": {
        "method": "classify",
        "several_labels": True,
        "class_weights": "balanced",
    },
    "labels does not apply to method sft": {"labels": ["a", "b"]},
    "export: gguf is for models that write text, and classify": {
        "export": ["gguf"],
        "method": "classify",
    },
    "seed = -1: must be greater than or equal to 0": {"seed": -1},
}


@pytest.mark.parametrize(("words", "settings"), WRONG.items(), ids=range(len(WRONG)))
def test_a_wrong_value_is_named_with_the_remedy(words, settings):
    message = refusal(**settings)

    assert words in message
    assert message.startswith("job.yaml: ")
    assert message.endswith(".")


def test_early_stopping_needs_rows_to_evaluate_on():
    assert refusal(early_stopping_patience=2) == (
        "job.yaml: early_stopping_patience needs held-out rows: "
        "set dataset.eval_fraction, dataset.eval_path or dataset.eval_split."
    )
    config(early_stopping_patience=2, dataset={"path": "d", "eval_fraction": 0.1})


def test_random_weights_have_nothing_to_adapt():
    assert "init: random has no weights to adapt: set peft: null" in refusal(init="random")
    config(init="random", peft=None)


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (
            "loss_type = 'sigmod' is not a loss of dpo; did you mean sigmoid? There are: sigmoid, ",
            {"method": "dpo", "loss_type": "sigmod"},
        ),
        ("loss_type = 'ipo' is not a loss of kto; There", {"method": "kto", "loss_type": "ipo"}),
        ("set arguments: {label_smoothing: ", {"method": "dpo", "loss_type": "exo_pair"}),
        ("loss_type does not apply to method sft: remove it", {"loss_type": "sigmoid"}),
        ("beta does not apply to method reward", {"method": "reward", "beta": 0.1}),
        ("packing does not apply to method dpo", {"method": "dpo", "packing": True}),
        ("temperature does not apply to method sft", {"temperature": 0.5}),
    ],
)
def test_a_setting_that_the_method_would_not_read_is_refused(words, settings):
    assert words in refusal(**settings)


def test_a_loss_of_the_method_is_accepted():
    config(method="dpo", loss_type="ipo")
    config(method="dpo", loss_type="exo_pair", arguments={"label_smoothing": 0.001})
    config(
        method="grpo",
        loss_type="dr_grpo",
        reward_functions=["length"],
        max_completion_length=64,
    )


def test_evaluation_has_one_source():
    both = {"path": "d", "eval_path": "e", "eval_fraction": 0.1}

    assert "dataset: give eval_path or eval_fraction, not both" in refusal(dataset=both)


def test_target_modules_may_be_a_list_of_names():
    peft = config(peft={"target_modules": ["q_proj", "v_proj"]}).peft

    assert isinstance(peft, LoraConfig)
    assert peft.target_modules == ["q_proj", "v_proj"]


def test_a_job_from_before_there_were_other_kinds_means_lora():
    old = config(peft={"r": 4})

    assert old.peft == LoraConfig(r=4)
    assert config(peft=old.model_dump()["peft"]) == old


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused(value):
    expected = f"job.yaml: holds a {type(value).__name__}, not a mapping"

    assert refused_job(value).startswith(expected)


def test_all_problems_are_told_at_once():
    message = refusal(learning_rate=-1, seed="x", method="magic")

    assert all(word in message for word in ("learning_rate = -1", "seed = 'x'", "method = 'magic'"))


def test_very_many_problems_are_counted():
    message = refusal(**{f"zzz{i}": 1 for i in range(MAX_PROBLEMS + 5)})

    assert message.count("is not a field") == MAX_PROBLEMS
    assert message.endswith("; and 5 more.")


def test_a_long_value_is_shown_in_short():
    message = refusal(seed="x" * 10_000)

    assert "seed = 'xxx" in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("training", "changes", "words"),
    [
        ({"trainer": "command", "command": {"run": "true"}}, {}, "is started on one machine only"),
        ({"parallelism": "deepspeed"}, {}, "Set parallelism: fsdp"),
        ({}, {"keep_minutes": 5}, "machines are kept one by one"),
    ],
)
def test_what_several_machines_cannot_do_is_refused(training, changes, words):
    job = {
        "name": "a",
        "training": {**LEAST, **training},
        "provider": "ssh",
        "resources": {"nodes": 2},
        **changes,
    }

    with pytest.raises(ConfigError, match=words):
        validated(TrainingJob, job, "job.yaml")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("learning_rate", 1, "this is a field of its own: set training.learning_rate"),
        ("learning_rat", 1, "sft has no such argument: did you mean learning_rate?"),
        ("neftune_noise_alfa", 5, "did you mean neftune_noise_alpha?"),
        ("eos_token", "<|im_end|>", "special tokens are those of the model's tokenizer"),
        ("chat_template_path", "mine.jinja", "set training.chat_template"),
        ("completion_only_loss", False, "of a prompt nothing is learned"),
        ("resume_from_checkpoint", "/nowhere", "resumes from its own newest checkpoint"),
        ("model_init_kwargs", {"a": 7}, "the model is loaded by the orchestrator"),
        ("load_best_model_at_end", True, "set training.early_stopping_patience"),
        ("warmup_ratio", 0.5, "set training.warmup_steps"),
        ("pad_to_multiple_of", 8, "batches have no padding"),
        ("cliprange", 0.2, "this is of ppo, not of sft"),
        ("output_dir", "x", "set output_dir of the job"),
    ],
)
def test_an_argument_without_effect_is_refused_with_what_to_do_instead(name, value, words):
    said = refusal(arguments={name: value})

    assert f"arguments.{name} = {value!r}: " in said
    assert words in said


def test_all_arguments_that_are_refused_are_named_at_once_and_others_pass():
    said = refusal(arguments={"eos_token": "a", "adam_beta1": 0.8, "bf16": True})

    assert "arguments.eos_token" in said
    assert "arguments.bf16" in said
    assert "adam_beta1" not in said
    assert config(arguments={"adam_beta1": 0.8}).arguments == {"adam_beta1": 0.8}


def test_arguments_of_another_trainer_are_its_own():
    command = {"run": ["python", "train.py"]}

    assert config(trainer="command", command=command, arguments={"anything": 1}).arguments


def test_a_schedule_that_would_never_change_the_rate_is_refused():
    assert "choose cosine or linear" in refusal(lr_scheduler_type="reduce_lr_on_plateau")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft": {"r": 4}}, "its own settings hold: leave peft out"),
        ({"peft": {"r": 16, "lora_alpha": 32}}, "its own settings hold: leave peft out"),
        ({"peft": None}, "its own settings hold: leave peft out"),
    ],
)
def test_what_contradicts_going_on_with_an_adapter_is_refused(settings, words):
    assert words in refusal(adapter="a", **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"method": "dpo", "peft": {"bias": "all"}},
            "peft.bias = 'all' trains biases of the model itself, which the reference of dpo has",
        ),
        (
            {"method": "dpo", "arguments": {"sync_ref_model": True}},
            "arguments.sync_ref_model: with adapters the reference is the base model itself",
        ),
        (
            {
                "method": "grpo",
                "peft": None,
                "arguments": {"sync_ref_model": True},
                "reward_functions": ["length"],
            },
            "arguments.sync_ref_model: without beta there is no reference",
        ),
        (
            {"peft": {"peft_type": "loha"}, "quantization": {"load_in_4bit": True}},
            "quantization: PEFT puts no loha on weights of few bits",
        ),
        (
            {"peft": {"peft_type": "ia3", "r": 4}},
            "r belongs to peft_type: lora or loha or lokr or vera",
        ),
        (
            {"peft": {"peft_type": "ia3", "target_modules": ["a"], "feedforward_modules": ["b"]}},
            "feedforward_modules: b is not among target_modules",
        ),
        ({"peft": {"peft_type": "oft", "eps": 0.1}}, "eps has an effect only with coft: true"),
        ({"peft": {"peft_type": "vera", "exclude_modules": ["a"]}}, "exclude_modules belongs to"),
        ({"peft": {"peft_type": "oft", "oft_block_size": 1}}, "oft_block_size = 1"),
        ({"peft": {"peft_type": "lora+"}}, "must be lora, ia3, loha"),
        ({"peft": {"peft_type": "lokr", "target_modules": ["lm_head"]}}, "an adapter on lm_head"),
        (
            {"peft": {"peft_type": "oft", "layers_to_transform": [0]}},
            "PEFT wants the layers by name",
        ),
    ],
)
def test_what_a_kind_of_adapter_cannot_do_is_refused(settings, words):
    assert words in refusal(**settings)
