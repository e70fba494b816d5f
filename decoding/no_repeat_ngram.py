"""No n-gram twice: the usual cure for a text that runs in circles (Paulus et al. 2017, section 2.5).

What a row has already written counts, and its prompt too, as in transformers' `NoRepeatNGramLogitsProcessor`.
"""

import torch
from torch import Tensor


def ban_repeats(scores: Tensor, ids: Tensor, size: int) -> Tensor:
    """Scores (rows, vocab), with -inf for each token that would complete a run of `size` tokens that is already in its row.

    Scores are logits or log-probabilities, ids (rows, T) what the rows hold so far; size 0 bans nothing. A row that could only
    repeat itself, since every token it can write is banned, keeps its scores. An id beyond the vocabulary, such as a control
    token's, is never written, and so never banned.
    """
    if not size or ids.shape[1] < size:
        return scores
    runs = ids.unfold(1, size, 1)  # (rows, T - size + 1, size)
    same = (runs[:, :, :-1] == ids[:, None, ids.shape[1] - size + 1:]).all(dim=-1)  # they begin as the row now ends
    rows, places = (same & (runs[:, :, -1] < scores.shape[1])).nonzero(as_tuple=True)
    kept = scores.clone()
    kept[rows, runs[rows, places, -1]] = -torch.inf
    return kept.where((kept > -torch.inf).any(dim=-1, keepdim=True), scores)
