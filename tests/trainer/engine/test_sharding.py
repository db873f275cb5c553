"""What is read of shards that somebody else wrote runs nothing of theirs."""

import pickle

import pytest
import torch

pytestmark = pytest.mark.xdist_group("torch")


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('run')",))


@pytest.mark.parametrize(
    "content",
    [Evil(), {"a": 1}, torch.nn.Linear(1, 1)],
    ids=["code", "no metadata", "a module"],
)
def test_a_description_of_anything_but_tensors_is_refused(tmp_path, content):
    from trainer.engine.sharding import _Reader

    (tmp_path / ".metadata").write_bytes(pickle.dumps(content))

    with pytest.raises(pickle.UnpicklingError, match=r"\.metadata"):
        _Reader(str(tmp_path)).read_metadata()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "bytes"])
def test_files_elsewhere_and_values_that_are_no_tensors_are_refused(tmp_path, name):
    from torch.distributed.checkpoint import filesystem, metadata

    from trainer.engine.sharding import _Reader

    info = filesystem._StorageInfo(relative_path=name, offset=0, length=1)
    entries = {"a": metadata.BytesStorageMetadata()} if name == "bytes" else {}
    found = metadata.Metadata(entries, storage_data={metadata.MetadataIndex("a"): info})
    (tmp_path / ".metadata").write_bytes(pickle.dumps(found))

    with pytest.raises(pickle.UnpicklingError, match=r"\.metadata"):
        _Reader(str(tmp_path)).read_metadata()
