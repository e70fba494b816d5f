"""GeneratorTransformer: the project's own decoder, with its texts and its checkpoints.

    model = GeneratorTransformer.load_from_checkpoint("checkpoint")
    print(model.generate("Once upon a time", temperature=0.8, top_p=0.95))

The network itself is models/transformer.py; here it meets the strategies.
"""

from support.errors import InputError, first_line

from pathlib import Path
from typing import Self

from models.chatml import CHAT_TEMPLATE
from models.checkpoint import load_checkpoint, save_checkpoint
from models.ends import answer_ends, as_ids
from models.limits import check_known
from models.loading import open_tokenizer
from models.transformer import Transformer
from strategies import continue_ids

import torch


class GeneratorTransformer(Transformer):
    """A transformer that writes texts, and saves and loads itself as a Hugging Face folder."""

    def generate(
        self,
        prompt: str,
        context_len: int | None = None,
        temperature: float = 1.0,
        max_out_tokens: int = 200,
        top_k: int = 0,
        top_p: float = 1.0,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        seed: int | None = None,
        no_repeat_ngram_size: int = 0,
    ) -> str:
        """The text that continues `prompt`, up to EOS or to `max_out_tokens` tokens.

        context_len: how many last tokens each prediction sees; None, and at most, the context trained with.
        temperature: divides the logits; 0 means greedy. top_k 0 and top_p 1 keep every token.
        num_beams: above 1, beam search, its finished texts ranked by `length_penalty`.
        seed: None draws other numbers at every call.
        no_repeat_ngram_size: no run of so many tokens is written twice, those of the prompt included; 0 allows any.
        Raises InputError, a ValueError, for a setting out of its range, for a prompt that the tokenizer cannot encode and for a
        token that the model does not know.
        A prompt that does not begin with a control token begins with BOS, as texts without a request do in training,
        where the configuration names one.
        """
        try:
            ids = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        except Exception as error:  # plain, of a tokenizer that has no token for a word, and none for the unknown
            raise InputError(f"the tokenizer cannot encode the prompt: {first_line(error)}") from error
        begun = ids and ids[0] in self.tokenizer.get_added_tokens_decoder()
        if not begun and self.config.bos_token_id is not None:
            ids = [self.config.bos_token_id, *ids]
        check_known(ids, self, self.tokenizer.id_to_token)
        eos_ids = frozenset(as_ids(self.config.eos_token_id))
        continuation = continue_ids(
            self, torch.tensor([ids]), eos_ids,
            temperature=temperature, top_k=top_k, top_p=top_p, num_beams=num_beams, length_penalty=length_penalty,
            seed=seed, max_new_tokens=max_out_tokens, context_len=context_len,
            no_repeat_ngram_size=no_repeat_ngram_size,
        )  # fmt: skip
        return self.tokenizer.decode([token for token in continuation if token not in eos_ids])

    def save_checkpoint(self, folder: str | Path, dtype: torch.dtype = torch.float32,
                        chat_template: str | None = CHAT_TEMPLATE) -> None:
        """Write a Hugging Face model folder that is loadable at every moment: see `models.checkpoint`."""
        save_checkpoint(self, Path(folder), dtype, chat_template)

    @classmethod
    def load_from_checkpoint(cls, folder: str | Path, dropout: float = 0.0) -> Self:
        """The model of a folder that `save_checkpoint`, or transformers for a Qwen2 model, wrote; float32, in eval mode.

        Its `config.eos_token_id` is whatever ends an answer, as `models.ends` gathers it. Raises InputError, a ValueError,
        where a file is missing or broken or the files do not fit each other.
        """
        model = load_checkpoint(Path(folder), cls, dropout)
        try:
            ends = answer_ends(Path(folder), open_tokenizer(Path(folder)), model.config.vocab_size)
        except Exception as error:  # a broken file fails in many ways
            raise InputError(f"{folder} cannot be read: {first_line(error)}") from error
        model.config.eos_token_id = ends[0] if len(ends) == 1 else ends or None
        return model
