"""What goes to the machine beside model and data: commands' files, the user's code, adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from blocks.machines.local import LocalMachine
from flows.setup.shipping import ship
from tests.flows.setup.shipping import at, at_work, config, files_below
from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError


async def test_a_commands_own_files_go_along_and_its_data_as_it_is(tmp_path, base):
    (tmp_path / "tools").mkdir()
    for name in ("train.py", "tools/a.py", "data.tar"):
        (tmp_path / name).write_text(name)
    files = [str(tmp_path / "train.py"), str(tmp_path / "tools")]
    command = {"run": ["python", "train.py"], "files": files}
    asked = TrainingConfig.model_validate(
        {"trainer": "command", "dataset": str(tmp_path / "data.tar"), "command": command}
    )

    there = await ship(at_work(LocalMachine(), base), asked, print)

    assert there.command is not None
    assert [Path(place).name for place in there.command.files] == ["train.py", "tools"]
    assert at(there.command.files[0]) == b"train.py"
    assert files_below(there.command.files[1]) == ["a.py"]
    assert at(there.dataset.path) == b"data.tar"
    assert there.model == "none"
    gone = asked.model_dump() | {"command": {**command, "files": ["gone.py"]}}
    with pytest.raises(ConfigError, match="there is no such file"):
        await ship(at_work(LocalMachine(), base), TrainingConfig.model_validate(gone), print)


async def test_the_users_own_code_and_reward_model_go_along(tmp_path, base):
    code, scorer = tmp_path / "mine.py", tmp_path / "scorer"
    code.write_text("def short(**_): ...\ndef clean(row): return row\n")
    scorer.mkdir()
    (scorer / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    asked = config(
        method="rloo",
        reward_functions=[f"{code}:short", "json"],
        formatting=f"{code}:clean",
        reward_model=str(scorer),
    )

    there = await ship(at_work(LocalMachine(), base), asked, print)

    file, _, name = there.reward_functions[0].rpartition(":")
    assert (at(file), name, there.reward_functions[1]) == (code.read_bytes(), "short", "json")
    assert there.formatting == f"{file}:clean"
    assert file.startswith(base)
    assert files_below(there.reward_model) == ["adapter_config.json"]


async def test_a_reward_adapter_whose_base_stays_here_goes_along_merged_or_not_at_all(
    tmp_path, base
):
    scorer = tmp_path / "scorer"
    (scorer / "merged").mkdir(parents=True)
    (scorer / "adapter_config.json").write_text('{"base_model_name_or_path": "/models/base"}')
    asked = config(method="rloo", reward_model=str(scorer))

    with pytest.raises(ConfigError, match=r"exists only on this computer.*merge: true"):
        await ship(at_work(LocalMachine(), base), asked, print)

    (scorer / "merged" / "config.json").write_text("{}")
    there = await ship(at_work(LocalMachine(), base), asked, print)

    assert files_below(there.reward_model) == ["config.json"]


async def test_of_an_adapter_to_go_on_with_goes_what_it_was_trained_with(tmp_path, base):
    adapter = tmp_path / "adapter"
    (adapter / "merged").mkdir(parents=True)
    wanted = ["MANIFEST.json", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]
    for name in (*wanted, "optimizer.pt", "README.md", "merged/model.safetensors"):
        (adapter / name).write_text(name)

    there = await ship(at_work(LocalMachine(), base), config(adapter=str(adapter)), print)

    assert there.adapter is not None
    assert sorted(files_below(there.adapter)) == sorted(wanted)


async def test_of_several_adapters_each_that_is_here_goes_along(tmp_path, base):
    for name in ("maths", "french"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(name)
    named = [str(tmp_path / "maths"), "org/hub", str(tmp_path / "french")]

    there = await ship(at_work(LocalMachine(), base), config(adapter=named), print)

    first, on_hub, last = there.adapters
    assert on_hub == "org/hub"
    assert [at(f"{place}/adapter_config.json") for place in (first, last)] == [b"maths", b"french"]
    assert first.startswith(base)


async def test_a_chat_template_goes_along_and_the_name_of_one_stays(tmp_path, base):
    path = tmp_path / "mine.jinja"
    path.write_text("{{ messages }}")

    there = await ship(at_work(LocalMachine(), base), config(chat_template=str(path)), print)
    named = await ship(at_work(LocalMachine(), base), config(chat_template="qwen3"), print)

    assert there.chat_template is not None
    assert at(there.chat_template) == b"{{ messages }}"
    assert named.chat_template == "qwen3"
