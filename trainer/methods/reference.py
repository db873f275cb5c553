"""What dpo's reference says of each pair, computed once however often the pair comes back.

The reference does not change while a model learns, but TRL asks it at every step: a third of the
arithmetic. TRL can also ask it of all pairs before the first step, which delays that step, and is in
vain where a run ends within its first epoch. Here it is asked when a pair first comes.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open

from trainer.contract.world import own_rank
from trainer.engine.collectives import all_to_first
from trainer.methods.prepared import PreparedTrainer

if TYPE_CHECKING:
    from torch import Tensor

REFERENCES = "references.safetensors"
DIGEST = 16  # bytes


class RememberingTrainer(PreparedTrainer):
    """The mixin before TRL's DPOTrainer."""

    args: Any
    model: Any
    ref_model: Any
    state: Any
    precompute_ref_logps: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._known: dict[bytes, tuple[float, float]] = {}
        super().__init__(*args, **kwargs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: Any) -> Any:
        """Return TRL's loss; what the reference says is given to it where that is known."""
        compute = super()._compute_loss  # type: ignore[misc] # mixin
        if not self._comes_back():
            return compute(model, inputs, return_outputs)
        chosen, rejected = self._reference(inputs)
        given = {**inputs, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        self.precompute_ref_logps = True
        try:
            return compute(model, given, return_outputs)
        finally:
            self.precompute_ref_logps = False

    def _comes_back(self) -> bool:
        """Whether pairs are seen again, and the reference then says the same of them."""
        args = self.args
        is_constant = args.disable_dropout and not args.sync_ref_model
        again = not self.model.training or self.state.num_train_epochs > 1
        return bool(is_constant and again and not args.precompute_ref_log_probs)

    def _reference(self, inputs: dict[str, Any]) -> Tensor:
        """Return the log-likelihoods of the better and the worse answers, shape (2, pairs)."""
        pairs = _digests(inputs)
        if not self._known.keys() >= set(pairs):
            model = self.ref_model or self.model
            found = self.compute_ref_log_probs(model, inputs)  # type: ignore[attr-defined] # mixin
            values = zip(*(each.tolist() for each in found), strict=True)
            # What is known stays: the same pair in another batch may be rounded otherwise.
            self._known = dict(zip(pairs, values, strict=True)) | self._known
        known = torch.tensor([self._known[pair] for pair in pairs], device=self.args.device)
        return known.T

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        tensors: dict[str, Tensor] = {}
        # Each process has seen other pairs, and goes on from what it knew itself.
        for rank, known in all_to_first((own_rank().rank, self._known)):
            keys = np.frombuffer(b"".join(known), np.uint8).reshape(-1, 2 * DIGEST)
            tensors[f"pairs.{rank}"] = torch.from_numpy(keys.copy())
            tensors[f"reference.{rank}"] = torch.tensor([*known.values()]).reshape(-1, 2)
        if tensors:
            # By its module, where `saving.writes_put_off` puts another in its place meanwhile.
            safetensors.torch.save_file(tensors, Path(output_dir) / REFERENCES)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        path = Path(checkpoint or "") / REFERENCES
        if checkpoint is None or not path.exists():
            return
        rank = own_rank().rank
        with safe_open(path, framework="pt") as stream:
            if f"pairs.{rank}" not in stream.keys():  # noqa: SIM118 - no dict
                return  # more processes than before
            keys = stream.get_tensor(f"pairs.{rank}").numpy()
            values = stream.get_tensor(f"reference.{rank}").tolist()
        self._known = {key.tobytes(): (a, b) for key, (a, b) in zip(keys, values, strict=True)}


def _digests(inputs: dict[str, Any]) -> list[bytes]:
    """Return what identifies each pair of a batch, however wide that is padded."""
    names = ("input_ids", "completion_mask", "attention_mask")
    ids, answers, masks = (inputs[name].cpu().numpy() for name in names)
    rows = [
        blake2b(np.stack([row, answer])[:, mask > 0].tobytes(), digest_size=DIGEST).digest()
        for row, answer, mask in zip(ids, answers, masks, strict=True)
    ]
    half = len(rows) // 2
    return [better + worse for better, worse in zip(rows[:half], rows[half:], strict=True)]
