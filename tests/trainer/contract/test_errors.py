"""The family of errors: each says what happens next, and survives the way to another process."""

import json
import pickle

import pytest

from trainer.contract import errors
from trainer.contract.errors import (
    Action,
    ConfigError,
    OrchestratorError,
    OutOfMemory,
    TrainingFailed,
    from_dict,
)


def family(root: type[OrchestratorError] = OrchestratorError) -> list[type[OrchestratorError]]:
    return [root, *(member for child in root.__subclasses__() for member in family(child))]


FAMILY = family()


def test_the_docstring_names_the_whole_family():
    drawn = set(errors.__doc__.replace(",", " ").split())

    ours = {member.__name__ for member in FAMILY if member.__module__ == errors.__name__}
    assert ours <= drawn
    assert len(FAMILY) > 20


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_has_an_action_and_a_suggestion(kind):
    error = kind("It happened.")

    assert kind.action in Action
    assert error.suggestion.endswith(".")
    assert str(error) == f"It happened. {error.suggestion}"


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("suggestion", [None, "Do this."])
def test_every_error_survives_a_record(kind, suggestion):
    error = kind("It happened.", suggestion)

    again = from_dict(json.loads(json.dumps(error.to_dict())))

    assert type(again) is kind
    assert (again.message, again.suggestion) == (error.message, error.suggestion)


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_survives_pickling(kind):
    again = pickle.loads(pickle.dumps(kind("It happened.", "Do this.")))  # noqa: S301 - our own

    assert type(again) is kind
    assert (again.message, again.suggestion) == ("It happened.", "Do this.")


def test_a_record_of_an_unknown_class_is_a_failed_training():
    error = from_dict({"class": "SystemExit", "message": "It ended."})

    assert type(error) is TrainingFailed
    assert error.message == "It ended."


def test_an_empty_record_still_makes_a_sentence():
    assert from_dict({}).message == "The trainer gave no reason."


def test_what_helps_is_tried_and_what_cannot_is_not():
    assert OutOfMemory.action is Action.RETRY
    assert ConfigError.action is Action.STOP
    assert errors.MachineLost.action is errors.CapacityError.action is Action.ELSEWHERE
