"""RMSNorm as it is computed: x / sqrt(‖x‖² / size + eps) · weight (Zhang and Sennrich 2019, equation 4).

Where gradients are wanted, its derivative is written out: autograd's, operation by operation, takes twice as long.
"""

from typing import Any

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """Vectors (..., size) normed, then scaled by the weight (size)."""
    if x.requires_grad:
        return DifferentiableRMSNorm.apply(x, weight, eps)
    return normalize(x, eps)[0] * weight


def normalize(x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:  # (..., size) -> (..., size), (..., 1)
    """Each vector divided by its root mean square, and the scale that it was multiplied by to get there."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)  # squares need more than 16 bits
    scale = torch.addcmul(eps, length, length, value=1 / x.shape[-1]).rsqrt()
    return (x * scale).to(x.dtype), scale


class DifferentiableRMSNorm(torch.autograd.Function):
    """RMSNorm with its derivative written out: autograd's, operation by operation, takes twice as long.

    Vectors and their gradients are (..., size), the weight (size), the scale of each vector (..., 1).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
        normed, scale = normalize(x, eps)
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, weight = ctx.saved_tensors
        each = gradient * normed
        along = (each @ weight)[..., None]  # the gradient's part along x: the norm undoes a change of length
        to_x = torch.addcmul(gradient * weight, normed, along, value=-1 / weight.shape[0]) * scale
        return to_x.to(normed.dtype), each.view(-1, each.shape[-1]).sum(dim=0), None
