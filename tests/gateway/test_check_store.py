"""What `trainctl check --store` says of a store."""

from __future__ import annotations

import json

import boto3
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from gateway.cli import app
from tests.flows.flow_runs import make_job
from trainer.config import TrainingJob


def checked(*words):
    return CliRunner().invoke(app, ["check", "--store", *words])


def test_it_shows_access_retention_and_the_rule_that_it_set(s3, home):
    client = boto3.client("s3")
    theirs = {
        "ID": "theirs",
        "Status": "Enabled",
        "Filter": {"Prefix": "logs/"},
        "Expiration": {"Days": 9},
    }
    another = {
        "ID": "another folder's",
        "Status": "Enabled",
        "Filter": {"Prefix": "te/"},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    client.put_bucket_lifecycle_configuration(
        Bucket="models", LifecycleConfiguration={"Rules": [theirs, another]}
    )

    before = checked("s3://models/team")
    after = checked("s3://models/team", "--set-rule")
    again = checked("s3://models/team", "--set-rule", "--json")

    assert (before.exit_code, after.exit_code) == (0, 0), before.output + after.output
    assert "unfinished uploads stay, and are billed: set a rule with --set-rule" in before.stdout
    assert "unfinished uploads are removed after 1 day\n" in after.stdout
    assert "can be written, read and listed" in after.stdout
    assert "results for ever" in after.stdout
    assert all(row["ok"] for row in json.loads(again.stdout).values())
    rules = client.get_bucket_lifecycle_configuration(Bucket="models")["Rules"]
    assert sorted(rule["ID"] for rule in rules) == [
        "another folder's",
        "theirs",
        "training-orchestrator-unfinished-uploads",
    ]


def test_a_missing_right_is_named_and_is_no_success(s3, home):
    s3.denied = {"PUT"}

    found = checked("s3://models/team")

    assert found.exit_code == 1
    assert "cannot write tried: AccessDenied" in found.stdout
    assert "Allow s3:PutObject on s3://models/team" in found.stdout
    assert checked("s4://models").exit_code == 2


def test_validate_names_the_right_that_is_missing_before_anything_is_paid_for(s3, home, tmp_path):
    path = tmp_path / "job.json"
    job = make_job().model_dump(mode="json")
    s3.denied = {"PUT"}
    path.write_text(json.dumps({**job, "store": "s3://models/team"}))
    refused = CliRunner().invoke(app, ["validate", str(path)])
    path.write_text(json.dumps({**job, "store": "s5://models/team"}))
    wrong = CliRunner().invoke(app, ["validate", str(path)])

    assert refused.exit_code == 2, refused.output
    assert "s3://models/team: cannot write tried: AccessDenied" in refused.output
    assert "Allow s3:PutObject on s3://models/team" in refused.output
    assert wrong.exit_code == 2
    assert "store" in wrong.output
    assert "s5:// is no kind of store. Write it as s3://BUCKET/PATH" in wrong.output


def test_a_folder_is_a_store_too(home, tmp_path):
    (tmp_path / "store").mkdir()
    found = checked(str(tmp_path / "store"))

    assert found.exit_code == 0, found.output
    assert "a folder has no unfinished uploads" in found.stdout


def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path, home):
    absent = tmp_path / "not mounted"

    found = checked(str(absent))

    assert found.exit_code == 2
    assert f"--store = '{absent}': there is no such folder. Mount" in found.output
    assert not absent.exists()


def test_the_message_about_a_store_of_a_job_names_the_value_once():
    job = {**make_job().model_dump(), "store": "foo://bar"}

    with pytest.raises(ValidationError) as refused:
        TrainingJob.model_validate(job)

    [error] = refused.value.errors()
    assert error["msg"].startswith("Value error, foo:// is no kind of store.")
