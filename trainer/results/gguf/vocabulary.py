"""A tokenizer as llama.cpp reads it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from trainer.contract.errors import ConfigError

if TYPE_CHECKING:
    from gguf import GGUFWriter, TokenType
    from transformers import PreTrainedTokenizerBase

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
SPLITS = ("llama-bpe", "qwen2", "tekken", "gpt-4o")
"""llama.cpp's names for how text is split before it is encoded, where a regex says how."""


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """Refuse a tokenizer that llama.cpp would read differently.

    Raises:
        ConfigError: it is no BPE of two kinds, or splits text in a way that has no name there.
    """
    state = _state(tokenizer)
    if not _split_name(state) and not _is_sentencepiece(state):
        raise ConfigError(
            f"training.export: gguf: the tokenizer of {model} is not supported: it must be "
            f"SentencePiece BPE as in Llama 2, or byte-level BPE as in GPT-2, SmolLM, "
            f"{', '.join(SPLITS)}.",
            "Leave export out and set merge: true; llama.cpp's convert_hf_to_gguf.py may know more, "
            "and takes the folder merged/.",
        )


def add_vocabulary(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """Write tokens, merges, special tokens and chat template.

    Args:
        writer: of the file.
        tokenizer: one that `check_vocabulary` lets pass.
        size: rows of the model's embedding; those without a token get a placeholder.
    """
    from gguf import TokenType

    state = _state(tokenizer)
    numbers = {number: token for token, number in tokenizer.get_vocab().items()}
    rows = range(max(size, max(numbers) + 1))
    # Models pad their embedding to a multiple of 64 or so; llama.cpp wants a name for each row.
    tokens = [numbers.get(i, f"[PAD{i}]") for i in rows]
    known = _known_types(tokenizer, state)
    types = [known.get(i, TokenType.NORMAL if i in numbers else TokenType.UNUSED) for i in rows]
    pairs = [
        pair.split(" ") if isinstance(pair, str) else pair for pair in state["model"]["merges"]
    ]
    if _is_sentencepiece(state):
        # llama.cpp merges by score, highest first; minus the rank gives the same order. Reversed,
        # so that of two ways to make a token the earlier counts.
        ranks = {"".join(pair): rank for rank, pair in reversed(list(enumerate(pairs)))}
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([-float(ranks.get(token, len(pairs))) for token in tokens])
        writer.add_add_space_prefix(_begins_with_space(state))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_split_name(state))
        writer.add_token_merges([" ".join(pair) for pair in pairs])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _add_special(writer, tokenizer)


def _known_types(tokenizer: PreTrainedTokenizerBase, state: dict[str, Any]) -> dict[int, TokenType]:
    """Return what tokens are to llama.cpp that are no plain text: matched whole, one byte, …"""
    from gguf import TokenType

    kinds = {True: TokenType.CONTROL, False: TokenType.USER_DEFINED}
    found = {entry["id"]: kinds[entry["special"]] for entry in state["added_tokens"]}
    if state["model"].get("byte_fallback"):
        vocabulary = tokenizer.get_vocab().items()
        found |= {number: TokenType.BYTE for token, number in vocabulary if BYTE.fullmatch(token)}
        if tokenizer.unk_token_id is not None:
            found[tokenizer.unk_token_id] = TokenType.UNKNOWN
    return found


def _add_special(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
    ):
        if number is not None:
            add(number)
    # Asked of the tokenizer itself: its settings say little, since a post-processor may add it.
    begins = tokenizer("a")["input_ids"][:1]
    writer.add_add_bos_token(bool(begins) and begins[0] == tokenizer.bos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what is in tokenizer.json."""
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return state


def _is_sentencepiece(state: dict[str, Any]) -> bool:
    """Whether text is one piece, with ▁ for a space and bytes for what has no token."""
    outer, model = state.get("pre_tokenizer") or {}, state["model"]
    whole = not outer or (outer["type"] == "Metaspace" and not outer.get("split", True))
    normalizer = state.get("normalizer") or {"type": "Sequence", "normalizers": []}
    steps = [step["type"] for step in normalizer.get("normalizers", [normalizer])]
    known = steps in ([], ["Replace"], ["Prepend", "Replace"])
    return bool(model["type"] == "BPE" and model.get("byte_fallback") and whole and known)


def _begins_with_space(state: dict[str, Any]) -> bool:
    outer = state.get("pre_tokenizer") or {}
    prepends = "Prepend" in json.dumps(state.get("normalizer"))
    return prepends or outer.get("prepend_scheme", "never") != "never"


def _split_name(state: dict[str, Any]) -> str:
    """Return llama.cpp's name for how a byte-level BPE splits text; empty where there is none."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    outer = state.get("pre_tokenizer") or {}
    steps = outer.get("pretokenizers", [outer])
    plain = state["model"]["type"] == "BPE" and not state["model"].get("byte_fallback")
    if not plain or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return ""
    if steps[-1].get("use_regex", True):  # GPT-2's own regex
        before = [(step["type"], step.get("individual_digits")) for step in steps[:-1]]
        return {(): "gpt-2", (("Digits", True),): "smollm"}.get(tuple(before), "")
    names = {GGUF_PRE_TOKENIZER_SPLITS[name]: name for name in SPLITS}
    regexes = [step.get("pattern", {}).get("Regex") for step in steps[:-1]]
    return names.get(regexes[0], "") if len(regexes) == 1 else ""
