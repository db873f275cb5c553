import subprocess
import sys
from pathlib import Path

import pytest

from blocks.providers.local import Local
from blocks.registry import (
    PROVIDERS,
    configured_providers,
    how_to_set_up,
    load_provider,
    provider_class,
    provider_names,
)
from trainer.contract.errors import ConfigError, DependencyError

ROOT = Path(__file__).parents[2]


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_the_table_is_sorted_and_every_entry_loads_under_its_own_name():
    assert list(PROVIDERS) == sorted(PROVIDERS)

    for name in PROVIDERS:
        assert provider_class(name).provider_name == name


def test_an_unknown_provider_is_met_with_the_nearest_known():
    with pytest.raises(ConfigError, match=r"'locla' is not known; did you mean local\?"):
        provider_class("locla")
    with pytest.raises(ConfigError, match=r"'zzz' is not known; there are: .*local"):
        provider_class("zzz")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that installs a package with one entry point."""

    def install(value, source):
        (tmp_path / "other_cloud.py").write_text(source)
        info = tmp_path / "other_cloud-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-cloud\nVersion: 1.0\n")
        points = f"[training_orchestrator.providers]\nother = {value}\n"
        (info / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "other_cloud", raising=False)

    return install


async def test_another_package_adds_a_provider_by_entry_point(package):
    source = (
        "from blocks.providers.local import Local\n"
        "class Other(Local):\n"
        "    _block_type_slug = 'other-cloud'\n"
        "    provider_name = 'other'\n"
    )
    package("other_cloud:Other", source)

    provider = await load_provider("other")

    assert provider.provider_name == "other"
    assert isinstance(provider, Local)
    assert {"local", "other"} <= set(provider_names())


async def test_a_provider_whose_block_type_prefect_does_not_know_keeps_no_other_from_work(
    package, prefect_api
):
    source = (
        "from blocks.providers.local import Local\n"
        "class Other(Local):\n"
        "    _block_type_slug = 'other-cloud-that-nobody-registered'\n"
        "    provider_name = 'other'\n"
    )
    package("other_cloud:Other", source)

    found = await configured_providers()

    assert {"local", "other"} <= {provider.label for provider in found}


async def test_a_package_that_cannot_be_loaded_keeps_no_other_provider_from_work(
    package, prefect_api, caplog
):
    package("other_cloud:Other", "import no_such_library\n")

    found = await configured_providers()

    assert "local" in {provider.label for provider in found}
    assert "provider other is left out" in caplog.text


def test_a_provider_that_lacks_a_library_says_which_and_how_to_get_it(package):
    package("other_cloud:Other", "import no_such_library\n")

    with pytest.raises(DependencyError, match=r"no_such_library.*pip install .*other-cloud"):
        provider_class("other")


def test_an_entry_point_to_something_else_is_refused(package):
    package("other_cloud:Other", "class Other: pass\n")

    with pytest.raises(DependencyError, match="other_cloud:Other is not a provider"):
        provider_class("other")


async def test_a_saved_block_is_loaded_by_its_name_and_knows_it(prefect_api, tmp_path):
    await Local(home=tmp_path).save("mine", overwrite=True)

    provider = await load_provider("local/mine")

    assert provider.home == tmp_path
    assert provider.label == "local/mine"
    with pytest.raises(ConfigError, match=r"'local/none': no .* is saved as 'none'"):
        await load_provider("local/none")


@pytest.mark.thorough
def test_prefect_finds_our_block_types_when_it_imports_the_package():
    code = (
        "import prefect, sys, blocks\n"
        "from prefect.blocks.core import Block\n"
        "kind = Block.get_block_class_from_key('training-orchestrator-local')\n"
        "print(kind.__name__, kind.get_block_type_name(), 'torch' in sys.modules)"
    )

    assert run_python(code) == "Local Local Machine False\n"


def test_home_and_models_do_not_import_prefect():
    code = "import sys, blocks.home, blocks.models; print({'prefect', 'torch'} & set(sys.modules))"

    assert run_python(code) == "set()\n"


def test_the_remedy_names_what_sets_up_the_providers_in_question_and_no_other():
    assert how_to_set_up(["aws"]).startswith("Set AWS_PROVIDER, or save")
    assert how_to_set_up(["aws", "gcp"]).startswith("Set one of AWS_PROVIDER, GCP_PROVIDER, or")
    assert how_to_set_up(["local"]).startswith("Save a block")
    assert "VAST_API_KEY" in how_to_set_up()
