"""Faster products for decoding: the weights of linear layers laid out in blocks, as oneDNN's kernels read them.

A step multiplies every weight by a few rows only, so that most of its time goes into reading weights. Laid out in blocks, once
after loading, they are read faster than `F.linear` reads them row by row (docs/LOG.md, 2026-11-22, has the figures). It is
what torch's own compiler does to a frozen model of 16 bits or of varying batches. Packed layers have no gradients: they are
for decoding, not for training.
"""

import platform

from models.transformer import Attention, FeedForward, side_by_side

import torch
from torch import Tensor, nn

ROWS = 8  # the number of rows that the layout is made for; any other can be multiplied too


def blocks(weight: Tensor) -> Tensor:
    """A weight (out, in), laid out in blocks."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., in) times the `blocks` of a weight (out, in), plus the bias: (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class PackedLinear(nn.Linear):
    """A linear layer that keeps its weight in blocks alone; reading `weight` or saving the layer gives the plain weight."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.blocks = blocks(layer.weight)

    @property
    def weight(self) -> Tensor:
        return self.blocks.to_dense()

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, self.blocks, self.bias)


class Together:
    """Layers that read the same vectors, as one product with their results side by side."""

    def __init__(self, *layers: nn.Linear, parts: int = 1) -> None:
        """parts: how many equal parts the result is returned in."""
        weight, bias = side_by_side(*layers)
        self.blocks, self.bias, self.parts = blocks(weight), None if bias is None else bias.detach(), parts

    def __call__(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Vectors (..., in) -> (..., all layers' out), or a tuple of its parts."""
        y = multiply(x, self.blocks, self.bias)
        return y if self.parts == 1 else y.chunk(self.parts, dim=-1)


def pack(model: nn.Module) -> None:
    """Lay out a model's weights in blocks, in place, where oneDNN has kernels for them.

    In our own decoder, layers that read the same vectors become one product. A head tied to the embedding becomes a copy of
    it.
    """
    for module in list(model.modules()):
        if isinstance(module, Attention) and can_pack(module.q_proj.weight):
            module.project = Together(module.q_proj, module.k_proj, module.v_proj)
        if isinstance(module, FeedForward) and can_pack(module.up_proj.weight):
            module.project = Together(module.gate_proj, module.up_proj, parts=2)
        for name, child in module.named_children():
            if type(child) is nn.Linear and can_pack(child.weight):
                setattr(module, name, PackedLinear(child))


def can_pack(weight: Tensor) -> bool:
    """Whether this processor and this torch have oneDNN's kernels for the weight."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    supported = {torch.float32} | ({torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set())
    return weight.device.type == "cpu" and weight.dtype in supported
