"""One continuation from plain settings, by the task files' own functions: what chat.py and generate() call."""

import torch

from common import InputError, Row, check_setting, column, decode
from task1_greedy import greedy
from task2_sampling import sample
from task3_temperature import apply_temperature
from task4_nucleus import nucleus
from task5_beam import beam_search, rank


def keep_top_k(logits, top_k):
    """Logits with -inf outside the `top_k` most likely tokens of each row: (rows, vocab) -> (rows, vocab)."""
    best = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    return torch.full_like(logits, -torch.inf).scatter(1, best.indices, best.values)


def choose(logits, rows):
    """One token for each row by its settings, temperature first: (rows, vocab) -> (rows,)."""
    settings = rows[0].parameters
    if settings["temperature"] == 0:
        return greedy(logits)
    logits = apply_temperature(logits, column(rows, "temperature"))
    if settings["top_k"]:
        logits = keep_top_k(logits, settings["top_k"])
    if settings["top_p"] < 1:
        logits = nucleus(logits, column(rows, "top_p"))
    return sample(logits, [row.generator for row in rows])


def continue_ids(model, ids, eos_ids, *, temperature=1.0, top_k=0, top_p=1.0, num_beams=1, length_penalty=1.0,
                 seed=None, max_new_tokens=200, context_len=None, cache=None, watch=lambda step: None):
    """The generated ids, one by one, of one continuation of ids (1, T); the last is an EOS unless the limit came first.

    Temperature 0 is greedy, top_k 0 and top_p 1 keep every token, no seed means other random numbers at every call.
    More than one beam means beam search, which yields the whole winner at its end, and calls `watch(step)` meanwhile. A
    `cache` that holds the first tokens of `ids` is gone on with, and changed. Raises InputError, a ValueError, for
    settings that cannot be, at the call and not at the first token.
    """
    parameters = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    for name, value in {**parameters, "num_beams": num_beams, "length_penalty": length_penalty,
                        "max_new_tokens": max_new_tokens}.items():
        check_setting(name, value)
    for name, value in (("seed", seed), ("context_len", context_len)):
        if value is not None:
            check_setting(name, value)
    if ids.numel() == 0:
        raise InputError("the prompt is empty")
    if num_beams == 1:
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        events = decode(model, ids, choose, [Row(parameters, 1, generator)], eos_ids, max_new_tokens, context_len,
                        cache)
        return (token for _, token, _ in events)
    if num_beams > model.config.vocab_size:
        raise InputError(f"num beams must be at most the vocabulary, {model.config.vocab_size}, not {num_beams}")
    if (top_k, top_p) != (0, 1):
        raise InputError("beam search draws nothing: leave top k and top p alone with more than one beam")
    return best_beam(model, ids, num_beams, length_penalty, eos_ids, max_new_tokens, context_len, cache, watch)


def best_beam(model, ids, num_beams, length_penalty, *rest):
    """The ids of the beam search's winner, one by one."""
    yield from rank(beam_search(model, ids, num_beams, *rest), length_penalty)[0][1].ids
