"""The chat templates of real models: what is learned is what TRL's variants for training mark."""

import re
from pathlib import Path

import pytest
import trl
from transformers import AddedToken

from trainer.contract.errors import DataError
from trainer.data.chats import NO_LOSS, ChatEncoder
from trainer.data.endings import turn_end
from trainer.data.formats import Chat
from trainer.data.templates import ChatTemplate
from trainer.data.turns import chat_of

FOLDER = Path(trl.__file__).parent / "chat_templates"
NAMES = sorted(p.stem.removesuffix("_training") for p in FOLDER.glob("*_training.jinja"))
PICTURES = {"idefics3", "smolvlm", "llava_next"}
"""Templates that read contents in parts alone, for models that see."""
OTHERS = {"diffusion_gemma"}
"""Of models that do not write one token after another."""
MARKER = re.compile(r"<[|｜][^<>{}'\"]{1,30}[|｜]?>|<(?:start|end)_of_turn>|<turn\|>|<eos>")
CALL = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Brest"}}}
TOOLS = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}]


def ask(text):
    return {"role": "user", "content": text}


def say(text, **more):
    return {"role": "assistant", "content": text, **more}


CHATS = {
    "several turns": [ask("q1"), say("one"), ask("q2"), say("<b>two"), ask("q3"), say("three")],
    "a system message": [{"role": "system", "content": "sys"}, ask("q1"), say("one"), ask("q2"), say("two")],
    "thoughts": [ask("q1"), say("one", reasoning_content="first"), ask("q2"), say("two", reasoning_content="last")],
    "thoughts in the content": [ask("q1"), say("<think>\nfirst\n</think>\n\none"), ask("q2"), say("<think>\nlast\n</think>\n\ntwo")],
    "calls": [ask("q1"), say("", tool_calls=[CALL]), {"role": "tool", "name": "tide", "content": "14:05"}, say("two")],
}  # fmt: skip


@pytest.fixture(scope="module")
def encoded(build_tokenizer):
    """Return what is learned of a chat by a template, turn by turn, and by TRL's variant of it."""

    def encode(name, messages, tools):
        source = (FOLDER / f"{name}.jinja").read_text()
        variant = (FOLDER / f"{name}_training.jinja").read_text()
        tokenizer = build_tokenizer(template=source)
        markers = sorted(set(MARKER.findall(source)))
        tokenizer.add_tokens([AddedToken(marker, special=True) for marker in markers])
        chat = Chat(chat_of(messages, "messages"), tools)
        [row] = ChatEncoder(tokenizer, assistant_only=True).encode([("row", chat)])
        runs, before = [], NO_LOSS
        for token, label in zip(row.input_ids, row.labels, strict=True):
            if label != NO_LOSS:
                runs += [[]] if before == NO_LOSS else []
                runs[-1].append(token)
            before = label
        theirs, spans = ChatTemplate(tokenizer, variant).render_tagged(chat.messages, tools)
        return [tokenizer.decode(run).strip() for run in runs], [theirs[a:b] for a, b in spans]

    return encode


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.thorough] * (number % 3 > 0))
        for number, name in enumerate(NAMES)
        if name not in PICTURES | OTHERS
    ],
)
@pytest.mark.parametrize("chat", CHATS)
def test_what_is_learned_is_what_the_variant_for_training_marks(encoded, name, chat):
    messages = CHATS[chat]
    tools = TOOLS if chat == "calls" else []
    # Where there is no place for what is in the chat; the variants drop that without a word.
    refused = ""
    try:
        ours, theirs = encoded(name, messages, tools)
    except DataError as error:
        refused = error.message
    if refused:
        assert chat != "several turns"
        assert re.search(r"leaves out the|refuses this chat", refused)
        return

    assert len(ours) == sum(message["role"] == "assistant" for message in messages)
    marked = "".join("".join(theirs).split())
    for said in ours:
        # Theirs have the header of a turn too, and what follows its end; ours have every word.
        assert "".join(said.split()) in marked
    for word in re.findall("one|two|three|last|Brest", str(messages)):
        assert any(word in said for said in ours)


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_templates_of_models_that_see_are_refused(encoded, name):
    with pytest.raises(DataError, match=r"leaves out the content|refuses this chat"):
        encoded(name, CHATS["several turns"], [])


def test_thoughts_that_a_template_cuts_are_learned_by_its_variant(encoded):
    ours, _ = encoded("deepseek_r1_distill", CHATS["thoughts"], [])

    # The prompt for an answer ends in <think> and a line break.
    assert ours == [
        "first\n</think>\n\none<｜end▁of▁sentence｜>",
        "last\n</think>\n\ntwo<｜end▁of▁sentence｜>",
    ]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PICTURES | OTHERS])
def test_the_end_of_a_turn_is_found(build_tokenizer, name):
    source = (FOLDER / f"{name}.jinja").read_text()
    tokenizer = build_tokenizer(template=source)
    markers = sorted(set(MARKER.findall(source)))
    tokenizer.add_tokens([AddedToken(marker, special=True) for marker in markers])

    stop = tokenizer.decode([turn_end(tokenizer).stop])

    assert re.search(r"end|END|eot|eos|</s>|return|^<\|user\|>$|turn\|>", stop), stop
