"""A model behind an API as a judge of answers: asked once for each prompt and answer, and no more."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from trainer.config.rewards import PLACEHOLDER, JudgeConfig
from trainer.contract.errors import ConfigError, TrainingFailed
from trainer.contract.files import NOT_JSON, append_line
from trainer.contract.words import number
from trainer.engine.failures import room_or_later
from trainer.rewards.builtin import text_of
from trainer.rewards.checked import Rewards
from trainer.rewards.counts import COST, Counts
from trainer.rewards.judge_api import FIELD, ChatApi, NoOpinion, Opinion

FILE = "judgements.jsonl"
KEPT = 2000  # characters of a reply, for people to read


def check_key(settings: JudgeConfig) -> str | None:
    """Return the key; None: none is wanted.

    Raises:
        ConfigError: the variable that should hold it does not.
    """
    variable = settings.api_key_variable
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"{FIELD}: the environment variable {variable}, which should hold the key of "
            f"{settings.base_url}, is not set.",
            f"export {variable}=…, or set api_key_variable: null if that server wants no key.",
        )
    # httpx would raise an error that shows it.
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"{FIELD}: what {variable} holds is no key: it has characters that cannot be sent.",
            f"Set {variable} again.",
        )
    return key


def check_template(settings: JudgeConfig, columns: Collection[str]) -> None:
    """Refuse a template that names what is no column of the rows.

    Raises:
        ConfigError: naming it.
    """
    if lacking := settings.lacking(columns):
        raise ConfigError(
            f"{FIELD}.template names {{{lacking[0]}}}, and the dataset has "
            f"{', '.join(sorted(columns))}.",
            "Correct the name in braces; double braces stand for a brace.",
        )


class Judge:
    """Scores answers from 0 to 1 by what another model says of them."""

    def __init__(
        self, settings: JudgeConfig, columns: Collection[str], folder: Path, counts: Counts
    ) -> None:
        """Read what was judged before.

        Args:
            settings: whom to ask, and how.
            columns: those of the rows.
            folder: where what was judged is kept.
            counts: of calls, and of answers that got no score.

        Raises:
            ConfigError: there is no key, or the template names what is no column.
        """
        self.__name__ = "judge"
        check_template(settings, columns)
        self._settings = settings
        self._api = ChatApi(settings, check_key(settings), counts)
        self._counts = counts
        self._file = folder / FILE
        self._known = self._read()

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> Rewards:
        """Return the scores; None where the judge gave none.

        Raises:
            ConfigError: the server refuses the key, or knows no such model or address.
            TrainingFailed: not one answer got a score.
        """
        rows = [
            {name: value[i] for name, value in columns.items() if isinstance(value, list)}
            | {"prompt": prompts[i], "completion": completions[i]}
            for i in range(len(completions))
        ]
        requests = [self._request(row) for row in rows]
        new = list(dict.fromkeys(r for r in requests if self._key(r) not in self._known))
        failed = self._ask(new)
        scores = [self._score(request, failed) for request in requests]
        self._counts.add(f"{COST}answers from the cache", len(requests) - len(new))
        if requests and all(score is None for score in scores):
            self._give_up(len(scores), [*failed.values()])
        return scores

    def _ask(self, requests: list[str]) -> dict[str, NoOpinion]:
        """Ask what is not known yet; return why those are not answered that are not."""
        failed: dict[str, NoOpinion] = {}
        most = max(8, self._settings.concurrency)
        answered = 0

        def done(i: int, found: Opinion | NoOpinion) -> None:
            nonlocal answered
            if isinstance(found, Opinion):
                answered += 1
                self._note(requests[i], found)
                return
            failed[requests[i]] = found
            # A server that is down is not asked for hours: every answer would cost all its tries.
            if not answered and found.passes and len(failed) >= most:
                self._give_up(len(failed), [*failed.values()])

        if requests:
            try:
                self._api.ask_all(requests, done)
            except ExceptionGroup as group:  # of the tasks; ours is what one of them met first
                raise group.exceptions[0] from None
        return failed

    def _score(self, request: str, failed: dict[str, NoOpinion]) -> float | None:
        who = f"the judge {self._settings.model}"
        if error := failed.get(request):
            self._counts.no_score(who, error.why, error.more)
            return None
        score, why = self._known[self._key(request)]
        if score is None:
            self._counts.no_score(who, why)
        return score

    def _give_up(self, count: int, failed: list[NoOpinion]) -> None:
        why = "no reply held a score"
        if failed:
            why = ": ".join(part for part in (failed[-1].why, failed[-1].more) if part)
        raise TrainingFailed(
            f"{FIELD}: {self._settings.model} at {self._settings.base_url} scored none of "
            f"{number(count)} answers: {why}.",
            "When it answers as it should, resume the job: it goes on from its newest checkpoint, and "
            "what was judged is not asked again. If its replies hold no score, correct template or "
            f"score_pattern; they stand in {self._file.name} in the folder cache/ of the job.",
        )

    # What is asked, and what was --------------------------------------------------------------

    def _request(self, row: dict[str, Any]) -> str:
        ends = {"lowest": f"{self._settings.lowest:g}", "highest": f"{self._settings.highest:g}"}

        def value(match: re.Match[str]) -> str:
            name = match[1]
            return ends[name] if name in ends and name not in row else _words(row.get(name))

        # In one pass, so that braces in what the model answered stay what they are.
        parts = re.split(r"(\{\{|\}\})", self._settings.template)
        text = "".join(
            part[0] if part in {"{{", "}}"} else PLACEHOLDER.sub(value, part) for part in parts
        )
        # A lone half of a surrogate pair, which JSON may hold, cannot be sent.
        return text.encode(errors="replace").decode()

    def _key(self, request: str) -> str:
        """Return what a judgement is found by: all that it depends on."""
        s = self._settings
        on = [s.base_url, s.model, s.parameters, s.score_pattern, s.lowest, s.highest, request]
        return hashlib.sha256(json.dumps(on, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def _note(self, request: str, reply: Opinion) -> None:
        score, why = self._read_off(reply)
        key = self._key(request)
        self._known[key] = score, why
        record: dict[str, Any] = {
            "key": key,
            "score": score,
            "why": why,
            "reply": reply.text[:KEPT],
        }
        record["counts"] = {n: c for n, c in self._counts.by_name.items() if n.startswith(COST)}
        # At once, not with the next checkpoint: what was paid for is not asked again after a crash.
        with room_or_later():
            append_line(self._file, json.dumps(record))

    def _read_off(self, reply: Opinion) -> tuple[float | None, str]:
        """Return the score in a reply from 0 to 1, or None and why there is none."""
        if reply.why_none:
            return None, reply.why_none
        s = self._settings
        found = list(re.finditer(s.score_pattern, reply.text))
        if not found:
            return None, "its reply held no score"
        try:
            score = float(found[-1][1 if found[-1].re.groups else 0])
        except (TypeError, ValueError):
            return None, "what score_pattern finds is no number"
        if not (math.isfinite(score) and s.lowest <= score <= s.highest):
            return None, f"its score was not from {s.lowest:g} to {s.highest:g}"
        return (score - s.lowest) / (s.highest - s.lowest), ""

    def _read(self) -> dict[str, tuple[float | None, str]]:
        known = {}
        if self._file.is_file():
            for line in self._file.read_bytes().splitlines():
                try:
                    record = json.loads(line)
                    known[record["key"]] = record["score"], record["why"]
                    # Further than those of a checkpoint: calls are paid for, whatever is undone.
                    self._counts.take_up(record["counts"])
                except (*NOT_JSON, KeyError, TypeError, AttributeError):  # torn by a crash
                    continue
        return known


def _words(value: Any) -> str:
    """Return a value of a row as the judge reads it; of a chat with several turns, who says what."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list) and value and all(_is_message(each) for each in value):
        if len(value) == 1:
            return text_of(value)
        return "\n".join(f"{each['role']}: {text_of([each])}" for each in value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value and "content" in value
