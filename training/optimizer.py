"""The optimizers of a language model: Muon for the matrices between embedding and head, AdamW for all else.

Sources: Muon, Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/); its polynomials, Amsel et al. 2025 ("The
Polar Express"), section 3; the size of its updates, Liu et al. 2025 ("Muon is Scalable for LLM Training"), section 2.2;
AdamW, Loshchilov and Hutter 2019, algorithm 2.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn

# (a, b, c) of the polynomials a s + b s³ + c s⁵ that bring a matrix's singular values s near to 1, one after the other. Each
# is the one whose largest distance from 1 over an interval is smallest: the first over [1/300, 1.05], where 1 stands for an
# upper bound of the singular values, every later one over the range of the one before, with 6 % above it for rounding. The
# values end between 0.76 and 1.24, in bfloat16 a little lower; those that began below 1/300 end lower still.
POLYNOMIALS = (
    (7.9773, -21.3682, 14.3648),
    (3.8178, -2.5344, 0.4272),
    (3.3495, -2.2460, 0.4007),
    (2.4537, -1.6477, 0.3487),
)


class Muon(torch.optim.Optimizer):
    """Moves each matrix along the orthogonal matrix nearest to its averaged gradient.

    It is `torch.optim.Muon(..., adjust_lr_fn="match_rms_adamw")`, but with polynomials of its own, and with one product for
    all matrices of a shape, or its transpose: torch's goes matrix by matrix, in products too small to occupy two cores.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float = 1e-3, weight_decay: float = 0.01, momentum: float = 0.95,
                 dtype: torch.dtype = torch.bfloat16) -> None:  # fmt: skip
        """dtype: what the orthogonal matrices are computed in."""
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """Every matrix W with gradient G: M <- momentum M + (1 - momentum) G, then
        W <- (1 - lr decay) W - 0.2 lr √max(rows, columns) O, where O is the orthogonal matrix nearest to
        momentum M + (1 - momentum) G (Nesterov's step). A matrix without gradient stays as it is."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[min(matrix.shape), max(matrix.shape)].append(matrix)
            for (_, columns), matrices in alike.items():
                directions = torch.stack([wide(self.direction(matrix, group["momentum"])) for matrix in matrices])
                updates = orthogonalize(directions.to(self.dtype))
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    wide(matrix).add_(update, alpha=-0.2 * group["lr"] * columns**0.5)

    def direction(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        """The averaged gradient that the matrix moves along, before it is made orthogonal."""
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        average = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum)


def wide(matrix: Tensor) -> Tensor:
    """The matrix itself, or the transpose of one that has more rows than columns."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def orthogonalize(matrices: Tensor) -> Tensor:
    """About U Vᵀ of each matrix U S Vᵀ: (matrices, rows, columns), rows <= columns.

    A polynomial of the singular values needs no decomposition: a X + b X³ + c X⁵ is (a I + b A + c A²) X, where A = X Xᵀ,
    the Gram matrix (Newton and Schulz). The first A also tells how large the singular values are at most.
    """
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    gram = x @ x.mT
    bound = gram.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # of the squared singular values
    x = multiplier(gram / bound, *POLYNOMIALS[0]) @ (x / bound.sqrt())
    for polynomial in POLYNOMIALS[1:]:
        x = multiplier(x @ x.mT, *polynomial) @ x
    return x


def multiplier(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """a I + b A + c A² of Gram matrices A (matrices, rows, rows)."""
    result = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    result.diagonal(dim1=1, dim2=2).add_(a)
    return result


def make_optimizers(model: nn.Module, dtype: torch.dtype, beta2: float = 0.95) -> list[torch.optim.Optimizer]:
    """The two optimizers of a Transformer or LSTM that computes in `dtype`: Muon for its matrices, AdamW for the rest.

    Muon's updates are as large as AdamW's, so one learning rate serves both. beta2: of AdamW's squared gradients.
    """
    outside = {id(model.lm_head.weight), *(id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding))}
    matrices = [weight for weight in model.parameters() if weight.ndim == 2 and id(weight) not in outside]
    inside = set(map(id, matrices))
    others = [weight for weight in model.parameters() if id(weight) not in inside]
    return [Muon(matrices, dtype=dtype), torch.optim.AdamW(others, betas=(0.9, beta2), weight_decay=0.0, fused=True)]
