"""What a form says is what Prefect accepts."""

from __future__ import annotations

import pytest
from prefect.utilities.schema_tools.validation import is_valid, preprocess_schema

from deployments.form import form_of, short_form
from flows.train import train


@pytest.mark.parametrize("form", [lambda: form_of(train), short_form], ids=["full", "short"])
def test_the_form_says_that_only_a_job_file_may_shorten_the_dataset_to_a_path(form):
    schema = form()
    dataset = schema["definitions"]["TrainingConfig"]["properties"]["dataset"]

    def accepts(dataset):
        training = {"model": "a/b", "dataset": dataset}
        values = {"job": {"name": "nightly", "training": training}}
        return is_valid(values, preprocess_schema(schema))

    assert accepts({"path": "rows.jsonl"})
    assert accepts({"sources": [{"path": "rows.jsonl", "share": 0.5}, {"path": "b", "share": 0.5}]})
    assert not accepts("rows.jsonl")
    assert not accepts(["rows.jsonl"])
    assert dataset["description"] == (
        "The examples. In a job file, a path alone will do, or a list of data sets that are mixed."
    )


def test_the_parts_come_in_the_order_in_which_one_fills_them_in():
    definitions = form_of(train)["definitions"]

    def first(name: str, count: int) -> list[str]:
        fields = definitions[name]["properties"]
        return sorted(fields, key=lambda field: fields[field]["position"])[:count]

    assert first("TrainingJob", 3) == ["name", "training", "provider"]
    assert first("TrainingConfig", 3) == ["method", "model", "dataset"]
    assert first("DatasetConfig", 2) == ["path", "format"]


def test_every_setting_that_may_be_null_says_what_happens_then():
    definitions = form_of(train)["definitions"]
    silent = [
        f"{name}.{field}"
        for name, definition in definitions.items()
        for field, schema in definition.get("properties", {}).items()
        if schema.get("default", 0) is None and "null:" not in schema.get("description", "")
    ]

    assert silent == []
