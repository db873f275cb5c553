"""How a model attends, and how rows that lie in one sequence are kept from seeing each other.

A batch without padding is one sequence of shape (1, tokens) that holds several documents. With flash
attention their bounds go to its kernel. Without, transformers would mask a matrix of tokens × tokens;
`by_document` attends within each document instead, by PyTorch's own fused attention: as much
arithmetic as in a padded batch, while all other layers are spared the padding.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from trainer.contract.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BY_DOCUMENT = "sdpa_by_document"
"""The name under which transformers knows `by_document`."""


KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers in which tokens meet by attention alone."""


class Isolation(StrEnum):
    """What keeps the documents of one sequence apart."""

    FLASH = "flash"
    """The kernel of flash attention, which takes their bounds."""
    BY_DOCUMENT = "by document"
    MASK = "mask"
    """A mask that transformers makes from position_ids: correct, but quadratic in all tokens."""


def choose_attention(model: PreTrainedModel, wanted: str | None) -> None:
    """Set how the model attends; None: by flash attention where it can, else as it is.

    Args:
        model: as it was loaded, with transformers' own choice: sdpa, or eager for what lacks it.
        wanted: a name that transformers knows.

    Raises:
        ConfigError: the model or this machine cannot attend so.
    """
    if wanted is None and not _flash_is_there(model):
        return
    try:
        model.set_attn_implementation(wanted or "flash_attention_2")
    except (ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"training.attn_implementation: {wanted} is not available: {reason}",
            "Leave it out to use the best one available.",
        ) from error


def without_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model that PEFT has put adapters on; one without is itself."""
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base


def isolation_of(model: PreTrainedModel) -> Isolation | None:
    """Return what may keep documents apart in this model; None: nothing does.

    That needs a model that attends through transformers' interface, and no state that is carried
    from token to token, nor a trained prefix, which stands before the first document only. Whether
    it does is for `trainer.methods.proof`: a layer may not pass on what attention needs.
    """
    base = without_adapters(model)
    text = base.config.get_text_config()
    mixes_otherwise = base._is_stateful or not KNOWN_LAYERS.issuperset(
        getattr(text, "layer_types", None) or ()
    )
    has_prefix = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    if has_prefix or mixes_otherwise or not base._supports_attention_backend:
        return None
    if _takes_bounds(base):
        return Isolation.FLASH
    is_sdpa = str(base.config._attn_implementation) in {"sdpa", BY_DOCUMENT}
    cuts_by_mask = getattr(text, "attention_chunk_size", None)
    return Isolation.BY_DOCUMENT if is_sdpa and not cuts_by_mask else Isolation.MASK


def attend_by_document(model: PreTrainedModel) -> None:
    """Make a model of `Isolation.BY_DOCUMENT` attend by document where a batch names them."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(BY_DOCUMENT, by_document)
    # Without a mask function of the same name transformers makes no mask at all, and a padded
    # batch, as in evaluation, would attend to its padding.
    AttentionMaskInterface.register(BY_DOCUMENT, sdpa_mask)
    base = without_adapters(model)
    base.set_attn_implementation(BY_DOCUMENT)
    decoder = base.base_model
    if _without_mask not in decoder._forward_pre_hooks.values():
        decoder.register_forward_pre_hook(_without_mask, with_kwargs=True)


def _without_mask(_: torch.nn.Module, args: Any, given: dict[str, Any]) -> Any:
    """Spare a batch that names its documents a mask of tokens × tokens.

    Below the head, which takes a mask to mean that some tokens are padding: a router's loss is over
    those that are not.
    """
    import torch

    if given.get("document_rows") is None or given.get("attention_mask") is not None:
        return None
    # A mask with four dimensions is taken as it is.
    unused = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=given["document_order"].device)
    return args, {**given, "attention_mask": unused}


def by_document(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    document_rows: list[torch.Tensor] | None = None,
    document_order: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each document; a batch that names none is attended to as sdpa does.

    Args:
        module: the attention layer.
        query: shape (1, heads, tokens, width); `key` and `value` may have fewer heads.
        key: see `query`.
        value: see `query`.
        attention_mask: of a batch that names no documents.
        document_rows: see `trainer.data.collation.layout`.
        document_order: see `trainer.data.collation.layout`.
        sliding_window: how many tokens a token sees, itself included.
        kwargs: dropout and scaling, for sdpa.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if document_rows is None or document_order is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return] # transformers is not checked
            module, query, key, value, attention_mask, sliding_window=sliding_window, **kwargs
        )
    attended = []
    for rows in document_rows:
        documents = [_taken(states, rows) for states in (query, key, value)]
        mask = _window(rows.shape[1], sliding_window, rows.device)
        out, _ = sdpa_attention_forward(module, *documents, mask, **kwargs)
        attended.append(out.flatten(0, 1))  # (documents * longest, heads, width)
    return torch.cat(attended).index_select(0, document_order)[None], None


def _taken(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return (documents, heads, longest, width) of states of shape (1, heads, tokens, width)."""
    taken = states[0].index_select(1, rows.flatten())
    return taken.view(-1, *rows.shape, taken.shape[-1]).transpose(0, 1)


def _window(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Return the mask of a sliding window, of shape (1, 1, length, length); None: all is in it."""
    import torch

    if window is None or length <= window:
        return None
    ones = torch.ones(1, 1, length, length, dtype=torch.bool, device=device)
    # Causal as well: given a mask, sdpa no longer makes its own.
    return ones.tril().triu(1 - window)


def _takes_bounds(model: PreTrainedModel) -> bool:
    """Whether the model attends by flash attention, be it a package or a kernel of the Hub."""
    from transformers import AttentionInterface
    from transformers.integrations.flash_attention import flash_attention_forward
    from transformers.utils.generic import is_flash_attention_requested

    # The name alone, such as kernels-community/flash-attn2, is not enough: a kernel may bring an
    # entry point of its own, which would pass over the bounds.
    name = model.config._attn_implementation
    forward = AttentionInterface().get(name)
    return is_flash_attention_requested(model.config) and forward is flash_attention_forward


def _flash_is_there(model: PreTrainedModel) -> bool:
    from transformers.utils import is_flash_attn_2_available

    is_half = str(model.dtype) in {"torch.bfloat16", "torch.float16"}
    return bool(is_half and model._supports_flash_attn and is_flash_attn_2_available())
