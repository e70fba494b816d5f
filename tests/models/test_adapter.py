"""LoRA adapters: merged they are the base with the adapter beside it, on either engine; what cannot be merged is one line."""

from support.errors import InputError

import json
import os
import runpy
import shlex
import shutil
import sys

from models.adapter import merged
from models.loading import load_model
from tests.helpers import ROOT, logits, random_model, tokens

import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, about heads that are tied to an embedding
QKV, CONV = ["q_proj", "k_proj", "v_proj"], ["c_attn", "c_fc"]


def make_adapter(folder, model, base=None, seed=0, **settings):
    """A random LoRA adapter of the model; returns the model with the adapter beside it, unmerged."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(**{"r": 2, "target_modules": QKV, "task_type": "CAUSAL_LM", **settings}))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name or "trainable_tokens" in name:
                weight.add_(0.2 * torch.randn_like(weight))  # as after a training: B begins at 0
    adapted.peft_config["default"].base_model_name_or_path = base
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return adapted.eval()


@pytest.mark.parametrize(("kind", "tied", "settings"), [
    ("qwen2", False, {}), ("llama", True, {"use_rslora": True, "rank_pattern": {"k_proj": 3}, "alpha_pattern": {"v_proj": 1}}),
    ("qwen2", True, {"target_modules": "all-linear"}), ("gpt2", True, {"target_modules": CONV, "fan_in_fan_out": True}),
    ("qwen2", False, {"use_dora": True, "bias": "lora_only"}), ("qwen2", True, {"target_modules": ["q_proj", "lm_head"]}),
    ("llama", True, {"target_modules": ["v_proj", "embed_tokens"]}), ("qwen2", False, {"modules_to_save": ["lm_head"]}),
    ("llama", True, {"modules_to_save": ["embed_tokens"]}), ("qwen2", True, {"trainable_token_indices": [3, 5]}),
    ("llama", False, {"layers_to_transform": [1]})])
def test_merged_is_unmerged(kind, tied, settings, tmp_path):
    """Oracle: PEFT's own model, which adds the adapter to what each layer gives.

    By hand, a layer of one weight 3, A = 2, B = 5, rank 1, alpha 8: W + B A alpha / r = 3 + 5 * 2 * 8 = 83; x = 1 gives 83
    either way, 3 from the layer and 80 from beside it. An adapter of a head that is tied to the embedding leaves that alone.
    """
    base, other = (random_model(6, kind=kind, tied=tied, vocab=30) for _ in range(2))
    expected = logits(make_adapter(tmp_path, base, **settings), tokens(12, vocab=30))
    model = merged(other, tmp_path)
    assert type(model) is type(other) and not any("lora" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(logits(model, tokens(12, vocab=30)), expected, atol=1e-5, rtol=1e-5)
    assert (expected - logits(random_model(6, kind=kind, tied=tied, vocab=30), tokens(12, vocab=30))).abs().max() > 0.01


@pytest.fixture(scope="module")
def adapter(model_folder, tmp_path_factory):
    """(folder, the unmerged model): an adapter of the random Qwen2, which it names."""
    folder = tmp_path_factory.mktemp("adapters") / "polite"
    return folder, make_adapter(folder, random_model(0, vocab=259, context=2000), base=str(model_folder))


@pytest.mark.parametrize("engine", ["own", "transformers"])
def test_on_either_engine(engine, adapter, model_folder):
    folder, unmerged = adapter
    loaded, base = load_model(str(model_folder), engine=engine, adapter=folder), load_model(str(model_folder), engine=engine)
    torch.testing.assert_close(logits(loaded.model, tokens(9, vocab=259)), logits(unmerged, tokens(9, vocab=259)),
                               atol=1e-4, rtol=1e-4)
    assert loaded.identity == {**base.identity, "name": "tiny+polite", "adapter": loaded.identity["adapter"]}
    assert loaded.identity["adapter"].startswith("sha256:") and loaded.eos_ids == base.eos_ids


@pytest.mark.slow
def test_the_shipped_decoder_and_a_gguf_file_take_one_too(tmp_path):
    from models.export_gguf import export_gguf
    from models.places import CHECKPOINT

    from transformers import AutoModelForCausalLM

    unmerged = make_adapter(tmp_path / "lora", AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32))
    expected = logits(unmerged, tokens(9))
    export_gguf(CHECKPOINT, tmp_path / "base.gguf")
    for name in ("generator", str(tmp_path / "base.gguf")):
        loaded = load_model(name, adapter=tmp_path / "lora")
        torch.testing.assert_close(logits(loaded.model, tokens(9)), expected, atol=1e-4, rtol=1e-4)
        assert loaded.identity["engine"] == "own"


def test_the_revision_is_of_settings_and_weights(adapter, model_folder, tmp_path):
    """An adapter with another alpha writes other texts from the same weights."""
    copy = shutil.copytree(adapter[0], tmp_path / "copy")
    settings = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 1}))
    revisions = {load_model(str(model_folder), adapter=folder).identity["adapter"] for folder in (adapter[0], copy)}
    assert len(revisions) == 2


def test_its_tokenizer_and_template_are_used(adapter, model_folder, tmp_path):
    """A training saves them beside the adapter: a base model's has no template, the adapter's has."""
    copy = shutil.copytree(adapter[0], tmp_path / "copy")
    shutil.copy(model_folder / "tokenizer.json", copy)
    (copy / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast",
                                                            "chat_template": "{{ messages[-1].content }}"}))
    assert load_model(str(model_folder), adapter=copy).tokenizer.chat_template == "{{ messages[-1].content }}"
    assert load_model(str(model_folder), adapter=adapter[0]).tokenizer.chat_template is None
    (copy / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match="copy/tokenizer.json is a pointer of Git LFS"):
        load_model(str(model_folder), adapter=copy)


def test_a_task_finds_the_base_and_keeps_its_results_apart(adapter, model_folder, tmp_path, monkeypatch, capsys):
    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["task1_greedy.py", "--results", str(tmp_path), "--prompt", "json",
                                          "--max-new-tokens", "5", *flags])
        runpy.run_path(str(ROOT / "task1_greedy.py"), run_name="__main__")
        return capsys.readouterr().err

    assert run("--adapter", str(adapter[0])) == f"1 texts saved in {tmp_path}/tiny+polite/task1_greedy.json\n"
    assert "/tiny/task1_greedy.json" in run("--model", str(model_folder))
    found = json.loads((tmp_path / "tiny+polite" / "task1_greedy.json").read_text("utf-8"))
    assert found["model"]["name"] == "tiny+polite" and "kept as" not in run("--adapter", str(adapter[0]))


def change(**fields):
    def make(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return make


def to_pickle(folder):
    from safetensors.torch import load_file

    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def of_another(**shape):
    def make(folder):
        shutil.rmtree(folder)
        make_adapter(folder, random_model(0, vocab=259, **shape))
    return make


@pytest.mark.parametrize(("breaks", "message"), [
    (shutil.rmtree, "there is no folder .*/copy with an adapter: `hf download NAME --local-dir .*/copy` gets one"),
    (lambda folder: (folder / "adapter_config.json").unlink(), "holds no adapter_config.json: it is no adapter's folder"),
    (lambda folder: (folder / "adapter_config.json").rename(folder / "config.json"), "holds a model, no adapter: use --model"),
    (lambda folder: (folder / "adapter_config.json").write_text("["), "adapter_config.json is broken"),
    (lambda folder: (folder / "adapter_model.safetensors").unlink(), "holds no adapter_model.safetensors: download it"),
    (lambda folder: (folder / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1"), "Git LFS"),
    (lambda folder: os.truncate(folder / "adapter_model.safetensors", 400), "is cut off or damaged"),
    (to_pickle, "adapter_model.bin is a pickle, which is not read, .*convert it, if you trust it: python -c"),
    (change(peft_type="PREFIX_TUNING"), "is of type PREFIX_TUNING: only LoRA is merged"),
    (change(peft_type=None), "is of type None"), (change(use_newest=True), "a setting that PEFT .* does not know, use_newest"),
    (change(alora_invocation_tokens=[1]), "acts from certain tokens on, and cannot be merged"),
    (change(target_modules=["c_attn"]), "is for another model: Target modules .* not found in the base model"),
    (change(target_modules=["q_proj"]), "is for another model: .*(k|v)_proj.* is missing in one of them"),
    (change(r=3), "is for another model: size mismatch for .*_proj"),
    (of_another(layers=3), "is for another model: .*layers.2.* is missing in one of them"),
    (of_another(layers=1), "is for another model: .*layers.1.* is missing in one of them"),
    (of_another(width=32), "is for another model: size mismatch"),
])  # fmt: skip
def test_an_adapter_that_cannot_be_merged(breaks, message, adapter, tmp_path):
    """Bug of its kind: PEFT only warns where half of an adapter is missing, and leaves what it does not know alone."""
    copy = shutil.copytree(adapter[0], tmp_path / "copy")
    breaks(copy)
    with pytest.raises(InputError, match=message) as caught:
        merged(random_model(0, vocab=259), copy)
    assert "\n" not in str(caught.value) and str(copy) in str(caught.value)


def test_a_pickle_is_converted_by_the_command_that_is_given(adapter, tmp_path):
    copy = shutil.copytree(adapter[0], tmp_path / "copy")
    to_pickle(copy)
    with pytest.raises(InputError) as caught:
        merged(random_model(0, vocab=259), copy)
    exec(shlex.split(str(caught.value))[-1], {})
    merged(random_model(0, vocab=259), copy)


def test_a_base_that_is_not_there(adapter, tmp_path):
    with pytest.raises(InputError, match="no model folder at /train/run/base; it is the base of .*polite: name it by --model"):
        load_model("/train/run/base", adapter=adapter[0])
