"""LSTMLM: the LSTM language model, with its texts and its folder.

    tokenizer, model, pad_id, eos_id = load_lstm_lm("runs/lstm_lm-...", "cpu")
    ids = tokenizer("i am so", return_tensors="pt").input_ids
    print(tokenizer.decode(model.generate(ids, max_new_tokens=20, eos_id=eos_id)[0], skip_special_tokens=True))

The network itself is models/lstm.py; here it meets the strategies.
"""

from support.errors import InputError, first_line

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Self

from models.cache import growing_cache
from models.lstm import LSTM, LSTMConfig, Memory
from support.files import make_folder, write_aside, write_text

import torch
from safetensors.torch import load_file, save_file
from torch import nn

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedTokenizerFast

MODEL_TYPE = "lstm_lm"


class LSTMLM(LSTM):
    """An LSTM that completes texts, and saves and loads itself as a folder which AutoTokenizer opens too."""

    def __init__(self, config: LSTMConfig, tokenizer: "PreTrainedTokenizerFast | None" = None, dropout: float = 0.0) -> None:
        super().__init__(config, dropout)
        self.tokenizer = tokenizer

    def save_checkpoint(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a model folder, the weights last and each file moved into place when it is whole. Raises InputError."""
        folder = Path(folder)
        make_folder(folder)
        backend = self.tokenizer.backend_tokenizer
        write_aside(folder / "tokenizer.json", lambda path: backend.save(str(path)))
        specials = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
        vocabulary = sorted(backend.get_vocab().items(), key=lambda entry: entry[1])
        contents = {
            "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
                                      "model_input_names": ["input_ids", "attention_mask"], **specials},
            "special_tokens_map.json": specials,
            "config.json": {"architectures": ["LSTMLM"], "model_type": MODEL_TYPE, **asdict(self.config),
                            "torch_dtype": str(dtype).removeprefix("torch.")},
        }  # fmt: skip
        write_text(folder / "vocab.txt", "".join(f"{token}\n" for token, _ in vocabulary))
        for name, content in contents.items():
            write_text(folder / name, json.dumps(content, indent=2) + "\n")
        weights = {name: weight.to(dtype).contiguous() for name, weight in self.state_dict().items()}
        del weights["lm_head.weight"]  # the embedding

        def write_weights(path: Path) -> None:
            save_file(weights, path, metadata={"format": "pt"})
            path.chmod((folder / "config.json").stat().st_mode)  # safetensors lets nobody but its owner read a file

        write_aside(folder / "model.safetensors", write_weights)

    @classmethod
    def load_from_checkpoint(cls, folder: str | Path, dropout: float = 0.0) -> Self:
        """The model of a folder that `save_checkpoint` wrote; float32, in eval mode.

        Raises InputError, in one line, where a file is missing or broken or the files do not fit each other.
        """
        from transformers import PreTrainedTokenizerFast

        folder = Path(folder)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise InputError(f"{folder} is no LSTM language model: it holds no {name}")
        try:
            content = json.loads((folder / "config.json").read_text("utf-8"))
            if content.get("model_type") != MODEL_TYPE:
                raise InputError(f"its model_type is {content.get('model_type')}, not {MODEL_TYPE}")
            config = LSTMConfig(**{field.name: content[field.name] for field in fields(LSTMConfig)})
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
            if len(tokenizer) > config.vocab_size:
                raise InputError(f"a tokenizer of {len(tokenizer)} tokens for a model of {config.vocab_size}")
            model = cls(config, tokenizer, dropout)
            weights = load_file(folder / "model.safetensors")
            model.load_state_dict({**weights, "lm_head.weight": weights["embed_tokens.weight"]})
        except Exception as error:  # a broken file fails in many ways
            raise InputError(f"{folder} cannot be read: {first_line(error)}") from error
        return model.eval()


def load_lstm_lm(folder: str | Path, device: str = "cpu") -> "tuple[PreTrainedTokenizerFast, LSTMLM, int, int]":
    """(tokenizer, model, pad_id, eos_id) of a folder that `train_autocomplete.py --model lstm` wrote.

    Raises InputError, a ValueError, as `LSTMLM.load_from_checkpoint` does.
    """
    model = LSTMLM.load_from_checkpoint(folder).to(device)
    return model.tokenizer, model, model.tokenizer.pad_token_id, model.config.eos_token_id


def new_cache(model: nn.Module) -> "Memory | Cache":
    """What a model of this kind remembers what it has read in."""
    return Memory() if isinstance(model.config, LSTMConfig) else growing_cache()
