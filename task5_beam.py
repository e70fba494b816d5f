"""Task 5: early-stopped beam search. Several beginnings are continued side by side; the best whole text wins.

Unlike tasks 1 to 4 it compares texts, not tokens, so it has a loop of its own. The length penalty only ranks the
finished: score = log-probability / length ** length_penalty, the length in generated tokens, EOS included.

    python task5_beam.py
    python task5_beam.py --num-beams 4 --length-penalty 2.0
"""

from typing import NamedTuple

import torch

from common import Rows, by_beams, run_task


class Candidate(NamedTuple):
    """A finished text: its generated ids, their summed log-probability, whether it ended or was cut off."""

    ids: list
    log_prob: float
    ended: bool


class Step(NamedTuple):
    """A step of the search: its pool (live * num_beams,), best first, and which of it went where, as places in the pool."""

    length: int  # generated tokens so far
    parents: torch.Tensor  # the live candidate that is continued, as a place in `alive` of the step before
    tokens: torch.Tensor
    totals: torch.Tensor  # summed log-probability
    finished: torch.Tensor  # (up to num_beams,)
    alive: torch.Tensor  # (up to num_beams,)


def beam_search(model, ids, num_beams, eos_ids, max_new_tokens, context_len=None, cache=None, watch=lambda step: None):
    """Continue ids (1, T) until `num_beams` candidates ended, or to the limit, where the live ones are cut off.

    Returns every finished candidate, in the order of finishing; `watch(step)` is called with each Step.
    """
    texts, scores, finished = Rows(model, ids, context_len, cache), torch.zeros(1, dtype=torch.float64), []
    for length in range(1, max_new_tokens + 1):
        # 1. Each live candidate offers its num_beams best continuations.        logits: (live, vocab)
        offers = texts.next_logits().log_softmax(dim=-1).topk(num_beams)
        # 2. The pool, (live * num_beams,), is ranked by summed log-probability.
        totals, order = (scores[:, None] + offers.values).flatten().sort(descending=True, stable=True)
        parents, tokens = order // num_beams, offers.indices.flatten()[order]
        ended = torch.isin(tokens, torch.tensor(list(eos_ids), dtype=torch.long))
        # 3. Those that end among the first num_beams are finished.
        ending = ended[:num_beams].nonzero()[:, 0]
        for i in ending.tolist():
            written = texts.ids[parents[i], ids.shape[1]:].tolist()
            finished.append(Candidate([*written, tokens[i].item()], totals[i].item(), True))
        # 4. The best num_beams of those that do not end live on: the beam refills.
        alive = (~ended).nonzero()[:num_beams, 0]
        watch(Step(length, parents, tokens, totals, ending, alive))
        if len(finished) >= num_beams:
            return finished
        texts.select(parents[alive].tolist())
        texts.append(tokens[alive])
        scores = totals[alive]  # (live,)
    return finished + [Candidate(row[ids.shape[1]:].tolist(), score.item(), False)
                       for row, score in zip(texts.ids, scores, strict=True)]


def rank(candidates, length_penalty):
    """(score, candidate) pairs, the best first; among equals the one that finished first."""
    scored = [(candidate.log_prob / len(candidate.ids) ** length_penalty, candidate) for candidate in candidates]
    return sorted(scored, key=lambda pair: -pair[0])


SETTINGS = [{"num_beams": num_beams, "length_penalty": length_penalty}
            for num_beams, length_penalty in ((1, 1.0), (4, 1.0), (4, 0.5), (4, 2.0), (8, 1.0))]

if __name__ == "__main__":
    run_task(__doc__, SETTINGS, by_beams(beam_search, rank))
