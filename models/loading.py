"""Opening a model by its name: the shipped checkpoint, a folder, a GGUF file, or the Hugging Face hub. There is no fallback.

A new kind of model is added in `load_model`. It must answer `model(input_ids=…, past_key_values=cache, logits_to_keep=1)`
with `.logits`, and its `config` must tell its vocabulary and context, as `models/limits.py` reads them. What it remembers is
kept in the cache, of which the loop asks `get_seq_length()` and `batch_select_indices(rows)`.
"""

from support.errors import InputError, first_line, report

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from models import gguf
from models.adapter import adapter_revision, find_base, merged, tokenizer_place
from models.cache import check_cache
from models.checkpoint import load_checkpoint
from models.ends import answer_ends
from models.family import own_decoder
from models.limits import vocab_size
from models.lstm import LSTM
from models.lstm_folder import check_vocabulary, is_lstm, load_lstm
from models.packing import pack
from models.places import HUB_NAMES, find_model, revision
from models.rotary import forget_lengths
from models.transformer import Transformer
from support.results import is_gguf, short_name, with_adapter

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Loaded(NamedTuple):
    """A model ready to decode: the ids that end an answer, and which model on which engine it is, for the results."""

    model: nn.Module
    tokenizer: "PreTrainedTokenizerBase"
    eos_ids: frozenset[int]
    identity: dict


def load_model(name: str, device: str = "cpu", dtype: str = "float32", engine: str | None = None,
               adapter: Path | None = None) -> Loaded:
    """Open `generator` (the shipped checkpoint), a name of HUB_NAMES or any other on the hub, a folder or a GGUF file.

    engine: "own" is our own decoder, "transformers" its model; None is our own where the model is of its family. A folder of
    an LSTM language model is opened whatever is asked for.
    adapter: the folder of a LoRA adapter, which is merged; where it holds a tokenizer, that one is used.
    The weights are packed. Those of a GGUF file are dequantised to `dtype`; its tokenizer, chat template and ends are its own.
    Raises InputError for what is not there or cannot be read.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        place = find_base(name, adapter) if adapter else find_model(name)
        if is_gguf(place) and sys.stderr.isatty():
            report(f"opening {place.name}, which takes a while")
        stored = {"quantization": gguf.quantization(place)} if is_gguf(place) else {}
        if not is_gguf(place) and is_lstm(place):
            model = load_lstm(place).to(getattr(torch, dtype))
        elif name == "generator" and engine != "transformers" and not adapter:
            model = load_checkpoint(place).to(getattr(torch, dtype))
        else:
            model = (open_gguf if is_gguf(place) else open_causal_lm)(place, getattr(torch, dtype))
            if adapter:
                model, stored["adapter"] = merged(model, adapter), adapter_revision(adapter)
            model = on_engine(model, engine)
        model = on_device(model, device).eval()
        tokenizer = open_tokenizer(tokenizer_place(place, adapter))
        if isinstance(model, LSTM):
            check_vocabulary(place, len(tokenizer), model.config)
        eos_ids = frozenset(answer_ends(place, tokenizer, vocab_size(model)))
        parameters = sum(weight.numel() for weight in model.parameters())
        pack(model)
    except InputError:
        raise
    except Exception as error:  # a broken folder or device fails in many ways, with many types
        raise InputError(f"cannot load the model {name}: {first_line(error)}") from error
    identity = {"name": with_adapter(HUB_NAMES.get(name) or short_name(name), adapter), "revision": revision(place), **stored,
                "parameters": parameters, "engine": "own" if isinstance(model, (Transformer, LSTM)) else "transformers"}
    return Loaded(model, tokenizer, eos_ids, identity)


def on_device(model: nn.Module, device: str) -> nn.Module:
    """A model on a device. Raises InputError for one that is not here."""
    try:
        torch.zeros(1, device=device).tolist()
    except Exception as error:  # each kind of device says it in its own way
        raise InputError(f"--device {device} cannot be used here ({first_line(error)}): leave it out, and the processor "
                         "computes") from error
    return model.to(device)


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
        output_loading_info=True, ignore_mismatched_sizes=True, **how)  # these are refused below, by their names
    # transformers would fill these with random numbers
    unfit = [*info["missing_keys"], *(name for name, _, _ in info["mismatched_keys"])]
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
    for a decoder of ours that was trained on characters or words. So a class that names no model means that file alone, and so
    does one that is code of the model's own, which is not run.
    Raises InputError where there is none, or none that can be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if is_gguf(place):
        return gguf.open_tokenizer(place)
    try:
        settings = place / "tokenizer_config.json"
        told = json.loads(settings.read_text("utf-8")) if settings.exists() else {}
        general = told.get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend") or "auto_map" in told
        opener = PreTrainedTokenizerFast if general and (place / "tokenizer.json").exists() else AutoTokenizer
        tokenizer = opener.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a broken file fails in many ways
        raise InputError(f"{place} has a tokenizer that cannot be read: {first_line(error)}. Fetch its tokenizer.json, "
                         "tokenizer_config.json and chat_template.jinja once more") from error
    if not tokenizer.is_fast:
        raise InputError(f"{place} has a tokenizer in Python alone, {type(tokenizer).__name__}: it needs a tokenizer.json")
    return tokenizer
