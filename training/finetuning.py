"""Fine-tuning a pretrained causal language model of transformers: all its weights, or low-rank additions to them.

LoRA, Hu et al. 2021, section 4.1: beside each frozen matrix W stands B A of rank r, scaled by alpha / r; B begins at zero, so
that training begins with the model as it is. `peft` puts it in and writes the adapter's folder.
"""

from support.errors import InputError, first_line

import copy
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from data.messages import ends_of, message_tokenizer
from models.loading import open_causal_lm, open_gguf, open_tokenizer
from models.loss import summed_loss
from models.lstm_folder import is_lstm
from models.places import HUB_NAMES, find_model
from models.transformer import Output
from support.files import writing
from support.results import is_gguf

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class FineTuned(nn.Module):
    """A model of transformers that is called in training as our own are: with targets, it answers their loss."""

    def __init__(self, model: nn.Module, name: str, tokenizer: "PreTrainedTokenizerBase", rank: int | None) -> None:
        """name: what the adapter calls its base. rank: of the additions to every linear layer but the head; None trains all
        weights of the model, which is then to be float32."""
        super().__init__()
        self.rank, self.tokenizer, self.config = rank, tokenizer, model.config
        model.set_attn_implementation("eager")  # "sdpa" takes a third of all time for its derivative, however short the texts
        if rank is None:
            self.model = model
        else:
            from peft import LoraConfig, get_peft_model

            settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names in transformers that PEFT still uses
                self.model = get_peft_model(model, settings)
            self.model.peft_config["default"].base_model_name_or_path = name  # not the folder that a GGUF file was read in

    @property
    def base(self) -> nn.Module:
        """The model of transformers; additions stand within its layers."""
        return self.model if self.rank is None else self.model.get_base_model()

    def forward(self, input_ids: Tensor, targets: Tensor | None = None, **how: object) -> Output:
        """The cross-entropy summed over the targets that count, as `loss`; without targets, the model's own answer.

        input_ids and targets (rows, new) int64, padded on the right; a target is -100 where none counts. Only the positions
        that count are compared with the vocabulary.
        """
        if targets is None:
            return self.base(input_ids=input_ids, **how)
        counted = targets != -100
        vectors = self.base.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state[counted]
        return Output(None, summed_loss(self.base.get_output_embeddings(), vectors, targets[counted]))

    def save_checkpoint(self, folder: Path, dtype: torch.dtype) -> None:
        """Write the adapter as peft does, or with all weights trained the whole model in `dtype`; the weights last.

        Raises InputError where a file cannot be written.
        """
        with tempfile.TemporaryDirectory(prefix=".writing", dir=folder) as aside, writing(folder):
            if self.rank is None:
                whole = copy.deepcopy(self.model).to(dtype)
                whole.generation_config.eos_token_id = ends_of(self.tokenizer)[1]  # what it has learned to end with
                whole.save_pretrained(aside)
            else:
                self.model.save_pretrained(aside, save_embedding_layers=False)  # "auto" would ask the hub about the base
            self.tokenizer.save_pretrained(aside)
            mode = next(Path(aside).glob("*config.json")).stat().st_mode  # safetensors lets nobody but its owner read a file
            for path in sorted(Path(aside).glob("*.[js]*"), key=lambda path: (path.suffix == ".safetensors", path.name)):
                path.chmod(mode)
                os.replace(path, folder / path.name)  # *.json, *.jinja, *.safetensors


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW for the weights that are trained."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.AdamW(trained, betas=(0.9, 0.99), weight_decay=0.0, fused=True)


def freeze(model: nn.Module, parts: str) -> int:
    """Train these layers no longer, nor additions within them; returns how many weights that are.

    parts: "layers.0-5", the first six, or "layers.3,layers.7-9". Raises InputError, which says what layers there are.
    """
    layers, frozen = max((part for part in model.modules() if isinstance(part, nn.ModuleList)), key=len), 0
    for part in parts.split(","):
        found = re.fullmatch(r"layers\.(\d+)(?:-(\d+))?", part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if not first <= last < len(layers):
            raise InputError(f"--freeze {part}: there are layers.0-{len(layers) - 1}, of which one is written as layers.0")
        for weight in layers[first:last + 1].parameters():
            frozen += weight.numel() * weight.requires_grad
            weight.requires_grad_(False)
    return frozen


def open_base(name: str, dtype: torch.dtype) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A pretrained model of transformers by its folder, GGUF file or name, and its own tokenizer, for FineTuned.

    Raises InputError for what is not there or cannot be read.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    place = find_model(name)
    if is_lstm(place):
        raise InputError(f"{name} is an LSTM: what is fine-tuned is a pretrained transformer; --resume goes on with a training")
    try:
        return (open_gguf if is_gguf(place) else open_causal_lm)(place, dtype), open_tokenizer(place)
    except InputError:
        raise
    except Exception as error:  # a broken folder fails in many ways
        raise InputError(f"cannot load the model {name}: {first_line(error)}") from error


def open_pretrained(name: str, rank: int | None, dtype: torch.dtype) -> FineTuned:
    """A pretrained model to fine-tune, opened by `open_base`; `rank` as in FineTuned. Its tokenizer is made one for
    messages, and so saved: a prompt to what was trained is plain text, which begins as messages do.

    Frozen weights are kept in `dtype`, that of the arithmetic, trained ones in float32. Raises InputError as `open_base` does.
    """
    model, own = open_base(name, torch.float32 if rank is None else dtype)
    try:
        ends = own.convert_ids_to_tokens(ends_of(own))
        tokenizer = message_tokenizer(Tokenizer.from_str(own.backend_tokenizer.to_str()), *ends)
    except InputError:
        raise
    except Exception as error:  # a tokenizer of another make fails in many ways
        raise InputError(f"cannot load the model {name}: {first_line(error)}") from error
    return FineTuned(model, HUB_NAMES.get(name, name), tokenizer, rank)
