"""The five strategies together: one continuation from plain settings, by the task files' own functions.

chat.py, `GeneratorTransformer.generate` and the evaluations call `continue_ids`. A strategy knows the logits and what its
signature names, no more: `decode` and `columns_of` in common.py hand it in.
"""

from support.errors import InputError

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from common import decode
from decoding.top_k import keep_top_k
from support.flags import check_settings
from task1_greedy import greedy
from task2_sampling import sample
from task3_temperature import apply_temperature
from task4_nucleus import nucleus
from task5_beam import beam_search, check_beams, rank

import torch
from torch import Generator, Tensor, nn

if TYPE_CHECKING:
    from transformers import Cache

STRATEGIES = {  # the names that a command line gives them, and which settings each one reads
    "greedy": (),
    "sampling": ("temperature", "top_k"),
    "nucleus": ("temperature", "top_p", "top_k"),
    "beam": ("num_beams", "length_penalty"),
}


def choose(logits: Tensor, generators: list[Generator], temperature: float, top_k: int, top_p: float) -> Tensor:
    """One token for each row, temperature first, then top-k, then the nucleus: (rows, vocab) -> (rows,)."""
    if temperature == 0:
        return greedy(logits)
    logits = apply_temperature(logits, torch.tensor([[temperature]], dtype=torch.float64))
    if top_k:
        logits = keep_top_k(logits, top_k)
    if top_p < 1:
        logits = nucleus(logits, torch.tensor([[top_p]], dtype=torch.float64))
    return sample(logits, generators)


def continue_ids(model: nn.Module, ids: Tensor, eos_ids: frozenset[int], *, temperature: float = 1.0, top_k: int = 0,
                 top_p: float = 1.0, num_beams: int = 1, length_penalty: float = 1.0, seed: int | None = None,
                 max_new_tokens: int = 200, context_len: int | None = None, cache: "Cache | None" = None,
                 no_repeat_ngram_size: int = 0, watch: Callable = lambda *step: None) -> Iterator[int]:
    """The generated ids, one by one, of one continuation of ids (1, T); the last is an EOS unless the limit came first.

    Temperature 0 is greedy, top_k 0 and top_p 1 keep every token, no seed means other random numbers at every call.
    More than one beam means beam search, which yields the whole winner at its end, and calls `watch` meanwhile, as
    `beam_search` does. No run of `no_repeat_ngram_size` tokens is written twice, those of `ids` included; 0 allows any.
    A `cache` that holds the first tokens of `ids` is used, and changed. Raises InputError, a ValueError, for a setting out of
    its range, at the call and not at the first token.
    """
    optional = {name: value for name, value in (("seed", seed), ("context_len", context_len)) if value is not None}
    check_settings(temperature=temperature, top_k=top_k, top_p=top_p, num_beams=num_beams, length_penalty=length_penalty,
                   max_new_tokens=max_new_tokens, no_repeat_ngram_size=no_repeat_ngram_size, **optional)
    if ids.numel() == 0:
        raise InputError("the prompt is empty")
    if num_beams == 1:
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        strategy = partial(choose, temperature=temperature, top_k=top_k, top_p=top_p)
        events = decode(model, ids, strategy, {"generators": [generator]}, eos_ids, max_new_tokens, context_len=context_len,
                        cache=cache, no_repeat_ngram_size=no_repeat_ngram_size)
        return (token for _, token, _ in events)
    check_beams(model, num_beams)
    if (top_k, top_p) != (0, 1):
        raise InputError("beam search draws nothing: leave top_k and top_p alone with more than one beam")
    return best_beam(partial(beam_search, model, ids, num_beams, eos_ids, max_new_tokens, context_len, cache,
                             no_repeat_ngram_size, watch), length_penalty)


def best_beam(search: Callable, length_penalty: float) -> Iterator[int]:
    """The ids of a beam search's winner, one by one; nothing is searched before the first is asked for."""
    yield from rank(search(), length_penalty)[0][1].ids
