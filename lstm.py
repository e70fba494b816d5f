"""LSTMLM: the LSTM language model, with its tokenizer, its folder and its continuations.

    tokenizer, model, pad_id, eos_id = load_lstm_lm("runs/lstm_lm-...", "cpu")
    prefix_ids = tokenizer("i am so", return_tensors="pt").input_ids
    ids = model.generate(prefix_ids, max_new_tokens=20, eos_id=eos_id)
    print(tokenizer.decode(ids[0], skip_special_tokens=True))

The network itself is models/lstm.py; here it meets the strategies.
"""

from support.errors import InputError

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from common import Batch
from models.loading import open_tokenizer
from models.lstm import LSTM, LSTMConfig
from models.lstm_folder import check_vocabulary, load_lstm, save_lstm
from strategies import choose
from support.flags import check_settings

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class LSTMLM(LSTM):
    """An LSTM that continues texts, and saves and loads itself as a folder whose tokenizer AutoTokenizer opens."""

    def __init__(self, config: LSTMConfig, tokenizer: "PreTrainedTokenizerFast | None" = None, dropout: float = 0.0) -> None:
        super().__init__(config, dropout)
        self.tokenizer = tokenizer

    def generate(
        self,
        prefix_ids: Tensor | Sequence[Sequence[int] | Tensor],
        max_new_tokens: int = 20,
        eos_id: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Tensor | list[list[int]]:
        """Each row's prefix and its continuation, up to and with `eos_id`, or `max_new_tokens` tokens; greedy by default.

        prefix_ids: (rows, T) int64, or rows of any lengths. A list of rows gives a list of rows. A tensor gives a tensor
        (rows, T + longest continuation), in which what stands behind a row's end is `eos_id`.
        A row that does not begin with BOS is read behind one, as messages are in training. Rows of one length are read
        together, others apart, so that no pad is ever read; a row's text does not depend on the others.
        temperature 0 takes the most likely token; top_k 0 and top_p 1 keep every token. The numbers drawn for a row depend on
        `seed` and its ids alone; None draws others at every call.
        Raises InputError, a ValueError, for a setting out of its range, no rows, an empty row, and an id out of the vocabulary.
        """
        optional = {} if seed is None else {"seed": seed}
        check_settings(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, **optional)
        if isinstance(prefix_ids, Tensor) and prefix_ids.ndim != 2:
            raise InputError(f"prefix_ids must be (rows, T), not {tuple(prefix_ids.shape)}")
        rows = [row.tolist() if isinstance(row, Tensor) else list(row) for row in prefix_ids]
        self.check_rows(rows)
        alike = defaultdict(list)  # numbers of rows by what they are read with
        read = [row if row[0] == self.config.bos_token_id else [self.config.bos_token_id, *row] for row in rows]
        for number, row in enumerate(read):
            alike[len(row)].append(number)
        written = {}
        for numbers in alike.values():
            generators = [row_generator(seed, rows[number]) for number in numbers]
            texts = self.continuations(torch.tensor([read[number] for number in numbers]), generators, eos_id, max_new_tokens,
                                       temperature, top_k, top_p)
            written |= zip(numbers, texts, strict=True)
        texts = [row + written[number] for number, row in enumerate(rows)]
        if not isinstance(prefix_ids, Tensor):
            return texts
        longest = max(map(len, texts))
        return torch.tensor([text + [eos_id] * (longest - len(text)) for text in texts], device=prefix_ids.device)

    def check_rows(self, rows: list[list[int]]) -> None:
        """Raises InputError where there is nothing to continue, the model does not know a token, or rows are padded."""
        if not rows or not all(rows):
            raise InputError("there is nothing to continue: each row needs at least one id")
        for token in {token for row in rows for token in row}:
            if not 0 <= token < self.config.vocab_size:
                raise InputError(f"token {token} is not among the model's {self.config.vocab_size}: is it another tokenizer's?")
        if any(self.config.bos_token_id in row[1:] for row in rows):
            raise InputError("a row holds the beginning of a message, which is also the pad, behind its first id: give rows of "
                             "different lengths as a list, without padding")

    def continuations(self, ids: Tensor, generators: list[torch.Generator], eos_id: int | None, max_new_tokens: int,
                      temperature: float, top_k: int, top_p: float) -> list[list[int]]:
        """The ids that continue each row of ids (rows, T); rows that end leave the batch."""
        batch, live, written = Batch(self, ids), list(range(len(ids))), [[] for _ in ids]
        for _ in range(max_new_tokens):
            tokens = choose(batch.next_logits(), [generators[row] for row in live], temperature, top_k, top_p)
            for row, token in zip(live, tokens.tolist(), strict=True):
                written[row].append(token)
            batch.append(tokens)
            alive = [i for i, token in enumerate(tokens.tolist()) if token != eos_id]
            if not alive:
                break
            batch.select(alive)
            live = [live[i] for i in alive]
        return written

    def save_checkpoint(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a model folder that is loadable at every moment: see `models.lstm_folder`."""
        save_lstm(self, self.tokenizer, Path(folder), dtype)

    @classmethod
    def load_from_checkpoint(cls, folder: str | Path, dropout: float = 0.0) -> Self:
        """The model of a folder that `save_checkpoint` wrote; float32, in eval mode.

        Raises InputError, a ValueError, where a file is missing or broken or the files do not fit each other.
        """
        model = load_lstm(Path(folder), cls, dropout)
        model.tokenizer = open_tokenizer(Path(folder))
        check_vocabulary(Path(folder), len(model.tokenizer), model.config)
        return model


def load_lstm_lm(folder: str | Path, device: str = "cpu") -> "tuple[PreTrainedTokenizerFast, LSTMLM, int, int]":
    """(tokenizer, model, pad_id, eos_id) of a folder that `train_autocomplete.py --model lstm` wrote.

    Raises InputError, a ValueError, as `LSTMLM.load_from_checkpoint` does.
    """
    model = LSTMLM.load_from_checkpoint(folder).to(device)
    return model.tokenizer, model, model.tokenizer.pad_token_id, model.config.eos_token_id


def row_generator(seed: int | None, ids: list[int]) -> torch.Generator:
    """The random numbers of a row, by the seed and its ids; without a seed, others at every call."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
        return generator
    return generator.manual_seed(int.from_bytes(hashlib.sha256(f"{seed} {ids}".encode()).digest()[:4], "big"))
