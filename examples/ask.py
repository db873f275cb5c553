"""Answer a prompt with a base model and with an adapter on it: python ask.py BASE ADAPTER PROMPT."""

from __future__ import annotations

import sys
import warnings
from typing import Any

MAX_NEW_TOKENS = 48


def main(base: str, adapter: str, prompt: str) -> None:
    """Print both answers, greedily decoded, so that they are the same every time."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    warnings.filterwarnings("ignore")
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    print(f"prompt  {prompt}")
    print(f"before  {answer(model, tokenizer, prompt)}")
    model = PeftModel.from_pretrained(model, adapter).eval()
    print(f"after   {answer(model, tokenizer, prompt)}")


def answer(model: Any, tokenizer: Any, prompt: str) -> str:
    """Return the model's answer to one question, on one line."""
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(
        **inputs,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    text = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return " ".join(text.split())


if __name__ == "__main__":
    main(*sys.argv[1:4])
