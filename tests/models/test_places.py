"""Where a model is: paths as people write them, the Hugging Face cache, and which weights a result is of."""

from support.errors import InputError

import json
import shutil
from pathlib import Path

from models.loading import load_model
from models.places import find_model, revision
from support.results import model_folder as results_of
from tests.helpers import random_model

import pytest

COMMIT = "0123456789abcdef" * 2 + "01234567"
CACHED = f"models--Org--Tiny-Chat/snapshots/{COMMIT}"


def test_paths_as_people_write_them(model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(model_folder.parent))
    for name in ("~/tiny", f"{model_folder}/", str(model_folder), f"{model_folder}/../tiny"):
        assert find_model(name).resolve() == model_folder.resolve()
        assert results_of(tmp_path, name) == tmp_path / "tiny"
    monkeypatch.chdir(model_folder)
    assert find_model(".") == Path(".") and results_of(tmp_path, ".") == tmp_path / "tiny"


@pytest.mark.parametrize(("name", "message"), [
    ("{folder}/model.safetensors", "is a file: --model takes a .gguf file, or the folder of a model, {folder} perhaps"),
    ("{folder}/config.json", "is a file: --model takes"), ("{folder}/none.gguf", "there is no file .*none.gguf"),
    ("~nobody/x", "no model folder at ~nobody/x"),
    ("{folder}/Big-00001-of-00003.gguf", "one of several parts .*`llama-gguf-split --merge Big-00001-of-00003.gguf Big.gguf`")])
def test_what_is_no_model(name, message, model_folder, tmp_path):
    folder = Path(shutil.copytree(model_folder, tmp_path / "copy"))
    (folder / "Big-00001-of-00003.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=message.format(folder=folder)):
        load_model(name.format(folder=folder))


def test_only_the_hubs_snapshots_are_known_by_their_commit(model_folder, tmp_path):
    """Bug: any folder below one called "snapshots" was taken for the hub's, so that its name was its revision: results of other
    weights in another folder of that name were mixed up with it."""
    folders = [tmp_path / place for place in ("a/snapshots/final", "b/snapshots/final", f"mine/snapshots/{COMMIT}", CACHED)]
    for folder in folders:
        shutil.copytree(model_folder, folder)
    random_model(3, vocab=259).save_pretrained(folders[1])
    first, second, mine, hub = map(revision, folders)
    assert first == mine == revision(model_folder) != second and first.startswith("sha256:") and hub == COMMIT
    names = [results_of(tmp_path, str(folder)).name for folder in folders]
    assert names == ["final", "final", COMMIT, "Tiny-Chat"]


@pytest.fixture
def hub(model_folder, tmp_path, monkeypatch):
    """A hub that is asked through huggingface_hub's own functions; it holds the random model."""
    class Hub:
        cached, asked, silent = tmp_path / CACHED, [], False

        def snapshot_download(self, name, allow_patterns, local_files_only=False):
            if local_files_only and not self.cached.exists():
                raise FileNotFoundError
            if not local_files_only:
                self.asked.append(name)
                shutil.copytree(model_folder, self.cached, dirs_exist_ok=True)
            return str(self.cached)

        def model_info(self, name, timeout):
            if self.silent:
                raise ConnectionError("no network")

    fake = Hub()
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake.snapshot_download)
    monkeypatch.setattr("huggingface_hub.model_info", fake.model_info)
    return fake


def drop_weights(folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


@pytest.mark.parametrize(("lacks", "missing"), [
    (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer.json"),
    (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
    (drop_weights, "model-00002-of-00002.safetensors is missing"),
])  # fmt: skip
def test_the_hub_is_asked_for_the_rest_of_a_broken_download(lacks, missing, hub, model_folder):
    """Bug: one file of weights in the cache was enough to be opened, and failed for the missing ones, at every run."""
    shutil.copytree(model_folder, hub.cached)
    lacks(hub.cached)
    hub.silent = True
    asked = r"; the hub was asked for the rest in vain \(no network\): `hf download Org/Tiny-Chat` asks again"
    with pytest.raises(InputError, match=f"{missing}.*{asked}$") as caught:
        load_model("Org/Tiny-Chat")
    assert "\n" not in str(caught.value) and not hub.asked
    hub.silent = False
    assert load_model("Org/Tiny-Chat").identity["revision"] == COMMIT and hub.asked == ["Org/Tiny-Chat"]
    assert find_model("Org/Tiny-Chat") == hub.cached and len(hub.asked) == 1  # whole: not asked again


def test_what_the_hub_holds_can_be_no_model(hub, monkeypatch):
    hub.cached.mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(hub.cached))
    with pytest.raises(InputError, match="holds no config.json"):
        find_model("Org/Tiny-Chat")
