"""Data by every name that people give it: saved folders, addresses, names on the Hub, other tables."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trainer.config.explain import validated
from trainer.config.training import TrainingConfig
from trainer.contract.errors import ConfigError, DataError
from trainer.data.reading import files_of, open_evaluation, open_source, open_training
from trainer.data.validation import inspect_dataset

ROWS = [{"text": "a"}, {"text": "b"}]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
SUM = hashlib.sha256(JSONL).hexdigest()


def values(source):
    return [row.value for row in source.rows()]


def problem(path, **more):
    with pytest.raises(DataError) as refused:
        values(open_source(str(path), **more))
    return f"{refused.value.message} {refused.value.suggestion}"


def refusal(dataset):
    with pytest.raises(ConfigError) as refused:
        validated(TrainingConfig, {"model": "m", "dataset": dataset}, "job")
    return refused.value.message


# Folders of other projects -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a dataset as `save_to_disk` leaves it, and one of two splits."""
    from datasets import Dataset, DatasetDict

    folder = tmp_path_factory.mktemp("saved")
    rows = [{"text": f"t{i}", "more": {"x": i} if i else None} for i in range(3)]
    Dataset.from_list(rows).save_to_disk(folder / "one", num_shards=2)
    splits = {"train": Dataset.from_list(ROWS), "valid": Dataset.from_list(ROWS[:1])}
    DatasetDict(splits).save_to_disk(folder / "two")
    return folder


def test_a_saved_dataset_is_read_in_its_order(saved):
    source = open_source(str(saved / "one"))

    assert [value["text"] for value in values(source)] == ["t0", "t1", "t2"]
    assert source.files == ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow")
    assert "state.json" in files_of(saved / "one", "dataset.path")


def test_classes_of_a_saved_dataset_have_their_names(tmp_path, make_config):
    from datasets import ClassLabel, Dataset, Features, Value

    def of(numbers, names):
        kinds = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        return Dataset.from_dict({"text": ["t"] * len(numbers), "label": numbers}, features=kinds)

    def labels(path):
        config = make_config({"path": str(path)}, method="classify")
        return inspect_dataset(config).labels

    of([0, 1, 1], ["neg", "pos"]).save_to_disk(tmp_path / "saved")
    of([0, 1, 1], ["neg", "pos"]).to_parquet(tmp_path / "table" / "a.parquet")

    assert labels(tmp_path / "saved") == labels(tmp_path / "table") == {"neg": 1, "pos": 2}
    of([0, -1], ["neg", "pos"]).save_to_disk(tmp_path / "unknown")
    with pytest.raises(DataError, match="label: is null"):
        labels(tmp_path / "unknown")
    of([0, 1], ["pos", "neg"]).to_parquet(tmp_path / "table" / "b.parquet")
    with pytest.raises(
        DataError, match=r"b.parquet numbers the classes of 'label' as 'pos', 'neg'"
    ):
        labels(tmp_path / "table")


def test_the_splits_of_a_saved_dataset_are_kept_apart(saved, make_config):
    dataset = make_config({"path": str(saved / "two"), "eval_split": "validation"}).dataset

    assert values(open_training(dataset)) == ROWS
    assert open_training(dataset).unread == ("valid",)
    assert values(open_evaluation(dataset)) == ROWS[:1]
    assert "no split test; there are train, valid" in problem(saved / "two", splits=("test",))
    assert "has no splits" in problem(saved / "one", splits=("test",))


def test_a_saved_dataset_that_is_not_whole_is_refused(saved, tmp_path):
    (tmp_path / "state.json").write_text('{"_data_files": []}')

    assert "cannot be used: no files are named there" in problem(tmp_path)


def test_a_file_of_either_layout_of_arrow_is_read(tmp_path):
    import pyarrow as pa

    table = pa.Table.from_pylist(ROWS)
    for name, new in (("file", pa.ipc.new_file), ("stream", pa.ipc.new_stream)):
        with new(str(tmp_path / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table)

        assert values(open_source(str(tmp_path / f"{name}.arrow"))) == ROWS
    (tmp_path / "none.arrow").write_bytes(b"neither")
    assert "cannot be read as Arrow" in problem(tmp_path / "none.arrow")


def test_a_folder_of_llama_factory_says_what_to_name(tmp_path):
    (tmp_path / "alpaca.json").write_text(json.dumps(ROWS))
    index = {"alpaca": {"file_name": "alpaca.json"}, "web": {"hf_hub_url": "org/name"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(index))

    said = problem(tmp_path)

    assert (
        "is a folder of LLaMA-Factory: its dataset_info.json lists the data sets 'alpaca', 'web'"
        in said
    )
    assert f"such as {tmp_path / 'alpaca.json'}, or several as a list" in said
    with pytest.raises(DataError, match="LLaMA-Factory"):
        files_of(tmp_path, "dataset.path")


def test_a_description_of_other_software_is_not_a_row(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(JSONL)
    (tmp_path / "dataset_infos.json").write_text('{"default": {"features": {}}}')

    assert values(open_source(str(tmp_path))) == ROWS


# Texts and tables --------------------------------------------------------------------------------


def test_a_text_file_is_one_text(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffFirst line.\r\n\nSecond – line.\n".encode())
    (tmp_path / "b.txt").write_text("Other.")
    (tmp_path / "empty.txt").write_text(" \n")

    assert values(open_source(str(tmp_path))) == [
        {"text": "First line.\r\n\nSecond – line.\n"},
        {"text": "Other."},
    ]


def test_notes_beside_rows_are_not_learned(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(JSONL)
    (tmp_path / "LICENSE.txt").write_text("All rights reserved.")

    source = open_source(str(tmp_path))

    assert values(source) == ROWS
    assert source.unread == ("LICENSE.txt",)


def test_a_text_that_memory_cannot_be_trusted_with_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.data.parsing.MAX_TEXT", 1 << 20)
    (tmp_path / "a.txt").write_text("x" * (1 << 20))
    assert len(values(open_source(str(tmp_path)))[0]["text"]) == 1 << 20
    (tmp_path / "a.txt").write_text("x" * ((1 << 20) + 1))

    assert "is one text of more than 1 MiB" in problem(tmp_path)


@pytest.mark.parametrize(
    ("content", "row", "line"),
    [
        ("instruction;output\nName a fish;Cod\n", ("Name a fish", "Cod"), 2),
        ("instruction;output\r\n1,5;2,5\r\n", ("1,5", "2,5"), 2),
        ('"instruction";"output"\n"a;b";"c"\n', ("a;b", "c"), 2),
        ("sep=;\r\ninstruction;output\r\na;b\r\n", ("a", "b"), 3),
        ("\ufeffsep=|\ninstruction|output\na|b\n", ("a", "b"), 3),
        ("instruction\toutput\na\tb\n", ("a", "b"), 2),
        ("instruction,output\na;b,c\n", ("a;b", "c"), 2),
        ('"instruction",output\n"a\nb",c\n', ("a\nb", "c"), 2),
    ],
)
def test_a_table_is_parted_by_what_its_first_line_shows(tmp_path, content, row, line):
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode())

    [found] = open_source(str(path)).rows()

    assert tuple(found.value.values()) == row
    assert list(found.value) == ["instruction", "output"]
    assert found.number == line


# Addresses ---------------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path, monkeypatch):
    """Return the address of a server of a folder, and a list of what it was asked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, asked = tmp_path / "web", []
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(JSONL)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_an_address_is_fetched_once(web, make_config):
    address, asked = web
    dataset = make_config(
        {
            "path": f"{address}/rows.jsonl?raw=1",
            "sha256": SUM.upper(),
            "eval_path": f"{address}/rows.jsonl?raw=1",
            "eval_sha256": SUM,
        }
    ).dataset

    assert values(open_training(dataset)) == values(open_evaluation(dataset)) == ROWS
    assert asked == ["/rows.jsonl?raw=1"]


def test_what_was_fetched_and_has_changed_is_fetched_again(web, tmp_path):
    address, asked = web
    for _ in "12":
        assert values(open_source(f"{address}/rows.jsonl", sha256=SUM)) == ROWS
        [there] = (tmp_path / "cache").rglob("rows.jsonl")
        there.write_bytes(b"other")

    assert len(asked) == 2


def test_another_file_than_was_meant_is_refused(web, tmp_path):
    address, _ = web

    said = problem(f"{address}/rows.jsonl", sha256="0" * 64)

    assert f"has the SHA-256 {SUM}, and not {'0' * 64}" in said
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_an_address_where_nothing_is_names_the_answer(web):
    address, asked = web

    said = problem(f"{address}/other.jsonl", sha256=SUM)

    assert "/other.jsonl' cannot be fetched: Client error '404" in said
    assert len(asked) == 2  # the server logs the error and the answer of one request


def test_a_file_here_may_have_a_checksum_too(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(JSONL)

    assert values(open_source(str(path), sha256=SUM)) == ROWS
    assert f"has the SHA-256 {SUM}, and not" in problem(path, sha256="0" * 64)
    assert "sha256 is of one file, and" in problem(tmp_path, sha256=SUM)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("https://example.org/rows.jsonl", "needs sha256, the SHA-256 of the file"),
        ({"path": "a", "eval_path": "https://example.org/r.jsonl"}, "needs eval_sha256"),
        (["https://example.org/rows.jsonl"], "needs sha256"),
        ("oss://bucket/rows.jsonl", "path = 'oss://bucket/rows.jsonl': oss:// is not read"),
        ("file:///rows.jsonl", "file:// is not read"),
        ("hf://openai/gsm8k", "a dataset is hf://datasets/OWNER/NAME"),
        (
            "https://huggingface.co/datasets/openai/gsm8k",
            "is a page of the Hub: write openai/gsm8k",
        ),
        ("https://huggingface.co/datasets/openai/gsm8k/tree/main/", "write openai/gsm8k"),
        ({"path": "https://example.org/r.jsonl", "sha256": "abc"}, "dataset.sha256 = 'abc'"),
        ({"path": "a", "eval_sha256": "0" * 64}, "eval_sha256 is of the file at eval_path"),
        ({"path": "HTTPS://example.org/r.jsonl"}, "write https://example.org/r.jsonl"),
    ],
)
def test_an_address_that_cannot_be_relied_on_is_refused_before_anything(dataset, said):
    assert said in refusal(dataset)


@pytest.mark.parametrize(
    "address",
    [
        "https://me:hunter2@example.org/rows.jsonl",
        "https://bucket.example.org/rows.jsonl?X-Amz-Expires=9&X-Amz-Signature=hunter2",
        "https://example.blob.core.windows.net/rows.jsonl?sv=2022&sig=hunter2",
        "https://example.org/rows.jsonl?access_token=hunter2",
        "s3://me:hunter2@bucket/rows.jsonl",
    ],
)
def test_an_address_that_holds_a_secret_is_refused_without_showing_it(address):
    said = refusal({"path": address, "sha256": "0" * 64})

    assert "dataset.path holds a password or a signature" in said
    assert "hunter2" not in said


def test_a_pattern_is_refused_with_what_to_write(tmp_path):
    assert "Patterns are not read: name the folder" in problem(tmp_path / "*.jsonl")


# The Hub -----------------------------------------------------------------------------------------

READ = """
import sys
from trainer.contract.errors import DataError
from trainer.data.reading import open_source
for path in sys.argv[1:]:
    try:
        print([row.value for row in open_source(path).rows()])
    except DataError as error:
        print(error)
"""


def test_files_and_folders_of_a_repository_are_read(tmp_path):
    """As a machine without a network does, with what an earlier fetch has left."""
    repository = tmp_path / "hub" / "datasets--org--tiny"
    for revision, name in (("1" * 40, "main"), ("2" * 40, "v2")):
        data = repository / "snapshots" / revision / "data"
        data.mkdir(parents=True)
        (data / "train.jsonl").write_text(json.dumps({"text": name}) + "\n")
        (data / "test.jsonl").write_text(json.dumps({"text": "held out"}) + "\n")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(revision)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    asked = [
        "hf://datasets/org/tiny/data/train.jsonl",
        "hf://datasets/org/tiny@v2/data/train.jsonl",
        "hf://datasets/org/tiny/data",
        "hf://datasets/org/tiny/other",
        "org/none:main",
    ]

    done = subprocess.run(
        [sys.executable, "-c", READ, *asked],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    said = done.stdout.splitlines()
    assert said[:3] == ["[{'text': 'main'}]", "[{'text': 'v2'}]", "[{'text': 'main'}]"]
    assert "there is no such file or folder in org/tiny" in said[3]
    assert "'org/none:main' is neither a file here nor a dataset from the Hub" in said[4]


def test_a_subset_of_what_has_none_is_refused(make_config, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(JSONL)
    dataset = make_config({"path": str(path), "subset": "main"}).dataset

    with pytest.raises(DataError, match="subset = 'main' is of a dataset on the Hub"):
        open_training(dataset)
    # It may be that of the rows to evaluate on.
    open_training(dataset.model_copy(update={"eval_path": "org/name"}))


def test_two_subsets_are_refused():
    said = problem("org/name:main", subset="other")

    assert "names 'main', and dataset.subset = 'other'" in said
