"""metrics.jsonl, as it looks after crashes and from machines that mean no good."""

import pytest

from trainer.contract.metrics import MAX_LINE, by_step, final_metrics, parse_records, read_metrics


def test_records_are_read_by_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "train_loss": 1.5}\n{"step": 1, "train_loss": 2}\n')

    steps, skipped = read_metrics(path)

    assert skipped == 0
    assert list(steps.items()) == [
        (1, {"step": 1, "train_loss": 2}),
        (2, {"step": 2, "train_loss": 1.5}),
    ]


def test_without_a_file_there_are_no_records(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == ({}, 0)


def test_a_torn_line_is_passed_over_and_counted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "train_lo\n{"step": 2}\n{"ste')

    steps, skipped = read_metrics(path)

    assert (sorted(steps), skipped) == ([1, 2], 2)


UNREADABLE = [
    b"",
    b"null",
    b"[1]",
    b"3",
    b'{"loss": 1}',
    b'{"step": "1"}',
    b'{"step": 1.5}',
    b'{"step": null}',
    b"\xff\xfe",
    b"\x00" * 100,
    b"[" * 60_000,
    b'{"step": 1, "x": "' + b"y" * MAX_LINE + b'"}',
]


@pytest.mark.parametrize("line", UNREADABLE, ids=lambda line: repr(line[:12]))
def test_a_line_that_is_no_record_is_passed_over_and_counted(line):
    records, skipped = parse_records([b'{"step": 1}', line, b'{"step": 2}'])

    assert records == [{"step": 1}, {"step": 2}]
    assert skipped == 1


def test_values_that_cannot_be_shown_are_left_out():
    line = b'{"step": 1, "a": NaN, "b": -Infinity, "c": [1], "d": {}, "e": null, "f": 1e3}'

    assert parse_records([line]) == ([{"step": 1, "e": None, "f": 1000.0}], 0)


def test_the_last_record_of_a_step_wins():
    again = by_step([{"step": 1, "attempt": 1, "eta": 5}, {"step": 1, "attempt": 2}])

    assert again == {1: {"step": 1, "attempt": 2, "eta": 5}}


def test_a_step_and_its_evaluation_are_one_record():
    records = [{"step": 3, "train_loss": 2.0}, {"step": 3, "eval_loss": 2.5}]

    assert by_step(records) == {3: {"step": 3, "train_loss": 2.0, "eval_loss": 2.5}}


def test_the_final_metrics_are_the_first_and_last_of_all_that_count(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 0, "eval_loss": 5}\n{"step": 1, "train_loss": 4.5, "reward": -1.0}\n'
        '{"step": 2, "train_loss": null, "reward": 0.5, "eval_loss": 3.0, "eval_reward": 0.25}\n'
        '{"step": 3, "train_loss": 4.0, "eval_loss": 3.5, "grad_norm": 1.0, "kl": true}\n'
    )

    assert final_metrics(path) == {
        "steps": 3.0,
        "train_loss_first": 4.5,
        "train_loss": 4.0,
        "eval_loss_first": 5,
        "eval_loss": 3.5,
        "eval_loss_best": 3.0,
        "eval_loss_best_step": 2,
        "reward_first": -1.0,
        "reward": 0.5,
        "eval_reward_first": 0.25,
        "eval_reward": 0.25,
    }
