"""What ends an answer: every id that a model's files, its chat template or its tokenizer name for it."""

from support.errors import InputError

import json
from pathlib import Path
from typing import TYPE_CHECKING

from models.chatml import IM_END, chat_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def answer_ends(folder: Path, tokenizer: "PreTrainedTokenizerBase", vocab_size: int) -> list[int]:
    """The ids that end an answer of the model in `folder`, each once, those of its messages first.

    They are ChatML's <|im_end|> and the end of an assistant's message in the tokenizer's own chat template; `eos_token_id` in
    config.json and in generation_config.json; the tokenizer's EOS. What is absent, or beyond the vocabulary, does not
    count: a model that names none writes to the limit. The files are read as they stand, as transformers does: a default of its
    class, 2 for a Llama, is nothing that the model says.
    """
    listed = [json.loads(path.read_text("utf-8")).get("eos_token_id")
              for path in (folder / "config.json", folder / "generation_config.json") if path.is_file()]
    named = [tokenizer.get_vocab().get(IM_END), chat_end(tokenizer), *listed, tokenizer.eos_token_id]
    ids = dict.fromkeys(token for value in named for token in as_ids(value))
    return [token for token in ids if 0 <= token < vocab_size]


def as_ids(eos_token_id: int | list[int] | None) -> list[int]:
    """An `eos_token_id` as configurations hold it: a number, a list, or nothing. Raises InputError for anything else."""
    ids = [] if eos_token_id is None else eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
    if not all(type(token) is int for token in ids):
        raise InputError(f"eos_token_id in the model's files must be a number or a list of numbers, not {eos_token_id!r}")
    return ids
