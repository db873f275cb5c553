"""grpo, rloo and ppo score and write answers as the model does of each row alone, or say why not."""

import importlib

import pytest

from tests.trainer.architectures.tiny import tiny_model_folder
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState
from trainer.methods.aligned import Aligned

pytestmark = [
    pytest.mark.xdist_group("torch"),
    # TRL reads old names of transformers'; the trainer's process says nothing of it.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning"),
]
ASKED = [[5, 9, 13, 22, 31], [44, 3], [10, 11, 12]]
ANSWERED = [[7, 8], [60, 61, 62, 63], [20]]


@pytest.fixture(scope="module")
def architecture(tmp_path_factory):
    """Return a maker of folders with a tiny model of a kind."""
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = tiny_model_folder(tmp_path_factory.mktemp("tiny") / kind, kind)
        return str(made[kind])

    return of


def padded(rows, *, left):
    import torch

    width = max(map(len, rows))
    pad = [[0] * (width - len(row)) for row in rows]
    ids = [p + row if left else row + p for row, p in zip(rows, pad, strict=True)]
    ones = [[1] * len(row) for row in rows]
    mask = [p + one if left else one + p for one, p in zip(ones, pad, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)


def rollout():
    prompts, answers = padded(ASKED, left=True), padded(ANSWERED, left=False)
    return {
        "prompt_ids": prompts[0],
        "prompt_mask": prompts[1],
        "completion_ids": answers[0],
        "completion_mask": answers[1],
    }


def built(job):
    """Return the trainer of a job, before its first step."""
    from trainer.config.methods import METHODS
    from trainer.training.train import prepare, read_config

    run, _, _ = prepare(job.directory, read_config(job.directory))
    return importlib.import_module(METHODS[run.config.method].module).build(run)


def online(make_online, folder, method, model, **settings):
    compared = {} if method == "ppo" else {"num_generations": 2}
    small = {"method": method, "model": model, "per_device_train_batch_size": 4}
    return make_online(folder / "job", **small, **compared, **settings)


def test_padding_moves_to_the_end_and_answers_back_to_their_place():
    import torch

    (ids, mask), (answers, kept) = padded(ASKED, left=True), padded(ANSWERED, left=False)
    rows = Aligned.of(torch.cat([ids, answers], 1), torch.cat([mask, kept], 1), answers.shape[1])

    whole = [asked + said for asked, said in zip(ASKED, ANSWERED, strict=True)]
    assert [
        row[seen.bool()].tolist() for row, seen in zip(rows.ids, rows.mask, strict=True)
    ] == whole
    assert rows.ids.shape[1] == 7
    assert rows.scored == 5  # the first answer begins after two tokens
    assert torch.equal(rows.answers(rows.ids[:, -rows.scored :].float()), answers * kept.float())


def test_nothing_is_said_of_a_token_that_nothing_comes_before():
    import torch

    ids, mask = torch.tensor([[0, 5, 6]]), torch.tensor([[0, 1, 1]])
    rows = Aligned.of(ids, mask, 2)

    assert rows.answers(rows.ids[:, -rows.scored :].float()).tolist() == [[0.0, 6.0]]


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("grpo", "gpt2"),
        pytest.param("rloo", "gpt2", marks=pytest.mark.thorough),
        ("ppo", "gpt2"),
        pytest.param("grpo", "bert", marks=pytest.mark.thorough),
        ("ppo", "mamba"),
    ],
)
def test_answers_are_scored_as_those_of_each_row_alone(
    tmp_path, make_online, architecture, method, kind
):
    """Positions that count from the padding, a head that TRL passes over, a model without any."""
    import torch

    job = online(make_online, tmp_path, method, architecture(kind), peft=None, temperature=0.7)
    trainer = built(job)
    model = trainer.model.eval()

    with torch.no_grad():
        scored = trainer.scores(model, rollout())
        for number, (asked, said) in enumerate(zip(ASKED, ANSWERED, strict=True)):
            logits = model(input_ids=torch.tensor([asked + said])).logits[0, len(asked) - 1 : -1]
            known = (logits / 0.7).log_softmax(-1)
            plain = known.gather(1, torch.tensor(said)[:, None])[:, 0]
            torch.testing.assert_close(scored[number, : len(said)], plain, rtol=1e-4, atol=1e-5)
            assert not scored[number, len(said) :].any()


@pytest.mark.parametrize("method", ["grpo", pytest.param("rloo", marks=pytest.mark.thorough)])
def test_a_head_that_trl_passes_over_is_called_and_said(
    tmp_path, make_online, architecture, capsys, method
):
    job = online(make_online, tmp_path, method, architecture("bert"), max_steps=1)

    assert job.train() is JobState.COMPLETED

    said = capsys.readouterr().out
    assert "the loss is made of its logits: log-likelihoods of row 1 differ by " in said
    assert "answers: written together, as each alone to " in said


def test_a_model_that_sees_what_comes_later_is_refused(tmp_path, make_online, architecture):
    job = online(make_online, tmp_path, "grpo", architecture("xlnet"))

    with pytest.raises(ConfigError, match=r"^training\.model: in XLNetLMHeadModel a token sees"):
        built(job)


@pytest.fixture
def calls(monkeypatch):
    """What is generated from: masks and settings, call by call."""
    from transformers import GenerationMixin

    generate, seen = GenerationMixin.generate, []

    def noted(self, *args, **kwargs):
        seen.append((kwargs["attention_mask"], kwargs["generation_config"]))
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(GenerationMixin, "generate", noted)
    return seen


@pytest.mark.parametrize(
    ("kind", "cached"), [("bart", True), pytest.param("rwkv", False, marks=pytest.mark.thorough)]
)
def test_prompts_are_answered_apart_where_padding_would_change_what_is_written(
    tmp_path, make_online, architecture, calls, capsys, kind, cached
):
    """BART counts positions from the padding; RWKV's cache holds another state."""
    settings = {"peft": None, "temperature": 1e-6}  # the likeliest token
    trainer = built(online(make_online, tmp_path, "grpo", architecture(kind), **settings))
    assert "answers: written for prompts of one length at a time" in capsys.readouterr().out
    prompts = [ASKED[0], ASKED[1], ASKED[2], [7, 8]]
    calls.clear()

    answers, _ = trainer._generate_single_turn(prompts, None, {}, 1)

    assert [mask.shape[0] for mask, _ in calls] == [2, 1, 1]
    assert all(mask.all() for mask, _ in calls)
    assert all((config.use_cache is not False) is cached for _, config in calls)
    alone = [trainer._generate_single_turn([prompt], None, {}, 1)[0][0] for prompt in prompts]
    assert answers == alone


@pytest.mark.thorough
def test_ppo_answers_them_apart_too(tmp_path, make_online, architecture, calls):
    settings = {"peft": None, "temperature": 1e-6}
    trainer = built(online(make_online, tmp_path, "ppo", architecture("bart"), **settings))
    prompts = ["What is it?", "Who reads the notes of the others?", "Who is it?", "b"]
    calls.clear()

    batch, _ = trainer._answers(prompts)

    assert len(calls) > 1
    assert all(mask.all() for mask, _ in calls)
    for row, prompt in enumerate(prompts):
        alone, _ = trainer._answers([prompt])
        width = int(alone["completion_mask"].sum())
        assert batch["completion_ids"][row, :width].tolist() == alone["completion_ids"][0].tolist()


def test_a_model_that_does_not_write_what_it_computes_is_refused(
    tmp_path, make_online, architecture
):
    """RoBERTa's positions begin after the padding's, and generating counts them from 0."""
    job = online(make_online, tmp_path, "rloo", architecture("roberta"), peft=None)

    with pytest.raises(ConfigError, match=r"^training\.method: RobertaForCausalLM does not write"):
        built(job)
