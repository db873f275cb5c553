"""Generate answers to prompts, and ask the model what it makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from trainer.data.texts import begin, leading_tokens, tokens_of
from trainer.methods.aligned import Aligned
from trainer.methods.proof import without_cache

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def prompt_tokens(
    prompts: list[Any], tokenizer: PreTrainedTokenizerBase, device: Any
) -> tuple[Tensor, Tensor]:
    """Return token ids and mask of prompts, padded on the left, of shape (batch, length)."""
    ids = [tokens_of_prompt(prompt, tokenizer) for prompt in prompts]
    width = max(map(len, ids))
    # On the left, so that all answers begin in the same column.
    padded = [[tokenizer.pad_token_id] * (width - len(row)) + row for row in ids]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)


def tokens_of_prompt(prompt: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids of a text, or of a chat to its answer's begin."""
    if isinstance(prompt, str):
        ids = tokens_of(tokenizer, [prompt])["input_ids"][0]
        return begin(ids, leading_tokens(tokenizer))
    encoded = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: tuple[Tensor, Tensor],
    *,
    max_new_tokens: int,
    temperature: float,
    cached: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the answers, their masks, and which of them came to an end.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        prompts: token ids and mask, of shape (batch, length).
        max_new_tokens: the longest answer.
        temperature: of the softmax that tokens are drawn from.
        cached: whether a cache holds what was computed of earlier tokens.
    """
    ids, mask = prompts
    ends = _end_tokens(model, tokenizer)
    config = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        # The whole distribution, not its likeliest part: the ratio of probabilities in the loss is
        # about the policy that drew the tokens.
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends,
        use_cache=cached,
    )
    sequences = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    answers = sequences[:, ids.shape[1] :]
    is_end = torch.isin(answers, torch.tensor(ends, device=answers.device))
    # The end token itself counts: the model has to learn to stop.
    before = is_end.long().cumsum(dim=1) - is_end.long()  # ends before this token
    return answers, (before == 0).long(), is_end.any(dim=1)


def together(
    parts: list[tuple[list[int], tuple[Tensor, Tensor, Tensor]]], padding: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `generate` returned for some rows each, by their numbers, padded at the end."""
    answers, masks, has_end = zip(*(made for _, made in parts), strict=True)
    length = max(part.shape[1] for part in answers)
    rows = torch.tensor([row for numbers, _ in parts for row in numbers])
    order = rows.argsort().to(answers[0].device)

    def padded(tensors: tuple[Tensor, ...], value: int) -> Tensor:
        pad = torch.nn.functional.pad
        every = torch.cat([pad(t, (0, length - t.shape[1]), value=value) for t in tensors])
        return every[order]

    return padded(answers, padding), padded(masks, 0), torch.cat(has_end)[order]


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's, and those that the model names."""
    named = model.generation_config.eos_token_id
    ids = named if isinstance(named, list) else [named]
    # Chat models often end a turn with another token than the tokenizer ends a text.
    return sorted({tokenizer.eos_token_id, *(i for i in ids if i is not None)})


def as_completions(
    prompts: list[Any], answers: Tensor, mask: Tensor, tokenizer: PreTrainedTokenizerBase
) -> list[Any]:
    """Return the answers as reward functions take them: texts, or messages where prompts are."""
    ids = [row[kept.bool()] for row, kept in zip(answers, mask, strict=True)]
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    return [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def read(
    model: PreTrainedModel, batch: dict[str, Tensor], temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the model makes of each token of an answer.

    Args:
        model: policy or reference.
        batch: prompt_ids, prompt_mask, completion_ids and completion_mask.
        temperature: that the answers were generated at.

    Returns:
        Log probabilities and entropies, of shape (batch, length), and the last hidden states
        before each token, of shape (batch, length, hidden size).
    """
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    rows = Aligned.of(ids, mask, batch["completion_ids"].shape[1])
    output = model(
        input_ids=rows.ids,
        attention_mask=rows.mask,
        output_hidden_states=True,
        **without_cache(model),
    )
    # The logits at a position are about the token after it, hence the shift by one.
    before = slice(-rows.scored - 1, -1)
    logps = torch.log_softmax(output.logits[:, before].float() / temperature, dim=-1)
    chosen = logps.gather(2, rows.ids[:, -rows.scored :].unsqueeze(2)).squeeze(2)
    entropies = -(logps.exp() * logps).sum(dim=-1)
    states = output.hidden_states[-1][:, before].float()
    return rows.answers(chosen), rows.answers(entropies), rows.answers(states)
