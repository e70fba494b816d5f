"""What studies measure: shares and means with their 95 % intervals, how repetitive or diverse texts are, entropy.

The interval of a share is Wilson's (1927), that of a mean a percentile bootstrap.
"""

from collections.abc import Iterable

import numpy as np
from scipy.stats import binomtest, bootstrap
from torch import Tensor


def share(flags: Iterable[bool]) -> dict[str, float]:
    """The share of true flags, {"value", "low", "high"}."""
    flags = list(flags)
    low, high = binomtest(sum(flags), len(flags)).proportion_ci(0.95, "wilson")
    return {"value": sum(flags) / len(flags), "low": low, "high": high}


def mean(values: Iterable[float]) -> dict[str, float]:
    """The mean, {"value", "low", "high"}; a single value, or equal ones, are their own interval."""
    values = np.array(list(values), dtype=float)
    low = high = values.mean()
    if len(values) > 1 and values.std() > 0:
        low, high = bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=0).confidence_interval
    return {"value": values.mean(), "low": float(low), "high": float(high)}


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Every n words of a text that follow each other."""
    words = text.split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def repetition(text: str, n: int = 4) -> float:
    """rep-n: the share of n-grams that occurred earlier in the text (Welleck et al. 2020, section 6.1)."""
    found = ngrams(text, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def distinct(first: str, second: str, n: int = 2) -> float:
    """distinct-n of two texts together: different n-grams over all n-grams (Li et al. 2016, section 5.3)."""
    found = ngrams(first, n) + ngrams(second, n)
    return len(set(found)) / len(found) if found else 0.0


def entropies(log_probs: Tensor) -> Tensor:
    """The entropy of each row's distribution, in nats: log-probabilities (rows, vocab) -> (rows,)."""
    return -(log_probs.exp() * log_probs).nan_to_num().sum(dim=-1)  # a probability of 0 adds nothing
