"""What is remembered as a secret stands in no error, log record or output."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import traceback

import pytest

from trainer.contract import redaction
from trainer.contract.errors import ProviderError
from trainer.contract.redaction import (
    Redacting,
    redacted,
    redacted_bytes,
    remember,
    remember_environment,
)

CANARY = "canary+/secret=77"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setattr(redaction, "_pattern", re.compile(redaction.OURS))
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


def test_it_is_taken_out_of_texts_also_as_addresses_have_it():
    assert redacted(f"key {CANARY}") == f"key {CANARY}"

    remember(CANARY)

    assert redacted(f"a {CANARY} b?k=canary%2B%2Fsecret%3D77") == "a *** b?k=***"
    assert redacted_bytes(b"\xff" + CANARY.encode() + b"\n") == b"\xff***\n"


def test_a_short_word_stays_and_the_longest_of_two_goes():
    for word in ("abc", "canary-1", "canary-12"):
        remember(word)

    assert redacted("abc canary-12") == "abc ***"


def test_no_error_of_ours_quotes_it():
    remember(CANARY)

    error = ProviderError(f"The answer is {CANARY}.", f"Do not use {CANARY}.")

    assert CANARY not in str(error) + error.message + repr(error) + str(error.to_dict())


def test_no_log_record_has_it_in_its_words_its_arguments_or_its_traceback():
    remember(CANARY)
    stream = io.StringIO()
    log = logging.getLogger("redaction-test")
    log.addHandler(handler := logging.StreamHandler(stream))

    log.warning("words %s", CANARY)
    log.warning("%s", {"key": CANARY})
    log.warning("untouched %s", "word")
    try:
        int(CANARY)  # as a library's error, which quotes what it was given
    except ValueError:
        log.exception("it failed")

    log.removeHandler(handler)
    text = stream.getvalue()
    assert CANARY not in text
    assert "untouched word" in text
    assert "ValueError: invalid literal for int() with base 10: '***'" in text


def test_a_mistake_in_a_log_call_ends_nothing(capsys, monkeypatch):
    remember(CANARY)
    log = logging.getLogger("redaction-test")
    monkeypatch.setattr(log, "propagate", False)  # pytest's own handlers raise it
    log.addHandler(handler := logging.StreamHandler(io.StringIO()))

    log.warning("%(absent)s", {"key": 1})  # a KeyError, which logging itself only prints

    log.removeHandler(handler)
    assert "--- Logging error ---" in capsys.readouterr().err


def test_output_is_written_without_it_and_is_a_stream_otherwise():
    remember(CANARY)
    stream = io.StringIO()

    print(f"token {CANARY}", file=Redacting(stream))
    try:
        int(CANARY)
    except ValueError:
        traceback.print_exc(file=Redacting(stream))

    assert CANARY not in stream.getvalue()
    assert stream.getvalue().startswith("token ***\nTraceback")
    assert Redacting(stream).readable() == stream.readable()


def test_only_variables_that_are_named_like_secrets_and_hold_one_are_remembered(monkeypatch):
    values = {
        "HF_TOKEN": "hf_canary-1",
        "OWN_API_KEY": "canary-2-key",
        "AWS_SECRET_ACCESS_KEY": "canary-3-key",
        "JUDGE_PASS": "canary-4-key",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/run/token-file",
        "OWN_TOKEN": "/home/ada/token",
        "MAX_TOKEN": "1000000",
        "TOKENIZERS_PARALLELISM": "disabled",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)

    remember_environment()

    shown = [name for name, value in values.items() if redacted(value) == value]
    assert shown == [*values][4:]


def test_a_process_that_was_told_so_prints_no_secret_not_even_when_it_fails():
    program = (
        "from trainer.contract.redaction import redact_output, remember_environment\n"
        "remember_environment(); redact_output()\n"
        "import os; print('a', os.environ['HF_TOKEN'], flush=True)\n"
        "raise SystemError(os.environ['HF_TOKEN'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"HF_TOKEN": CANARY, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stdout == "a ***\n"
    assert "SystemError: ***" in done.stderr
    assert CANARY not in done.stderr
