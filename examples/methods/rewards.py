"""Reward functions of your own. A job names them as rewards.py:short.

They are called with the prompts, the model's answers, and every other column of the dataset, lists
of the same length. They return one number for each answer; more is better.
"""


def short(completions: list, **columns: object) -> list[float]:
    """Like answers of few words."""
    return [-len(words(completion)) / 10 for completion in completions]


def on_topic(completions: list, answer: list[str], **columns: object) -> list[float]:
    """Like words that the column `answer` has too."""
    shares = []
    for completion, right in zip(completions, answer, strict=True):
        said, wanted = set(words(completion)), set(right.lower().split())
        shares.append(len(said & wanted) / max(1, len(said)))
    return shares


def words(completion: str | list[dict[str, str]]) -> list[str]:
    """Return what an answer says; in a chat it is a list of messages."""
    text = completion if isinstance(completion, str) else completion[0]["content"]
    return text.lower().split()
