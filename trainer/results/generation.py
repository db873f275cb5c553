"""How the result is to be asked: the tokens at which it stops, beside the model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def write_generation_config(
    folders: list[Path], model: Any, tokenizer: PreTrainedTokenizerBase, turn_end: str
) -> None:
    """Write generation_config.json: the model's own, which stops where it has learned to stop.

    A base model stops at the end of a text alone, while the turns of a chat often end in another
    token.

    Args:
        folders: where to write.
        model: the trained model.
        tokenizer: as used.
        turn_end: the token that ends the assistant's turn.
    """
    from transformers import GenerationConfig

    own = getattr(model, "generation_config", None)
    config = copy.deepcopy(own) if own else GenerationConfig.from_model_config(model.config)
    named = config.eos_token_id
    before = named if isinstance(named, list) else [named]
    ends = [*before, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(turn_end)]
    config.eos_token_id = [*dict.fromkeys(i for i in ends if i is not None)]
    # Else what stands here may be made anew from the model's config, which has no such ends.
    config._from_model_config = False
    try:
        for folder in folders:
            config.save_pretrained(folder)
    except ValueError:  # its own samplers contradict each other; ends are what matters here
        plain = GenerationConfig(
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )
        for folder in folders:
            plain.save_pretrained(folder)
