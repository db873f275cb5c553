"""A dataset on the Hub whose rows come as they are read, as the library `datasets` gives them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.contract.errors import DataError
from trainer.data.hub import HubSource, HubStream


def stream_of(tmp_path, rows):
    from datasets import load_dataset

    pq.write_table(
        pa.Table.from_pylist(rows, pa.schema([("text", pa.string())])), tmp_path / "a.parquet"
    )
    given = {"data_files": str(tmp_path / "*.parquet"), "split": "train", "streaming": True}
    return load_dataset("parquet", **given)


def test_rows_are_read_as_often_as_asked_and_known_by_their_commit(tmp_path):
    found = stream_of(tmp_path, [{"text": "a"}, {"text": "b"}])
    source = HubStream("org/name", "train", found, "1" * 40)

    for _ in "12":
        assert [(row.place, row.value) for row in source.rows()] == [
            ("org/name/train:row 1", {"text": "a"}),
            ("org/name/train:row 2", {"text": "b"}),
        ]
    assert source.sha256() == HubStream("org/name", "train", None, "1" * 40).sha256()
    assert source.sha256() != HubStream("org/name", "train", None, "2" * 40).sha256()


def test_a_stream_without_rows_is_refused():
    with pytest.raises(DataError, match="holds no rows"):
        list(HubStream("org/name", "train", [], "1" * 40).rows())


def test_a_stream_that_breaks_off_says_where(tmp_path):
    found = stream_of(tmp_path, [{"text": "a"}] * 3)
    (tmp_path / "a.parquet").write_bytes(b"none")

    with pytest.raises(DataError, match=r"cannot be read after row 0: .*\."):
        list(HubStream("org/name", "train", found, "1" * 40).rows())


@pytest.mark.parametrize("streams", [True, False])
def test_pictures_are_not_unpacked_only_to_be_refused(streams):
    import datasets

    rows = {"text": ["a", "b"], "shot": [b"\x89PNG and no more", None], "n": [1, 2]}
    stored = datasets.Dataset.from_dict(rows).cast_column("shot", datasets.Image())
    found = stored.to_iterable_dataset() if streams else stored
    source = HubStream("o/n", "train", found, "1") if streams else HubSource("o/n", "train", found)

    first, second = (row.value for row in source.rows())

    assert first == {"text": "a", "shot": {"bytes": b"\x89PNG and no more"}, "n": 1}
    assert second["shot"] is None


def test_classes_of_the_hub_have_their_names(make_config):
    import datasets

    from trainer.data.validation import CheckedReading

    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    rows = {"text": ["a", "b", "c"], "label": [1, 0, -1]}
    found = datasets.Dataset.from_dict(rows, datasets.Features(features))
    source = HubSource("o/n", "train", found)
    dataset = {"path": "o/n", "on_bad_row": "skip"}

    reading = CheckedReading(source, make_config(dataset, method="classify"))

    assert [example.labels for _, example in reading] == [("yes",), ("no",)]
    assert reading.problems == [
        "o/n/train:row 3: label: is null; give the name or number of a class"
    ]
    assert [row.value["label"] for row in source.rows()] == [1, 0, -1]
