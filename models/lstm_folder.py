"""An LSTM language model as a folder: config.json, weights as safetensors, a tokenizer that AutoTokenizer opens."""

from support.errors import InputError, first_line

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from models.chatml import PLAIN_TEMPLATE
from models.lstm import LSTM, LSTMConfig
from support.files import make_folder, write_aside, write_text

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MODEL_TYPE = "lstm_lm"
Kind = TypeVar("Kind", bound=LSTM)


def save_lstm(model: LSTM, tokenizer: "PreTrainedTokenizerFast", folder: Path, dtype: torch.dtype) -> None:
    """Write a model folder, the weights last and each file moved into place when it is whole.

    Raises InputError where a file cannot be written.
    """
    make_folder(folder)
    backend = tokenizer.backend_tokenizer
    write_aside(folder / "tokenizer.json", lambda path: backend.save(str(path)))
    vocabulary = sorted(backend.get_vocab().items(), key=lambda entry: entry[1])
    write_text(folder / "vocab.txt", "".join(f"{token}\n" for token, _ in vocabulary))
    specials = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    contents = {
        "special_tokens_map.json": specials,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
                                  "model_input_names": ["input_ids", "attention_mask"], "chat_template": PLAIN_TEMPLATE,
                                  **specials},
        "config.json": {"architectures": ["LSTMLM"], "model_type": MODEL_TYPE, **asdict(model.config),
                        "torch_dtype": str(dtype).removeprefix("torch.")},
    }  # fmt: skip
    for name, content in contents.items():
        write_text(folder / name, json.dumps(content, indent=2) + "\n")
    weights = {name: weight.to(dtype).contiguous() for name, weight in model.state_dict().items()}
    del weights["lm_head.weight"]  # it is the embedding

    def write_weights(path: Path) -> None:
        save_file(weights, path, metadata={"format": "pt"})
        path.chmod((folder / "config.json").stat().st_mode)  # safetensors lets nobody but its owner read a file

    write_aside(folder / "model.safetensors", write_weights)


def is_lstm(folder: Path) -> bool:
    """Whether a folder's config.json says that it holds such a model."""
    try:
        return json.loads((folder / "config.json").read_text("utf-8"))["model_type"] == MODEL_TYPE
    except (OSError, ValueError, TypeError, KeyError):
        return False


def check_vocabulary(folder: Path, tokens: int, config: LSTMConfig) -> None:
    """Raises InputError where a folder's tokenizer has not as many tokens as its model."""
    if tokens != config.vocab_size:
        raise InputError(f"{folder}: a tokenizer of {tokens} tokens for a model of {config.vocab_size}: it is another model's")


def load_lstm(folder: Path, kind: type[Kind] = LSTM, dropout: float = 0.0) -> Kind:
    """The model of a folder that `save_lstm` wrote; float32, in eval mode. `kind` is LSTM or a class derived from it.

    Raises InputError, in one line, where a file is missing or broken or the files do not fit each other.
    """
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is no LSTM language model: it holds no {name}")
    if not is_lstm(folder):
        raise InputError(f"{folder} is no LSTM language model: its config.json does not say model_type {MODEL_TYPE}")
    try:
        content = json.loads((folder / "config.json").read_text("utf-8"))
        config = LSTMConfig(**{field.name: content[field.name] for field in fields(LSTMConfig)})
        weights = load_file(folder / "model.safetensors")
    except KeyError as error:
        raise InputError(f"{folder / 'config.json'} does not say {error}") from error
    except Exception as error:  # a broken file fails in many ways
        raise InputError(f"{folder} cannot be read: {first_line(error)}") from error
    weights["lm_head.weight"] = weights.get("embed_tokens.weight")
    model = kind(config, dropout=dropout)
    for name, weight in model.state_dict().items():
        found = None if weights.get(name) is None else tuple(weights[name].shape)
        if found != tuple(weight.shape):
            raise InputError(f"{folder}: weight {name} is {found}, the configuration says {tuple(weight.shape)}")
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.eval()
