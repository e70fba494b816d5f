"""The base that an adapter names."""

from support.errors import InputError

import json

from support.adapter import adapter_base
from support.flags import Parser, add_model_flags
from support.results import model_folder

import pytest


@pytest.fixture
def adapter(tmp_path):
    def make(base):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        return tmp_path / "mine"
    return make


def parsed(*flags):
    parser = Parser("what it does")
    add_model_flags(parser)
    return parser.parse_args([str(flag) for flag in flags])


def test_the_base_is_named_by_the_adapter_or_by_the_flag(adapter, tmp_path):
    folder = adapter("Qwen/Qwen2.5-0.5B-Instruct")
    assert adapter_base(folder) == parsed("--adapter", folder).model == "Qwen/Qwen2.5-0.5B-Instruct"
    for flags in (["--model", "a.gguf", "--adapter", folder], ["--adapter", folder, "--model", "a.gguf"]):
        assert parsed(*flags).model == "a.gguf" and parsed(*flags).adapter == folder
    assert parsed("--model", "generator", "--adapter", folder).model == "generator" and parsed().model == "generator"
    assert model_folder(tmp_path, "org/base", folder) == tmp_path / "base+mine"


@pytest.mark.parametrize("base", [None, "", 5])
def test_an_adapter_that_names_no_base(base, adapter):
    with pytest.raises(InputError, match="mine names no base model: name it by --model$"):
        parsed("--adapter", adapter(base))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="there is no folder .*none with an adapter"):
        parsed("--adapter", tmp_path / "none")
