"""A LoRA adapter of PEFT's, merged into the model that it was trained on (Hu et al. 2021, section 4.1: W + B A · alpha / r).

What is merged is an ordinary model: it runs on either engine, and costs no more than its base.
"""

from support.errors import InputError

import hashlib
import warnings
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from models.folders import check_safetensors, check_tokenizer, is_there
from models.places import find_model
from support.adapter import adapter_settings

from safetensors import safe_open
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"


def find_base(name: str, adapter: Path) -> Path:
    """Where the base of an adapter is, as `find_model` finds it. Raises InputError where it is not."""
    try:
        return find_model(name)
    except InputError as error:
        raise InputError(f"{error}; it is the base of the adapter {adapter}: name it by --model") from error


def merged(model: "PreTrainedModel", folder: Path) -> "PreTrainedModel":
    """The model with the adapter in `folder` merged into its weights, which change.

    Raises InputError for what is no LoRA adapter, or that of a model of another shape.
    """
    import peft

    check_adapter(folder)
    with safe_open(folder / WEIGHTS, "pt") as file:
        names = list(file.keys())
    untie(model, names)
    mapping = getattr(model, "_checkpoint_conversion_mapping", None)  # older names of weights, as PeftModel.from_pretrained
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = peft.PeftModel(model, peft.LoraConfig.from_pretrained(folder, inference_mode=True))
            loaded = adapted.load_adapter(folder, "default", torch_device="cpu", key_mapping=mapping)
            strange = [*loaded.missing_keys, *loaded.unexpected_keys]
            if strange:
                raise InputError(f"the adapter {folder} is for another model: {strange[0]} is missing in one of them")
            return adapted.merge_and_unload()
    except (RuntimeError, ValueError) as error:  # PEFT's, for weights of another size and layers that are not there
        if isinstance(error, InputError):
            raise
        raise InputError(f"the adapter {folder} is for another model: {str(error).splitlines()[-1].strip()}") from error


def tokenizer_place(place: Path, adapter: Path | None) -> Path:
    """Where the tokenizer of a model in `place` is: with the adapter, if it brings one, and so perhaps another template."""
    if not adapter or not all(is_there(adapter / name) for name in ("tokenizer.json", "tokenizer_config.json")):
        return place
    check_tokenizer(adapter)
    return adapter


def check_adapter(folder: Path) -> None:
    """Raises InputError for an adapter that is no LoRA, of a newer PEFT, or without weights as safetensors."""
    import peft

    settings = adapter_settings(folder)
    if settings.get("peft_type") != "LORA":
        raise InputError(f"the adapter {folder} is of type {settings.get('peft_type')}: only LoRA is merged")
    known = {field.name for field in fields(peft.LoraConfig)}
    unknown = [name for name, value in settings.items() if value and name not in known]
    if unknown:
        raise InputError(f"the adapter {folder} has a setting that PEFT {peft.__version__} does not know, {unknown[0]}")
    if settings.get("alora_invocation_tokens"):
        raise InputError(f"the adapter {folder} acts from certain tokens on, and cannot be merged")
    if is_there(folder / WEIGHTS):
        check_safetensors(folder / WEIGHTS)
    elif (folder / "adapter_model.bin").exists():
        raise InputError(
            f"{folder}/adapter_model.bin is a pickle, which is not read, since it could run any code; convert it, if you trust "
            "it: python -c \"import torch, safetensors.torch as s; "
            f"s.save_file(torch.load('{folder}/adapter_model.bin'), '{folder}/{WEIGHTS}')\"")
    else:
        raise InputError(f"{folder} holds no {WEIGHTS}: download it")


def untie(model: "PreTrainedModel", names: list[str]) -> None:
    """Give the head a weight of its own where the adapter changes it, or the embedding, by itself; `names` are its weights'.

    PEFT would add both to what they share.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    parts = [f".{name}." for name, module in model.named_modules() if module in (head, embedding)]
    alone = [name for name in names if any(part in name for part in parts) and "token_adapter" not in name]
    if alone and head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False


def adapter_revision(folder: Path) -> str:
    """The beginning of the sha256 sum of an adapter's settings and weights."""
    digest = hashlib.sha256((folder / "adapter_config.json").read_bytes() + (folder / WEIGHTS).read_bytes())
    return "sha256:" + digest.hexdigest()[:16]
