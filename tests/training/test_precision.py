"""The dtype of a training's arithmetic."""

from training.precision import autocast, computing_dtype

import pytest
import torch

CPU = torch.device("cpu")


@pytest.mark.parametrize("fast, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_what_the_hardware_computes_in(monkeypatch, fast, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    assert computing_dtype("auto", CPU) == dtype
    assert computing_dtype("float32", CPU) == torch.float32 and computing_dtype("bfloat16", CPU) == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_computed_in_that_dtype(dtype):
    with autocast(CPU, dtype):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
