"""A transformer as a Hugging Face folder of type qwen2 or llama, which transformers, vLLM and llama.cpp open too."""

from support.errors import InputError, first_line

import json
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from models.chatml import CHAT_TEMPLATE
from models.ends import as_ids
from models.family import family_config
from models.transformer import Transformer, TransformerConfig
from support.files import make_folder, write_aside, write_text

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

FORMAT = {"hidden_act": "silu", "use_sliding_window": False, "rope_scaling": None}  # options of either type that are off
Kind = TypeVar("Kind", bound=Transformer)


def save_checkpoint(model: Transformer, folder: Path, dtype: torch.dtype = torch.float32,
                    chat_template: str | None = CHAT_TEMPLATE) -> None:
    """Write a model folder, the weights last and each file moved into place when it is whole.

    A folder that already holds a model of this shape stays loadable at every moment. `chat_template` is the tokenizer's;
    None leaves it out. Raises InputError where a file cannot be written.
    """
    make_folder(folder)
    write_aside(folder / "tokenizer.json", lambda path: model.tokenizer.save(str(path)))
    for name, content in settings_files(model, dtype, chat_template).items():
        write_text(folder / name, json.dumps(content, indent=2) + "\n")
    weights = {name: weight.to(dtype).contiguous() for name, weight in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]

    def write_weights(path: Path) -> None:
        save_file(weights, path, metadata={"format": "pt"})
        path.chmod((folder / "config.json").stat().st_mode)  # safetensors lets nobody but its owner read a file

    write_aside(folder / "model.safetensors", write_weights)


def settings_files(model: Transformer, dtype: torch.dtype, chat_template: str | None) -> dict[str, dict]:
    """The JSON files of a model folder: its shape, what ends a text, how the tokenizer is used."""
    tokens = {"bos_token_id": model.config.bos_token_id, "eos_token_id": model.config.eos_token_id}
    first = {name.removesuffix("_id"): as_ids(value)[0] for name, value in tokens.items() if as_ids(value)}
    shape = asdict(model.config)
    kind = "Qwen2" if shape.pop("qkv_bias") else "Llama"
    return {
        "config.json": {"architectures": [f"{kind}ForCausalLM"], "model_type": kind.lower(), **FORMAT, **shape,
                        "torch_dtype": str(dtype).removeprefix("torch.")},
        "generation_config.json": tokens,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model.config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],  # or model.generate(**tokenizer(...)) can fail
            **({"chat_template": chat_template} if chat_template else {}),
            **{name: model.tokenizer.id_to_token(i) for name, i in first.items()},  # a tokenizer has one of each
        },
    }


def load_checkpoint(folder: Path, kind: type[Kind] = Transformer, dropout: float = 0.0) -> Kind:
    """The model of a folder that `save_checkpoint`, or transformers for a model of the family, wrote; float32, in eval mode.

    `kind` is Transformer or a class derived from it. Raises InputError, in one line, where a file is missing or broken or
    the files do not fit each other.
    """
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is no checkpoint: it holds no {name}")
    try:
        config = read_config(json.loads((folder / "config.json").read_text("utf-8")))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        weights = load_file(folder / "model.safetensors")
    except Exception as error:  # a broken file fails in many ways; tokenizers raises plain Exception
        raise InputError(f"{folder} cannot be read: {first_line(error)}") from error
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights.get("model.embed_tokens.weight")
    check_shapes(folder, config, weights)
    model = kind(config, tokenizer, dropout)
    model.load_state_dict(weights)
    return model.eval()


def check_shapes(folder: Path, config: TransformerConfig, weights: dict[str, torch.Tensor | None]) -> None:
    """Raises InputError, which names the weight, where one is missing, unknown, or not of the configuration's shape."""
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in Transformer(config).state_dict().items()}
    for name in sorted(shapes.keys() | weights.keys()):
        found = weights[name].shape if weights.get(name) is not None else None
        if found != shapes.get(name):
            raise InputError(f"{folder}: weight {name} is {found}, the configuration says {shapes.get(name)}")


def read_config(content: dict) -> TransformerConfig:
    """The shape that a config.json holds; what it leaves out is transformers' default. Raises InputError for one whose model
    this decoder is not."""
    from transformers import AutoConfig

    return family_config(AutoConfig.for_model(**content))
