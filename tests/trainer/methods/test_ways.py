"""Jobs on architectures that need another way for their rows, or another loss, than a Llama."""

import pytest
from torch.nn.functional import cross_entropy

from tests.trainer.architectures.tiny import tiny_model_folder
from trainer.contract.errors import ConfigError
from trainer.contract.events import Kind
from trainer.contract.job_directory import JobState

pytestmark = pytest.mark.xdist_group("torch")
FULL = {"peft": None, "learning_rate": 1e-9, "max_steps": 1, "eval_on_start": False}
"""Hardly any learning: the loss is that of the weights as they were."""


@pytest.fixture(scope="session")
def architecture(tmp_path_factory):
    """Return a maker of folders with a tiny model of a kind."""
    return lambda kind: str(tiny_model_folder(tmp_path_factory.mktemp("tiny") / kind, kind))


def first_loss(job):
    assert job.train() is JobState.COMPLETED
    return job.metrics[1]["train_loss"]


def rows_of(job):
    """Return the token ids and labels that a job trains on, and its model."""
    from trainer.data.tokenization import prepare_datasets
    from trainer.engine.model import load_model, load_tokenizer
    from trainer.training.train import read_config

    config = read_config(job.directory)
    data = prepare_datasets(config, load_tokenizer(config), job.directory.cache)
    return data, load_model(config).eval()


def plain_loss(model, rows):
    """Return the mean over the learned tokens, each row by itself, by nothing but its logits."""
    import torch

    total, learned = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids, labels = (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
            logits = model(input_ids=ids).logits[0, :-1]
            total += float(cross_entropy(logits, labels[0, 1:], reduction="sum"))
            learned += int((labels[0, 1:] != -100).sum())
    return total / learned


def test_a_slower_way_is_said_noted_and_not_looked_for_again(
    make_job, architecture, tmp_path, capsys
):
    job = make_job(tmp_path / "job", model=architecture("nemotron"), max_steps=2)

    assert job.train() is JobState.COMPLETED

    said = capsys.readouterr().out
    line = "rows of a batch: padded, as each alone to "
    assert line in said
    assert "(not by document: " in said
    [event] = [event for event in job.events if event.kind == Kind.FALLBACK]
    assert event.facts["way"] == "padded"
    assert list(event.facts["refuted"]) == ["by document"]


def test_packed_rows_take_the_mask_where_only_that_is_right(make_job, architecture, tmp_path):
    job = make_job(tmp_path / "job", model=architecture("nemotron"), packing=True, **FULL)

    loss = first_loss(job)

    [event] = [event for event in job.events if event.kind == Kind.FALLBACK]
    assert event.facts["way"] == "mask"
    padded = make_job(
        tmp_path / "padded",
        model=job.config["model"],
        packing=False,
        **FULL | {"per_device_train_batch_size": 30},
    )
    packed = make_job(
        tmp_path / "packed",
        model=job.config["model"],
        packing=True,
        **FULL | {"per_device_train_batch_size": 30},
    )
    assert first_loss(packed) == pytest.approx(first_loss(padded), abs=2e-5)
    assert loss > 0


def test_packing_is_refused_where_it_is_not_right(make_job, architecture, tmp_path):
    job = make_job(tmp_path / "job", model=architecture("gpt_oss"), packing=True)

    with pytest.raises(ConfigError, match=r"^training\.packing: GptOssForCausalLM does not keep"):
        job.train()


@pytest.mark.thorough
def test_a_restart_does_not_prove_again(make_job, architecture, tmp_path, monkeypatch, capsys):
    from tests.trainer.jobs import PausesAfter
    from trainer.methods import ways

    job = make_job(tmp_path / "job", model=architecture("nemotron"), max_steps=3)
    assert job.train(PausesAfter(job.directory, 1)) is JobState.PAUSED
    job.directory.control.unlink()
    monkeypatch.setattr(ways, "first_proven", lambda *_, **__: pytest.fail("proven again"))

    assert job.train() is JobState.COMPLETED

    assert capsys.readouterr().out.count("rows of a batch: padded") == 2
    assert len([event for event in job.events if event.kind == Kind.FALLBACK]) == 1


def test_a_model_whose_loss_would_teach_it_to_copy_learns_to_predict(
    make_job, architecture, tmp_path
):
    settings = {"model": architecture("bart"), "per_device_train_batch_size": 30}
    job = make_job(tmp_path / "job", **FULL | settings)
    data, model = rows_of(job)

    assert first_loss(job) == pytest.approx(plain_loss(model, data.train), abs=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"padding_free": False}, marks=pytest.mark.thorough),
        pytest.param({"packing": True}, marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_routers_are_balanced_over_real_tokens_alone(make_job, architecture, tmp_path, settings):
    """However rows lie, all are in one batch, so that the routers see the same tokens."""
    whole = FULL | {"per_device_train_batch_size": 30, "model": architecture("mixtral")}
    whole["arguments"] = {"router_aux_loss_coef": 0.5}
    job = make_job(tmp_path / "job", **whole | settings)
    data, model = rows_of(job)

    assert first_loss(job) == pytest.approx(
        plain_loss(model, data.train) + 0.5 * balance_of(model, data.train), abs=1e-4
    )


def balance_of(model, rows):
    """Return transformers' own loss of the routers over the tokens of all rows, none padded."""
    import torch
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    with torch.no_grad():
        found = [
            model(input_ids=torch.tensor([row["input_ids"]]), output_router_logits=True)
            for row in rows
        ]
    layers = tuple(
        torch.cat(layer) for layer in zip(*(o.router_logits for o in found), strict=True)
    )
    return float(load_balancing_loss_func(layers, model.num_experts, model.num_experts_per_tok))


@pytest.mark.thorough
def test_routers_count_once_however_batches_accumulate(make_job, architecture, tmp_path):
    folder = architecture("mixtral")

    def routers(batch, accumulation):
        losses = []
        for weight in (0.0, 1.0):
            job = make_job(
                tmp_path / f"{batch}-{accumulation}-{weight}",
                model=folder,
                **FULL
                | {
                    "per_device_train_batch_size": batch,
                    "gradient_accumulation_steps": accumulation,
                }
                | {"arguments": {"router_aux_loss_coef": weight}},
            )
            losses.append(first_loss(job))
        return losses[1] - losses[0]

    # Not equal: what is balanced is each batch. Four times as much was the fault.
    assert routers(2, 4) == pytest.approx(routers(8, 1), rel=0.1)


def test_the_evaluation_is_of_tokens_not_of_batches(make_job, tmp_path):
    def evaluated(batch):
        settings = {"data": {"eval_fraction": 0.25}, "per_device_eval_batch_size": batch}
        job = make_job(tmp_path / str(batch), **FULL | settings | {"eval_on_start": True})
        data, model = rows_of(job)
        assert job.train() is JobState.COMPLETED
        return job.evaluations[0], plain_loss(model, data.eval)

    for batch in (1, 3, 8):
        ours, plain = evaluated(batch)
        assert ours == pytest.approx(plain, abs=1e-5)


@pytest.mark.thorough
def test_the_evaluation_of_routed_models_leaves_the_routers_out(make_job, architecture, tmp_path):
    settings = {"data": {"eval_fraction": 0.25}, "per_device_eval_batch_size": 3}
    settings |= {"model": architecture("qwen3_moe"), "eval_on_start": True}
    settings |= {"arguments": {"router_aux_loss_coef": 1.0}}
    job = make_job(tmp_path / "job", **FULL | settings)
    data, model = rows_of(job)

    assert job.train() is JobState.COMPLETED

    assert job.evaluations[0] == pytest.approx(plain_loss(model, data.eval), abs=1e-5)
