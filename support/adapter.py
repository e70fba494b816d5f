"""A PEFT adapter's folder: its settings, and the base model that they name."""

from support.errors import InputError

import json
from pathlib import Path


def adapter_settings(folder: Path) -> dict:
    """What an adapter's adapter_config.json says. Raises InputError for a folder that holds no adapter."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder} with an adapter: `hf download NAME --local-dir {folder}` gets one")
    path = folder / "adapter_config.json"
    if not path.exists():
        raise InputError(f"{folder} holds a model, no adapter: use --model" if (folder / "config.json").exists() else
                         f"{folder} holds no adapter_config.json: it is no adapter's folder")
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise InputError(f"{path} is broken, no JSON object: download it again")
    return settings


def adapter_base(folder: Path) -> str:
    """The name or path of the model that an adapter was trained on. Raises InputError where the adapter names none."""
    base = adapter_settings(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise InputError(f"the adapter {folder} names no base model: name it by --model")
    return base
