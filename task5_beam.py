"""Task 5: early-stopped beam search. Several beginnings are continued side by side; the best whole text wins.

Unlike tasks 1 to 4 it compares texts, not tokens, so it has a loop of its own. The length penalty only ranks the
finished: score = log-probability / length ** length_penalty, the length in generated tokens, EOS included.

    python task5_beam.py
    python task5_beam.py --num-beams 4 --length-penalty 2.0
"""

from support.errors import InputError

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from common import Batch, Row, Text, answer, run_task
from decoding.no_repeat_ngram import ban_repeats
from models.limits import vocab_size
from models.loading import Loaded

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import Cache


class Candidate(NamedTuple):
    """A finished text: its generated ids, their summed log-probability, whether it ended or was cut off."""

    ids: list[int]
    log_prob: float
    ended: bool


def beam_search(model: nn.Module, ids: Tensor, num_beams: int, eos_ids: frozenset[int], max_new_tokens: int,
                context_len: int | None = None, cache: "Cache | None" = None, no_repeat_ngram_size: int = 0,
                watch: Callable = lambda *step: None) -> list[Candidate]:
    """Continue ids (1, T) until `num_beams` candidates ended, or to the limit, where the live ones are cut off.

    Returns every finished candidate, in the order of finishing. None has a run of `no_repeat_ngram_size` tokens twice, unless
    it is 0. `watch` is told of each step, for a progress bar or a picture: (length, parents, tokens, totals, ending, alive),
    the names below.
    """
    check_beams(model, num_beams)
    batch, scores, finished = Batch(model, ids, context_len, cache), torch.zeros(1, dtype=torch.float64), []
    for length in range(1, max_new_tokens + 1):
        # 1. Each live candidate offers its num_beams best continuations.     log_probs: (live, vocab)
        log_probs = batch.next_logits().log_softmax(dim=-1)
        offers = ban_repeats(log_probs, batch.ids, no_repeat_ngram_size).topk(num_beams)
        # 2. The pool, (live * num_beams,), is ranked by summed log-probability. A place in the flattened pool tells the
        #    parent: each has num_beams offers in a row.
        totals, order = (scores[:, None] + offers.values).flatten().sort(descending=True, stable=True)
        #    A token of probability 0 is no offer.
        totals, order = totals[totals > -torch.inf], order[totals > -torch.inf]
        parents, tokens = order // num_beams, offers.indices.flatten()[order]
        ended = torch.isin(tokens, torch.tensor(list(eos_ids), dtype=torch.long))
        # 3. Those that end among the first num_beams are finished.
        ending = ended[:num_beams].nonzero()[:, 0]  # places in the pool
        for i in ending.tolist():
            written = batch.ids[parents[i], ids.shape[1]:].tolist()
            finished.append(Candidate([*written, tokens[i].item()], totals[i].item(), True))
        # 4. The best num_beams of those that do not end live on. So the beam refills: as many live as before, whatever
        #    has finished (the exercise's steps "drop the finished" and "keep num_beams" in one).
        alive = (~ended).nonzero()[:num_beams, 0]  # places in the pool
        watch(length, parents, tokens, totals, ending, alive)
        if len(finished) >= num_beams or not len(alive):
            return finished
        batch.select(parents[alive].tolist())
        batch.append(tokens[alive])
        scores = totals[alive]  # (live,)
    return finished + [Candidate(row[ids.shape[1]:].tolist(), score.item(), False)
                       for row, score in zip(batch.ids, scores, strict=True)]


def rank(candidates: list[Candidate], length_penalty: float) -> list[tuple[float, Candidate]]:
    """(score, candidate) pairs, the best first; among equals the one that finished first."""
    scored = [(candidate.log_prob / len(candidate.ids) ** length_penalty, candidate) for candidate in candidates]
    return sorted(scored, key=lambda pair: -pair[0])


def check_beams(model: nn.Module, num_beams: int) -> None:
    """Raises InputError for more beams than there are tokens to offer."""
    if num_beams > vocab_size(model):
        raise InputError(f"num_beams (--num-beams) must be at most the vocabulary, {vocab_size(model)}, not {num_beams}")


def write_by_beams(loaded: Loaded, ids: Tensor, rows: list[Row], max_new_tokens: int,
                   tick: Callable[[int], object]) -> Iterator[Text]:
    """The winners for `run_task`: rows that share num_beams share one search and differ in the ranking alone."""
    for row in rows:
        check_beams(loaded.model, row.setting["num_beams"])
    for num_beams in dict.fromkeys(row.setting["num_beams"] for row in rows):
        start = time.perf_counter()
        found = beam_search(loaded.model, ids, num_beams, loaded.eos_ids, max_new_tokens,
                            no_repeat_ngram_size=rows[0].setting.get("no_repeat_ngram_size", 0),
                            watch=lambda length, *_: tick(length))
        seconds = time.perf_counter() - start
        for row in rows:
            if row.setting["num_beams"] == num_beams:
                ranked = rank(found, row.setting["length_penalty"])
                best = ranked[0][1]
                yield Text(row, best.ids, best.log_prob, seconds, [
                    {"text": answer(loaded, candidate.ids), "log_prob": candidate.log_prob,
                     "length": len(candidate.ids), "score": score, "stop": "eos" if candidate.ended else "limit"}
                    for score, candidate in ranked])


SETTINGS = [{"num_beams": num_beams, "length_penalty": length_penalty}
            for num_beams, length_penalty in ((1, 1.0), (4, 1.0), (4, 0.5), (4, 2.0), (8, 1.0))]

if __name__ == "__main__":
    run_task(__doc__, write_by_beams, SETTINGS)
