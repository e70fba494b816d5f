"""The dtype that a training computes in; the weights themselves stay in float32."""

import torch


def computing_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" is bfloat16 where the hardware computes in it, else float32."""
    if name != "auto":
        return getattr(torch, name)
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context in which matrix products are computed in `dtype`."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
