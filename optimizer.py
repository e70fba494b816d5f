"""What changes the weights in a training: Muon for the matrices inside the blocks, AdamW for all else.

Sources: Muon, Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/); the size of its updates, Liu et al. 2025
("Muon is Scalable for LLM Training"), section 2.2; AdamW, Loshchilov and Hutter 2019, algorithm 2.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's: in five rounds a singular value above 0.002 comes between 0.68 and 1.21


class Muon(torch.optim.Optimizer):
    """What `torch.optim.Muon(..., adjust_lr_fn="match_rms_adamw")` does, but to all matrices of one shape, or its transpose,
    at once: torch steps matrix by matrix, in products too small to occupy two cores."""

    def __init__(self, matrices: list[nn.Parameter], lr: float = 1e-3, weight_decay: float = 0.01, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Every matrix W: M <- momentum M + (1 - momentum) G, W <- (1 - lr decay) W - 0.2 lr √max(rows, columns) O,
        where O is the orthogonal matrix next to momentum M + (1 - momentum) G (Nesterov's step)."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[min(matrix.shape), max(matrix.shape)].append(matrix)
            for (_, columns), matrices in alike.items():
                updates = orthogonalize(torch.stack([lying(self.direction(matrix, group["momentum"])) for matrix in matrices]))
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    lying(matrix).add_(update, alpha=-0.2 * group["lr"] * columns**0.5)

    def direction(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        """What the matrix is to move along, before it is made orthogonal."""
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)  # torch's name: each can go on with the other's state
        average = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum)


def lying(matrix: Tensor) -> Tensor:
    """The matrix itself, or a tall one's transpose."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def orthogonalize(matrices: Tensor) -> Tensor:
    """About U Vᵀ of each matrix U S Vᵀ: (matrices, rows, columns), rows <= columns, computed and returned in bfloat16.

    Five rounds of X <- a X + (b A + c A²) X with A = X Xᵀ, an odd polynomial of the singular values (Newton and Schulz).
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def make_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """The optimizers of a GeneratorTransformer. Muon's updates are of the size of AdamW's, so one learning rate serves both."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    inside = set(map(id, matrices))
    others = [weight for weight in model.parameters() if id(weight) not in inside]
    return [Muon(matrices), torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]
