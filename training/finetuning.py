"""Fine-tuning a pretrained causal language model of transformers: all its weights, or low-rank additions to them.

LoRA, Hu et al. 2021, section 4.1: beside each frozen matrix W stands B A of rank r, scaled by alpha / r; B begins at zero, so
that training begins with the model as it is. `peft` puts it in and writes the adapter's folder.
"""

import copy
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from data.messages import ends_of
from models.loss import summed_loss
from models.transformer import Output
from support.files import writing

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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

            self.model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear",
                                                          task_type="CAUSAL_LM"))
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
        """Write the adapter as peft does, or with all weights trained the whole model in `dtype`, the weights last.

        Raises InputError where a file cannot be written.
        """
        with tempfile.TemporaryDirectory(prefix=".writing", dir=folder) as aside, writing(folder):
            if self.rank is None:
                whole = copy.deepcopy(self.model).to(dtype)
                whole.generation_config.eos_token_id = ends_of(self.tokenizer)[1]  # what it has learned to end with
                whole.save_pretrained(aside)
                self.tokenizer.save_pretrained(aside)
            else:
                self.model.save_pretrained(aside)
            mode = next(Path(aside).glob("*config.json")).stat().st_mode  # safetensors lets nobody but its owner read a file
            for path in sorted(Path(aside).glob("*.[js]*"), key=lambda path: (path.suffix == ".safetensors", path.name)):
                path.chmod(mode)
                os.replace(path, folder / path.name)  # *.json, *.jinja, *.safetensors


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW for the weights that are trained."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.AdamW(trained, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
