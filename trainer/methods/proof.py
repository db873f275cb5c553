"""Prove on the model itself that a batch computes what each of its rows computes alone.

Rows that lie in one sequence must not see each other, logits must be those of the positions that
are kept, and the loss must be that of plain rows. Whether they are depends on the model: on what
its layers pass on to attention, where its windows and positions come from, what it keeps from token
to token. No list of architectures knows that. So a few short rows are put through the model, alone
and as the training would put them, and a token is exchanged to see what moves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainer.contract.errors import ConfigError
from trainer.data.chats import NO_LOSS
from trainer.engine.attention import without_adapters
from trainer.engine.failures import runs_out

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    Row = dict[str, Any]
    Collate = Callable[[list[Row]], Mapping[str, Any]]
    Fault = Callable[["Probe", "Way"], str | None]

LENGTHS = (24, 17, 9)
"""Tokens of the rows that are compared."""
WINDOW = 4
"""Tokens that a window holds meanwhile, so that such short rows show whether it is kept."""
WINDOWS = ("sliding_window", "attention_chunk_size", "local_attention")
EXACT = 1e-4
"""By how much two ways to compute a logit may differ in float32, as a part of the largest."""
ROUGH = 0.05
"""The same of all logits, in the mean, where numbers are rounded at every layer: to 0.4 % in 16 bits.
A largest difference would not do: an expert's place that is narrowly lost is another product."""
MOVED = 0.2
"""Of that, by the exchange of a token elsewhere: nothing else of the computation differs."""
ITEMS = 7.0
"""What a loss is divided by: an uncommon number, which a mean over tokens would not give."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to put rows through the model."""

    name: str
    """In the words of the log."""
    collate: Collate
    is_flat: bool
    """Whether its batches are one sequence."""
    prepare: Callable[[], None]
    """Make the model attend so."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of it."""

    name: str
    """Of the way that is right."""
    difference: float
    """By how much logits differed at most from those of rows alone."""
    loss_fault: str | None = None
    """Why what is learned from is not what the model's logits say; None: it is."""
    refuted: dict[str, str] = field(default_factory=dict)
    """Why each way before it is not right for this model, by its name."""

    what: str = "rows of a batch"

    def in_words(self) -> str:
        """Return one line for the log."""
        found = f"{self.name}, as each alone to {self.difference:.1g}"
        loss = f"; the loss is made of its logits: {self.loss_fault}" if self.loss_fault else ""
        why = "; ".join(f"not {name}: {reason}" for name, reason in self.refuted.items())
        return f"{self.what}: {found}{loss}{f' ({why})' if why else ''}"


def first_proven(
    model: PreTrainedModel,
    ways: Sequence[Way],
    documents: Sequence[Sequence[int]],
    *,
    longest: int,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    fault_of: Fault | None = None,
) -> Proof:
    """Return the first way by which the model computes what it computes of each row alone.

    Args:
        model: in its place, adapters on.
        ways: from the fastest to the safest.
        documents: token ids of some rows of the data.
        longest: tokens of the longest row that is trained on; windows beyond it do not matter.
        autocast: the precision that the training computes in.
        fault_of: returns why what a method learns from is not what the logits of rows alone say,
            or None; if not given, it learns from the model's own loss.

    Raises:
        ConfigError: the model is not causal, or nothing would be learned.
        Refuted: no way is right.
    """
    with tried(model, longest):
        probe = Probe(model, probe_rows(documents, longest), autocast)
        with autocast():
            refuse_without_gradient(model, probe.rows[0]["input_ids"])
        return probe.first(ways, fault_of or own_loss_fault)


@contextmanager
def tried(model: PreTrainedModel, longest: int) -> Iterator[None]:
    """Make a model ready to be tried; its mode and the random numbers that follow stay as they were.

    Args:
        model: in its place, adapters on.
        longest: tokens of the longest row that is trained on; windows beyond it do not matter.
    """
    was_training = model.training
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad(), _short_windows(model, longest):
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)


class Refuted(Exception):
    """No way to lay rows out is right for the model; the reasons, by the ways' names."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))


def probe_rows(documents: Sequence[Sequence[int]], longest: int) -> list[Row]:
    """Return rows of known lengths, made of the first tokens of the data's, repeated if need be.

    Of the first third of each nothing is learned, as of a prompt.
    """
    rows = []
    for number, length in enumerate(LENGTHS):
        ids = list(documents[number % len(documents)]) or [1]
        row = [int(token) for token in np.resize(ids, min(length, longest))]
        rows.append(
            {"input_ids": row, "labels": [NO_LOSS] * (len(row) // 3) + row[len(row) // 3 :]}
        )
    return rows


@contextmanager
def _short_windows(model: PreTrainedModel, longest: int) -> Iterator[None]:
    """Let each window of the model that cuts rows hold `WINDOW` tokens only."""
    # Layers copy the number from the config; masks are made from the config at every call.
    places = [model.config, model.config.get_text_config(), *model.modules()]
    changed: list[tuple[Any, str, int]] = []
    for place in places:
        for name in WINDOWS:
            value = getattr(place, name, None)
            if type(value) is int and WINDOW < value < longest:
                changed.append((place, name, value))
    for place, name, _ in changed:
        setattr(place, name, WINDOW)
    try:
        yield
    finally:
        for place, name, value in changed:
            setattr(place, name, value)


class Probe:
    """A few rows, and what the model makes of each alone."""

    def __init__(
        self,
        model: PreTrainedModel,
        rows: list[Row],
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.model = model
        self.rows = rows
        """Their labels are `NO_LOSS` for the first third, as for a prompt."""
        self.autocast = autocast
        self._ends = [_with_another_end(row, model) for row in rows[:-1]] + rows[-1:]
        try:
            self.alone = [self.of_one(row) for row in rows]
            """The logits of each, of shape (tokens, vocabulary)."""
        except Exception as error:
            raise _failing(model, error) from error
        self.is_exact = computes_exactly(model, autocast)
        self.limit = EXACT if self.is_exact else ROUGH
        self._scale = max(self._size(torch.cat(self.alone)), 1e-3)
        self._refuse_what_is_not_causal()

    def first(self, ways: Sequence[Way], fault_of: Fault) -> Proof:
        """Return the first that is right."""
        refuted: dict[str, str] = {}
        for way in ways:
            way.prepare()
            try:
                logits = self._together(way, self.rows)
                moved = self._together(way, self._ends)
                reason, difference = self._compared(logits, moved)
            except Exception as error:  # noqa: BLE001 - what a model does not take, it does not take
                reason, difference = why_not(error), 0.0
            # Where numbers are rounded, nothing is safer than a padded batch that looks otherwise.
            is_last = way is ways[-1] and not way.is_flat
            if reason is None or (is_last and not self.is_exact and difference):
                return Proof(way.name, difference, fault_of(self, way), refuted)
            refuted[way.name] = reason
        raise Refuted(refuted)

    def _compared(self, logits: list[Tensor], moved: list[Tensor]) -> tuple[str | None, float]:
        """Return why logits are not right, or None; and by how much they differ at most."""
        worst = 0.0
        for number, (ours, plain) in enumerate(zip(logits, self.alone, strict=True), 1):
            worst = max(worst, difference := self.distance(ours, plain))
            if not difference <= self.limit:
                return f"logits of row {number} differ by {difference:.2g}", difference
        for number, (before, after) in enumerate(zip(logits, moved, strict=True), 1):
            kept = slice(None, None if number == len(logits) else -1)
            if self.distance(before[kept], after[kept]) > MOVED * self.limit:
                return f"row {number} sees tokens that are not its own or come later", worst
        return None, worst

    def distance(self, ours: Tensor, plain: Tensor) -> float:
        """Return how far apart logits are, as a part of what they are; NaN are not counted."""
        there = torch.isfinite(ours).all(-1)
        return self._size((ours - plain)[there]) / self._scale if there.any() else 0.0

    def _size(self, values: Tensor) -> float:
        return float(values.abs().max() if self.is_exact else values.square().mean().sqrt())

    def of_one(self, row: Row) -> Tensor:
        """Return the logits of a row alone, shape (tokens, vocabulary)."""
        ids = torch.tensor([row["input_ids"]], device=self.model.device)
        with self.autocast():
            logits = self.model(input_ids=ids, **without_cache(self.model)).logits
        # A trained prompt stands before the row and has logits too.
        own: Tensor = logits[0, -ids.shape[1] :].float()
        return own

    def batch(self, way: Way, rows: list[Row]) -> dict[str, Any]:
        """Return rows as a way puts them together, on the model's device."""
        copies = [{name: np.array(ids) for name, ids in row.items()} for row in rows]
        device = self.model.device
        return {name: moved(value, device) for name, value in way.collate(copies).items()}

    def _together(self, way: Way, rows: list[Row]) -> list[Tensor]:
        """Return the logits of each row, NaN where none were computed."""
        batch = self.batch(way, rows)
        del batch["labels"]
        batch.pop("shift_labels", None)
        with self.autocast():
            logits = self.model(**batch, **without_cache(self.model)).logits
        width = batch["input_ids"].shape[1]
        if way.is_flat:
            flat = torch.full((width, logits.shape[-1]), torch.nan, device=logits.device)
            flat[batch.get("logits_to_keep", slice(None))] = logits[0].float()
            return list(torch.split(flat, [len(row["input_ids"]) for row in rows]))
        # A trained prompt stands before the rows and has logits too.
        logits = logits[:, -width:].float()
        return [one[: len(row["input_ids"])] for one, row in zip(logits, rows, strict=True)]

    def _refuse_what_is_not_causal(self) -> None:
        row, limit = self.alone[0], self.limit * (MOVED if self.is_exact else 1)
        if self.distance(row[:-1], self.of_one(self._ends[0])[:-1]) > limit:
            if self.distance(row, self.of_one(self.rows[0])) > limit:
                raise ConfigError(
                    f"training.model: {name_of(self.model)} computes something else of the same row "
                    "each time.",
                    "Choose another model, or take out of its config.json what draws random numbers.",
                )
            raise ConfigError(
                f"training.model: in {name_of(self.model)} a token sees those that come "
                "after it, so it learns to copy and not to predict.",
                "Choose a causal model; of an encoder set is_decoder: true in its config.json.",
            )


def computes_exactly(
    model: PreTrainedModel, autocast: Callable[[], AbstractContextManager[Any]]
) -> bool:
    """Whether all is computed in float32; a GPU may take fewer bits for it than it says."""
    device = model.device.type
    with autocast():
        mixed = torch.is_autocast_enabled(device)
    halves = (p.is_floating_point() and p.dtype is not torch.float32 for p in model.parameters())
    is_quantised = getattr(model, "hf_quantizer", None) is not None
    return device == "cpu" and not mixed and not is_quantised and not any(halves)


def refuse_without_gradient(model: PreTrainedModel, ids: list[int]) -> None:
    """Refuse a model whose layers hide from PyTorch what they compute by, as reversible ones do.

    Raises:
        ConfigError: no gradient comes to what is trained.
    """
    with torch.enable_grad():
        row = torch.tensor([ids], device=model.device)
        logits = model(input_ids=row, **without_cache(model)).logits
    if not logits.requires_grad:
        raise ConfigError(
            f"training.peft: in {name_of(model)} no gradient comes to the adapters, so that they "
            "would learn nothing.",
            "Set peft: null to train all weights, or choose another model.",
        )


def own_loss_fault(probe: Probe, way: Way) -> str | None:
    """Return why a model's own loss is not the sum over learned tokens through `ITEMS`, or None."""
    model, batch = probe.model, probe.batch(way, probe.rows)
    try:
        with probe.autocast():
            out = model(**batch, **without_cache(model), num_items_in_batch=ITEMS)
        loss = float(out.loss) - float(own_router_loss(model, out))
    except Exception as error:  # noqa: BLE001 - what a model does not take, it does not take
        return why_not(error)
    losses = map(losses_of, probe.rows, probe.alone)
    expected = float(torch.cat(list(losses)).sum() / ITEMS)
    if not abs(loss - expected) <= probe.limit / 2 * expected:
        return f"the model's is {loss:.5g} instead of {expected:.5g}"
    return None


def losses_of(row: Row, logits: Tensor) -> Tensor:
    """Return the loss of each token but the first, 0 where nothing is to be learned."""
    following = torch.tensor(row["labels"][1:], device=logits.device)
    return torch.nn.functional.cross_entropy(
        logits[:-1], following, ignore_index=NO_LOSS, reduction="none"
    )


def own_router_loss(model: PreTrainedModel, out: Any) -> Tensor | float:
    """Return what a model has added to its loss for the balance of its experts."""
    router = getattr(out, "aux_loss", None)
    if not isinstance(router, torch.Tensor):
        return 0.0
    base = without_adapters(model)
    of_config = getattr(base.config.get_text_config(), "router_aux_loss_coef", 0.0)
    # Most read it once, when they are built.
    return router * float(getattr(base, "router_aux_loss_coef", of_config))


def name_of(model: PreTrainedModel) -> str:
    """Return the name of a model's class, whatever adapters wrap it."""
    base = without_adapters(model)
    return type(base).__name__


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    """Return what keeps a model from filling a cache, by which documents could see each other."""
    base = without_adapters(model)
    parameters = inspect.signature(base.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {"use_cache": False} if takes_any or "use_cache" in parameters else {}


def _failing(model: PreTrainedModel, error: Exception) -> Exception:
    """Return what to raise where a model cannot compute a row by itself, with its routers or not."""
    if runs_out(error):
        return error
    if getattr(model.config.get_text_config(), "output_router_logits", False):
        remedy = "If it has no routers that are balanced, set arguments: {router_aux_loss_coef: 0}."
    else:
        remedy = "Choose another model."
    what = f"training.model: {name_of(model)} cannot compute a row by itself: {_first_line(error)}."
    return ConfigError(what, remedy)


def why_not(error: Exception) -> str:
    """Return what a model says of something that it does not take; memory that ran out is raised."""
    if runs_out(error):
        raise error
    return _first_line(error)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _with_another_end(row: Row, model: PreTrainedModel) -> Row:
    """Return a row whose last token is another one."""
    *rest, last = row["input_ids"]
    size = model.get_input_embeddings().weight.shape[0]
    return {**row, "input_ids": [*rest, (last + 1) % size]}


def moved(value: Any, device: torch.device) -> Any:
    """Return what a batch holds on a device: tensors, lists of them, or anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return [moved(one, device) for one in value] if isinstance(value, list) else value
