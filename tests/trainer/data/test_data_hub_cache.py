"""A dataset of the Hub is read from what was fetched before, and its absence is said."""

import os
import subprocess
import sys

import pytest

READ_FROM_HUB = """
import sys
from trainer.data.reading import open_source
from trainer.contract.errors import DataError
try:
    source = open_source("org/tiny", splits=sys.argv[1:])
    print([(row.place, row.value) for row in source.rows()], len(source.sha256()))
except DataError as error:
    print(error)
"""


def read_offline(cache, *splits):
    """Ask for org/tiny as a machine without a network does, with what `cache` holds."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    command = [sys.executable, "-c", READ_FROM_HUB, *(splits or ("train",))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.thorough
def test_a_hub_name_that_the_hub_does_not_give_says_both(tmp_path):
    said = read_offline(tmp_path)

    assert "'org/tiny' is neither a file here nor a dataset from the Hub" in said
    assert "HF_TOKEN" in said


def put_in_cache(cache, rows):
    """Lay out `rows` as `datasets` does when it fetches the split train of org/tiny."""
    from datasets import Dataset, DatasetInfo, Features, SplitDict, SplitInfo, Value
    from datasets.arrow_writer import ArrowWriter

    folder = cache / "datasets" / "org___tiny" / "default" / "0.0.0" / ("0" * 40)
    folder.mkdir(parents=True)
    features = Features({"text": Value("string")})
    with ArrowWriter(path=str(folder / "tiny-train.arrow"), features=features) as writer:
        for row in Dataset.from_list(rows):
            writer.write(row)
        count, size = writer.finalize()
    split = SplitInfo("train", num_bytes=size, num_examples=count, dataset_name="tiny")
    info = DatasetInfo(
        features=features,
        builder_name="parquet",
        dataset_name="tiny",
        config_name="default",
        version="0.0.0",
        splits=SplitDict({"train": split}, dataset_name="tiny"),
        dataset_size=size,
    )
    info.write_to_directory(str(folder))


@pytest.mark.thorough
def test_a_dataset_fetched_from_the_hub_before_is_read_without_a_network(tmp_path):
    put_in_cache(tmp_path, [{"text": "x"}, {"text": "y"}])

    assert read_offline(tmp_path) == (
        "[('org/tiny/train:row 1', {'text': 'x'}), ('org/tiny/train:row 2', {'text': 'y'})] 64"
    )
    assert "Unknown split" in read_offline(tmp_path, "test")


@pytest.mark.thorough
def test_the_first_split_of_the_hub_that_there_is_is_read(tmp_path):
    put_in_cache(tmp_path, [{"text": "x"}])

    said = read_offline(tmp_path, "validation", "test", "train")

    assert said == "[('org/tiny/train:row 1', {'text': 'x'})] 64"
