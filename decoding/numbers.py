"""What logits must be before anything is chosen from them: numbers."""

from support.errors import InputError

from torch import Tensor


def checked_logits(logits: Tensor) -> Tensor:
    """Logits (rows, vocab) as float32 on the CPU, where the choice is the same whatever device the model is on.

    The maximum of a row tells all: it is NaN, +inf or -inf where one logit is NaN, one is +inf, or all are -inf. Some at -inf
    are tokens of probability 0. Raises InputError.
    """
    logits = logits.float().cpu()
    if not logits.amax(dim=-1).isfinite().all():
        raise InputError("the model's logits are not numbers (NaN or infinite): its weights are broken, "
                         "or try --dtype float32")
    return logits
