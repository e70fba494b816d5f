"""Faster products for decoding: the weights of linear layers laid out in blocks, as oneDNN's kernels read them.

A step multiplies every weight by a few rows only, so that most of its time goes into reading weights. Laid out in blocks, once
after loading, they are read faster than `F.linear` reads them row by row (LOG.md, 2026-11-22, has the figures). It is
what torch's own compiler does to a model that may be frozen. A model whose weights are packed can neither learn nor be saved.
"""

import platform

import torch
from torch import nn

from generator import Attention, FeedForward

ROWS = 8  # that the blocks are laid out for; any number can be multiplied


class PackedProduct:
    """The product with the weights of layers that read the same vectors, side by side; the layers give their weights up."""

    def __init__(self, *layers, parts=1):
        """parts: in how many equal parts the product is returned."""
        self.weight = torch.ops.mkldnn._reorder_linear_weight(torch.cat([layer.weight.data for layer in layers]), ROWS)
        self.bias = None if layers[0].bias is None else torch.cat([layer.bias.data for layer in layers])
        self.parts = parts
        for layer in layers:
            # Empty and not on the meta device, where a model that multiplies by the weight itself would go on with nothing.
            layer.weight = nn.Parameter(layer.weight.new_empty(0), requires_grad=False)

    def __call__(self, x):
        """Vectors (..., in) -> (..., out), or a tuple of its parts (..., out / parts)."""
        y = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y if self.parts == 1 else y.chunk(self.parts, dim=-1)


def pack(model):
    """Make the linear layers of a model packed products, in place: of any on the CPU whose dtype oneDNN has kernels for.

    In our own decoder, what reads the same vectors becomes one product.
    """
    weight = next(model.parameters())
    if weight.device.type != "cpu" or not can_pack(weight.dtype):
        return
    for module in model.modules():
        if isinstance(module, Attention):
            module.project = PackedProduct(module.q_proj, module.k_proj, module.v_proj)
        elif isinstance(module, FeedForward):
            module.project = PackedProduct(module.gate_proj, module.up_proj, parts=2)
        elif type(module) is nn.Linear and module.weight.numel():
            module.forward = PackedProduct(module)


def can_pack(dtype):
    """Whether this processor and this torch have oneDNN's kernels for the dtype."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
