"""Model folders that cannot be opened, as people have them: one line that says what to do, before a weight is read."""

from support.errors import InputError

import json
import os
import shlex
import shutil
from pathlib import Path

from models.folders import check_folder
from models.loading import load_model
from tests.helpers import random_model

import pytest
import torch

POINTER = ("version https://git-lfs.github.com/spec/v1\n"
           "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 988097824\n")  # fmt: skip
INDEX = "model.safetensors.index.json"


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def write(name, content):
    return lambda folder: (folder / name).write_text(content)


def change(name, **fields):
    """Change fields of a JSON file."""
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | fields))


def truncate(name, length):
    """Cut a file off; a negative length is what is cut off."""
    return lambda folder: os.truncate(folder / name, length if length >= 0 else (folder / name).stat().st_size + length)


def to_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save(random_model(0, vocab=259).state_dict(), folder / "pytorch_model.bin")


def to_shards(folder):
    (folder / "model.safetensors").unlink()
    random_model(0, vocab=259, context=2000).save_pretrained(folder, max_shard_size="20KB")
    assert (folder / INDEX).exists()


def to_bad_shards(breaks):
    def make(folder):
        to_shards(folder)
        breaks(folder)
    return make


def rename(old, new):
    def make(folder):
        (folder / new).parent.mkdir(exist_ok=True)
        (folder / old).rename(folder / new)
    return make


def link_to_nothing(name):
    def make(folder):
        (folder / name).unlink()
        (folder / name).symlink_to("../blobs/gone")
    return make


def both(*steps):
    return lambda folder: [step(folder) for step in steps]


WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
DAMAGED = {
    "pointer weights": (write(WEIGHTS, POINTER), "model.safetensors is a pointer of Git LFS, .*: run `git lfs pull`"),
    "pointer tokenizer": (write(TOKENIZER, POINTER), "tokenizer.json is a pointer of Git LFS"),
    "pointer config": (write(CONFIG, POINTER), "config.json is a pointer of Git LFS"),
    "dead link": (link_to_nothing(WEIGHTS), "model.safetensors is a link to a file that is not there"),
    "config no JSON": (write(CONFIG, "{"), "config.json is broken, no JSON: download it again"),
    "config empty": (write(CONFIG, ""), "config.json is broken"), "config list": (write(CONFIG, "[]"), "no JSON object"),
    "config of something": (write(CONFIG, "{}"), "names no model_type"),
    "config bytes": (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe"), "config.json is broken"),
    "generation config": (write("generation_config.json", "["), "generation_config.json is broken"),
    "tokenizer empty": (write(TOKENIZER, ""), "tokenizer.json is broken"),
    "cut in the header": (truncate(WEIGHTS, 100), "model.safetensors is cut off or damaged: download it again"),
    "cut at the length": (truncate(WEIGHTS, 3), "is cut off"), "cut at the end": (truncate(WEIGHTS, -1), "is cut off"),
    "empty weights": (truncate(WEIGHTS, 0), "is cut off"), "a web page": (write(WEIGHTS, "<!doctype html>" * 99), "damaged"),
    "shard missing": (to_bad_shards(lambda f: min(f.glob("*.safetensors")).unlink()), "is missing, one of . files of weights"),
    "shard cut": (to_bad_shards(lambda f: os.truncate(min(f.glob("*.safetensors")), 90)), "00001-of.* is cut off"),
    "index no JSON": (to_bad_shards(write(INDEX, "{")), "index.json is broken"),
    "index of nothing": (to_bad_shards(write(INDEX, "{}")), "names no weights"),
    "index outside": (to_bad_shards(write(INDEX, '{"weight_map": {"a": "../b.safetensors"}}')), "outside its folder, ../b"),
}
OTHER_KINDS = {
    "no config": (remove(CONFIG), "holds no config.json: use a folder that does, or a .gguf file"),
    "pickle": (to_pickle, "pytorch_model.bin is a pickle, which is not read, .*convert it, if you trust it: python -c"),
    "onnx": (rename(WEIGHTS, "onnx/model.onnx"), "its weights are for ONNX alone, get those as safetensors"),
    "OpenVINO": (rename(WEIGHTS, "openvino_model.xml"), "its weights are for OpenVINO alone"),
    "GGUF": (rename(WEIGHTS, "small.gguf"), "holds no model.safetensors: use --model .*/small.gguf"),
    "GGUF alone": (both(rename(WEIGHTS, "small.gguf"), remove(CONFIG)), "holds no config.json: use --model .*/small.gguf"),
    "Mistral's": (rename(WEIGHTS, "consolidated.safetensors"), "consolidated.safetensors is none of transformers' files"),
    "no weights": (remove(WEIGHTS), "holds no model.safetensors: download it"),
    "adapter": (rename(CONFIG, "adapter_config.json"), "holds an adapter: use --adapter"),
    "adapter within": (write("adapter_config.json", "{}"), "holds an adapter: use --adapter"),
    "encoder": (change(CONFIG, model_type="bert", architectures=["BertForMaskedLM"]), "BertForMaskedLM, which is no decoder"),
    "both": (change(CONFIG, model_type="t5", architectures=["T5ForConditionalGeneration"]), "which is no decoder"),
    "both, too": (change(CONFIG, model_type="bart", is_encoder_decoder=True), "is no decoder: use a causal language model"),
    "classifier": (change(CONFIG, architectures=["Qwen2ForSequenceClassification"]), "which is no decoder"),
    "own code": (change(CONFIG, model_type="mine", auto_map={"AutoConfig": "x.C"}), "needs Python code of its own .mine."),
    "too new": (change(CONFIG, model_type="qwen99"), "a type, qwen99, that transformers .* does not know"),
    "no tokenizer": (remove(TOKENIZER, "tokenizer_config.json"), "holds no tokenizer.json: copy it"),
    "no tokenizer, settings": (remove(TOKENIZER), "holds no tokenizer.json: copy it"),
    "half a tokenizer": (both(remove(TOKENIZER), write("vocab.json", "{}")), "holds no tokenizer.json: copy it"),
    "own tokenizer": (both(remove(TOKENIZER), change("tokenizer_config.json", auto_map={"AutoTokenizer": ["x.T", None]})),
                      "tokenizer in Python code of its own, which is not run: it needs a tokenizer.json"),
    "sentencepiece": (both(remove(TOKENIZER), write("tokenizer.model", "\n")),
                      "in tokenizer.model alone: pip install sentencepiece protobuf, or get its tokenizer.json"),
    "its pointer": (both(remove(TOKENIZER), write("tokenizer.model", POINTER)), "tokenizer.model is a pointer"),
}  # fmt: skip


@pytest.fixture
def copy(model_folder, tmp_path):
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


@pytest.mark.parametrize(("breaks", "message"), [*DAMAGED.values(), *OTHER_KINDS.values()], ids=[*DAMAGED, *OTHER_KINDS])
def test_a_folder_that_cannot_be_opened(breaks, message, copy, monkeypatch):
    """Bugs: without a tokenizer an empty one was opened, whose every prompt is empty; an encoder wrote texts; weights outside
    the folder were read; an adapter that lies beside a model was put into it; and the rest was said in words that tell
    nothing to do."""
    monkeypatch.setattr("transformers.utils.is_sentencepiece_available", lambda: False)
    breaks(copy)
    with pytest.raises(InputError, match=message) as caught:
        load_model(str(copy))
    assert "\n" not in str(caught.value) and str(copy) in str(caught.value)


@pytest.mark.parametrize("change_it", [
    lambda folder: None, to_shards, write("model.ckpt", POINTER), change(CONFIG, auto_map={"AutoModelForCausalLM": "x.M"}),
    change(CONFIG, architectures=None), change(CONFIG, architectures=["Qwen2Model"])])
def test_a_folder_that_can(change_it, copy):
    change_it(copy)
    check_folder(copy)


def test_the_folder_above(copy, tmp_path):
    """Training writes OUTPUT/checkpoint-100; the Hugging Face cache has snapshots/<commit>."""
    with pytest.raises(InputError, match=f"{tmp_path} holds no config.json: use --model {copy}$"):
        load_model(str(tmp_path))
    shutil.copytree(copy, tmp_path / "a" / "deeper")
    with pytest.raises(InputError, match=f"use --model {copy}, or another of the 2 there$"):
        load_model(str(tmp_path))


def test_a_tokenizer_in_python_alone(tmp_path):
    """Bug: CTRL's was opened; chat and every text with control tokens in it need one of the tokenizers library."""
    from transformers import CTRLConfig, CTRLLMHeadModel

    CTRLLMHeadModel(CTRLConfig(vocab_size=3, n_embd=8, dff=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "<unk>": 2}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    with pytest.raises(InputError, match="a tokenizer in Python alone, CTRLTokenizer: it needs a tokenizer.json"):
        load_model(str(tmp_path))


def test_a_pickle_is_converted_by_the_command_that_is_given(copy):
    to_pickle(copy)
    with pytest.raises(InputError) as caught:
        load_model(str(copy))
    *command, program = shlex.split(str(caught.value).partition("you trust it: ")[2])
    assert command == ["python", "-c"]
    exec(program, {})  # a process of its own would take seconds
    check_folder(copy)
