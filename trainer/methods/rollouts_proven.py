"""Prove that grpo, rloo and ppo learn from what the model computes of each row alone.

They draw answers from the model, and learn from how likely it holds them to be. Both are done with whole
batches, of which prompts are padded; a model may write or score something else there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from trainer.contract.errors import ConfigError
from trainer.data.chats import NO_LOSS
from trainer.methods.likelihoods import prove_scores
from trainer.methods.ppo_parts.answers import tokens_of_prompt
from trainer.methods.proof import (
    EXACT,
    ROUGH,
    Proof,
    Way,
    computes_exactly,
    name_of,
    probe_rows,
    tried,
    why_not,
    without_cache,
)
from trainer.methods.ways import ANSWERS_NOTE, PROBED, proven

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from trainer.engine.job_trainer import TrainingRun
    from trainer.methods.proof import Probe

TOKENS = 3
"""How many are written: the first follows the prompt, the others a cache."""
WRITTEN = {
    "written together": {"together": True, "cached": True},
    "written for prompts of one length at a time": {"together": False, "cached": True},
    "written for prompts of one length at a time, without a cache": {
        "together": False,
        "cached": False,
    },
}
"""The ways to write answers, from the fastest to the safest, in the words of the log."""


def prove_rollouts(run: TrainingRun, trainer: Any) -> None:
    """Prove what is learned from, and let answers be scored and written as is right for the model.

    Args:
        run: its inputs.
        trainer: has the model in its place, and `RolloutTrainer` before it.

    Raises:
        ConfigError: no way is right.
    """
    prompts = run.train_dataset[:PROBED]["prompt"]
    documents = [tokens_of_prompt(prompt, run.tokenizer) for prompt in prompts]
    has_head = run.config.method != "ppo"
    prove_scores(
        run,
        trainer,
        documents,
        partial(_scored, trainer),
        temperature=trainer.args.temperature,
        has_head=has_head,
    )
    if run.config.parallelism != "ddp":
        return  # not tried, as has just been said
    if getattr(trainer, "use_vllm", False):
        print("answers: written by vLLM, not proven", flush=True)  # noqa: T201 - the job's log
        return
    proof = proven(
        run, trainer, list(WRITTEN), partial(_first_way, run, trainer, documents), ANSWERS_NOTE
    )
    trainer.answer_by(**WRITTEN[proof.name])


def _scored(trainer: Any, probe: Probe, _: Way) -> list[Tensor]:
    """Return the log-likelihoods of each row's tokens but the first, as a rollout's are scored."""
    pad, device = trainer.processing_class.pad_token_id, probe.model.device
    asked = [row["labels"].count(NO_LOSS) for row in probe.rows]
    rows = [row["input_ids"] for row in probe.rows]
    answers = [row[prompt:] for row, prompt in zip(rows, asked, strict=True)]
    before, after = max(asked), max(map(len, answers))
    named = {
        "prompt_ids": [[pad] * (before - n) + row[:n] for row, n in zip(rows, asked, strict=True)],
        "prompt_mask": [[0] * (before - n) + [1] * n for n in asked],
        "completion_ids": [one + [pad] * (after - len(one)) for one in answers],
        "completion_mask": [[1] * len(one) + [0] * (after - len(one)) for one in answers],
    }
    batch = {name: torch.tensor(value, device=device) for name, value in named.items()}
    scored = trainer.scores(probe.model, batch)
    # Of a prompt nothing is learned.
    return [
        torch.cat([row.new_zeros(n), row[: len(one)]])[1:]
        for row, n, one in zip(scored, asked, answers, strict=True)
    ]


def _first_way(run: TrainingRun, trainer: Any, documents: Sequence[Sequence[int]]) -> Proof:
    """Return the first way in which the model writes what it would write after each row alone.

    Raises:
        ConfigError: there is none.
    """
    model, autocast = run.model, trainer.accelerator.autocast
    longest = run.config.max_length
    # A model may have no positions for more.
    prompts = [row["input_ids"] for row in probe_rows(documents, max(1, longest - TOKENS))]
    refuted: dict[str, str] = {}
    is_exact = computes_exactly(model, autocast)
    with tried(model, longest), autocast():
        for name, how in WRITTEN.items():
            short = min(map(len, prompts))
            batches = [prompts] if how["together"] else [[p[:short] for p in prompts], prompts[:1]]
            try:
                worst = max(
                    _difference(trainer, batch, cached=how["cached"], is_exact=is_exact)
                    for batch in batches
                )
            except Exception as error:  # noqa: BLE001 - what a model does not take, it does not take
                refuted[name] = why_not(error)
                continue
            if worst <= (EXACT if is_exact else ROUGH):
                return Proof(name, worst, refuted=refuted, what="answers")
            refuted[name] = f"logits differ by {worst:.2g}"
    reasons = "; ".join(f"not {name}: {reason}" for name, reason in refuted.items())
    raise ConfigError(
        f"training.method: {name_of(model)} does not write by what it computes ({reasons}).",
        "Choose another model, or a method that does not generate.",
    )


def _difference(trainer: Any, prompts: list[list[int]], *, cached: bool, is_exact: bool) -> float:
    """Return by how much the logits that answers are drawn by differ from those of rows alone."""
    model, pad = trainer.model, trainer.processing_class.pad_token_id
    width = max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    made = model.generate(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=TOKENS,
            pad_token_id=pad,
            use_cache=cached,
            output_logits=True,
            return_dict_in_generate=True,
            disable_compile=True,
        ),
    )
    by_row = torch.stack(made.logits, dim=1).float()
    plain = torch.stack(
        [
            _plain(model, prompt, written[width:].tolist())
            for prompt, written in zip(prompts, made.sequences, strict=True)
        ]
    )
    gap = by_row - plain
    if is_exact:
        return float(gap.abs().max() / plain.abs().max().clamp(min=1e-3))
    return float(gap.square().mean().sqrt() / plain.square().mean().sqrt().clamp(min=1e-3))


def _plain(model: PreTrainedModel, prompt: list[int], written: list[int]) -> Tensor:
    """Return the logits by which the model, of this row alone, would have drawn what was written."""
    ids = torch.tensor([[*prompt, *written[:-1]]], device=model.device)
    logits: Tensor = model(input_ids=ids, **without_cache(model)).logits
    return logits[0, -len(written) :].float()
