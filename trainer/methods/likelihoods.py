"""Log-likelihoods by TRL's fused head where they are those of the model, else by its logits.

TRL's head multiplies the last hidden states by the output weights, tile by tile, and never calls what a
model does between the two, nor its own loss of routers. It is proven on the model, like the way of
its rows; where it is not right, likelihoods are made of the model's logits.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import FusedCausalLMOutput

from trainer.contract.errors import ConfigError
from trainer.data.chats import NO_LOSS
from trainer.data.collation import PaddedCollator
from trainer.engine.attention import Isolation, without_adapters
from trainer.methods.flat_head import SCORES, lay_flat, scores_of
from trainer.methods.proof import Probe, Way, losses_of, name_of, why_not, without_cache
from trainer.methods.ways import PROBED, chosen, isolations, ways_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from trainer.engine.job_trainer import TrainingRun
    from trainer.methods.proof import Collate

    Scores = Callable[[Probe, Way], Sequence[Tensor]]
    """Returns log-likelihoods as a method learns from them, row by row: of each token but the first."""


def prove_likelihoods(run: TrainingRun, trainer: Any, answer: str) -> None:
    """Prove that dpo or kto score rows as each alone, by the logits if need be.

    Args:
        run: its inputs.
        trainer: of TRL, with its fused head on the model.
        answer: the column of answers that are scored.

    Raises:
        ConfigError: the model is not causal, or what is learned from is not what it computes.
    """
    routed = {"output_router_logits": True} if getattr(trainer, "aux_loss_enabled", False) else {}
    padded = DataCollatorForLanguageModeling(pad_token_id=run.tokenizer.pad_token_id)
    scores = partial(_by_head, PaddedCollator(padded), routed)
    prove_scores(run, trainer, documents_of(run, answer), scores)


def documents_of(run: TrainingRun, answer: str) -> list[list[int]]:
    """Return the token ids of some prompts with their answers, which are in a column."""
    rows = run.train_dataset[:PROBED]
    return [prompt + ids for prompt, ids in zip(rows["prompt_ids"], rows[answer], strict=True)]


def prove_scores(
    run: TrainingRun,
    trainer: Any,
    documents: Sequence[Sequence[int]],
    scores: Scores,
    *,
    temperature: float = 1.0,
    has_head: bool = True,
    averaged: bool = False,
) -> None:
    """Prove that log-likelihoods are those of each row alone, by the logits if need be.

    Args:
        run: its inputs.
        trainer: it has the model in its place.
        documents: token ids of some rows of the data.
        scores: computes what the method learns from.
        temperature: logits are divided by it.
        has_head: whether it is TRL's fused head that computes it.
        averaged: whether `scores` returns one number a row, the mean over its learned tokens.

    Raises:
        ConfigError: the model is not causal, or what is learned from is not what it computes.
    """
    models = [run.model, *filter(None, [getattr(trainer, "ref_model", None)])]

    def by_logits() -> None:
        for model in models:
            score_by_logits(model, temperature)

    def fault_of(probe: Probe, way: Way) -> str | None:
        look = partial(_fault, probe, way, scores, temperature, averaged=averaged)
        fault = left = look()
        if fault and has_head:
            by_logits()
            left = look()
        if left:
            raise _refused(run, left)
        return f"{fault}, and of padded rows" if fault and way.is_flat else fault

    padded = DataCollatorForLanguageModeling(pad_token_id=run.tokenizer.pad_token_id)
    kept_apart = isolations(run.model, run.config) if has_head else []
    ways = {model: _ways(model, kept_apart, padded) for model in models}
    way, proof = chosen(run, trainer, ways[run.model], documents, fault_of)
    for model in models[1:]:  # the reference scores as it does
        next(its for its in ways[model] if its.name == way.name).prepare()
    if proof.loss_fault:
        by_logits()


def _ways(model: PreTrainedModel, kept_apart: Sequence[Isolation], padded: Any) -> list[Way]:
    """Return the ways to lay out rows to be scored, each of which undoes another."""
    laid: list[Callable[[], None]] = []

    def prepare(way: Way) -> None:
        while laid:
            laid.pop()()
        way.prepare()
        if way.is_flat:
            laid.append(lay_flat(model, Isolation(way.name)))

    plain = ways_of(model, kept_apart, padded, head_can_skip=False)
    return [replace(way, prepare=partial(prepare, way)) for way in plain]


def _refused(run: TrainingRun, fault: str) -> ConfigError:
    return ConfigError(
        f"training.model: {run.config.method} would not learn from what {name_of(run.model)} "
        f"computes: {fault}.",
        "Choose another model, or another method.",
    )


def _by_head(padded: Collate, routed: dict[str, Any], probe: Probe, way: Way) -> list[Tensor]:
    """Return the log-likelihoods of TRL's fused head, as dpo and kto ask for them."""
    # Padded, however the head lays them out then.
    given = {**probe.batch(replace(way, collate=padded), probe.rows), **routed, "use_cache": False}
    scored = probe.model(**given, fused_lm_head=True).log_probs
    return list(scored[:, 1 - given["labels"].shape[1] :])


def _fault(
    probe: Probe, way: Way, scores: Scores, temperature: float, *, averaged: bool
) -> str | None:
    """Return why likelihoods are not those of the logits of rows alone, or None."""
    try:
        with probe.autocast():
            scored = scores(probe, way)
    except Exception as error:  # noqa: BLE001 - what a model does not take, it does not take
        return why_not(error)
    for number, (row, logits) in enumerate(zip(probe.rows, probe.alone, strict=True), 1):
        plain = -losses_of(row, logits / temperature)
        if averaged:
            plain = plain.sum(0, keepdim=True) / sum(
                label != NO_LOSS for label in row["labels"][1:]
            )
        ours = scored[number - 1][: len(plain)].float()
        difference = probe.distance(ours[:, None], plain[:, None]) * temperature
        if not difference <= probe.limit:
            return f"log-likelihoods of row {number} differ by {difference:.2g}"
    return None


def score_by_logits(model: PreTrainedModel, temperature: float = 1.0) -> None:
    """Put in the place of TRL's fused head one that returns the same of the model's own logits."""
    base: Any = without_adapters(model)
    own = types.MethodType(type(base).forward, base)

    # As TRL does: generation checks its arguments against the signature.
    @functools.wraps(type(base).forward)
    def forward(
        self: PreTrainedModel,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        **given: Any,
    ) -> Any:
        if not fused_lm_head:
            return own(*args, **given, **({} if labels is None else {"labels": labels}))
        assert labels is not None  # noqa: S101 - for the type checker: TRL gives them
        given.pop("use_cache", None)
        out = own(*args, **given, **without_cache(self))
        logits = out.logits[:, -labels.shape[1] : -1].float() / temperature
        scores = _scores(logits, labels[:, 1:])
        routers = getattr(out, "aux_loss", None)  # some have routers, and no loss of them
        balance = routers if isinstance(routers, torch.Tensor) else out.logits.new_zeros(())
        return FusedCausalLMOutput(**scores, aux_loss=balance)

    base.forward = types.MethodType(forward, base)


def _scores(logits: Tensor, following: Tensor) -> dict[str, Tensor]:
    """Return what TRL's head does of each token; 0 where nothing is learned."""
    mask = following != NO_LOSS
    scores = scores_of(logits, following.clamp(min=0), SCORES)
    kept = {name: score.masked_fill(~mask, 0) for name, score in scores.items()}
    return kept | {"label_mask": mask}
