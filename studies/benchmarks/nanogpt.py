"""Training speed beside nanoGPT: the same shape, precision and batch, step by step in turn in one process.

    git clone https://github.com/karpathy/nanoGPT
    python -m studies.benchmarks.nanogpt --nanogpt nanoGPT

All take whole steps (forward, backward, clipping, optimizer) on the same random tokens: nanoGPT's GPT with its own AdamW,
ours with Muon and AdamW as train_generator.py has them, and ours with AdamW alone, which tells the model's part from the
optimizer's. Prints the medians and the ratios of tokens per second, ours over nanoGPT's, and writes them to
results/generator/nanogpt_speed.json.
"""

from support.errors import InputError, one_line_errors

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from models.transformer import Transformer, TransformerConfig, intermediate_size
from support.flags import Parser, add_results_flag
from support.results import model_folder, write_json
from training.optimizer import make_optimizers

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

ROUNDS = 9


class Shape(NamedTuple):
    """A model and its batch."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    rows: int
    window: int  # tokens


class Competitor(NamedTuple):
    """What is timed: `loss` takes ids and targets, each (rows, window)."""

    model: nn.Module
    optimizers: list[Optimizer]
    loss: Callable[[Tensor, Tensor], Tensor]


SHAPES = (
    Shape(6, 256, 4, 4096, 16, 256),
    Shape(4, 256, 4, 4096, 32, 256),
    Shape(4, 128, 4, 65, 12, 64),
)


def load_nanogpt(folder: Path) -> ModuleType:
    """nanoGPT's model.py. Raises InputError where it is missing."""
    path = folder / "model.py"
    if not path.exists():
        raise InputError(f"there is no {path}: clone nanoGPT first")
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def nanogpt(module: ModuleType, shape: Shape) -> Competitor:
    """nanoGPT's model with its own optimizer."""
    model = module.GPT(module.GPTConfig(block_size=shape.window, vocab_size=shape.vocabulary, n_layer=shape.layers,
                                        n_head=shape.heads, n_embd=shape.width, dropout=0.0, bias=False))  # fmt: skip
    optimizers = [model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")]
    return Competitor(model, optimizers, lambda ids, targets: model(ids, targets)[1])


def ours(shape: Shape, optimizers_of: Callable[[Transformer], list[Optimizer]]) -> Competitor:
    """Our model with the optimizers that `optimizers_of` gives it."""
    model = Transformer(TransformerConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=intermediate_size(shape.width),
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.heads,
        max_position_embeddings=shape.window))  # fmt: skip
    return Competitor(model, optimizers_of(model), lambda ids, targets: model(ids, targets=targets).loss / targets.numel())


def adamw_alone(model: Transformer) -> list[Optimizer]:
    """One AdamW for all weights, as nanoGPT has it."""
    return [AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), fused=True)]


def timed_step(competitor: Competitor, dtype: torch.dtype, ids: Tensor, targets: Tensor) -> float:
    """The seconds that a step takes: ids and targets (rows, window)."""
    start = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = competitor.loss(ids, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(competitor.model.parameters(), 1.0)
    for optimizer in competitor.optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def compare(module: ModuleType, shape: Shape, dtype: torch.dtype) -> dict:
    """The figures of one shape and precision; the first round only warms up."""
    competitors = [ours(shape, lambda model: make_optimizers(model, dtype)), ours(shape, adamw_alone), nanogpt(module, shape)]
    ids = torch.randint(shape.vocabulary, (shape.rows, shape.window + 1))
    rounds = [[timed_step(competitor, dtype, ids[:, :-1], ids[:, 1:].contiguous()) for competitor in competitors]
              for _ in range(ROUNDS + 1)][1:]  # fmt: skip
    tokens = shape.rows * shape.window
    return {
        **shape._asdict(), "dtype": str(dtype).removeprefix("torch."),
        "parameters": [sum(weight.numel() for weight in competitor.model.parameters()) for competitor in competitors],
        "tokens_per_second": [round(tokens / statistics.median(times)) for times in zip(*rounds, strict=True)],
        "ratio": round(statistics.median(theirs / ours for ours, _, theirs in rounds), 3),
        "ratio_with_adamw_alone": round(statistics.median(theirs / ours for _, ours, theirs in rounds), 3),
    }  # fmt: skip


def main() -> None:
    with one_line_errors():
        parser = Parser(__doc__)
        parser.add_argument("--nanogpt", type=Path, required=True, metavar="FOLDER", help="a clone of nanoGPT")
        add_results_flag(parser)
        args = parser.parse_args()
        module, rows = load_nanogpt(args.nanogpt), []
        for shape in SHAPES:
            for dtype in (torch.bfloat16, torch.float32):
                rows.append(compare(module, shape, dtype))
                print(json.dumps(rows[-1]), flush=True)
        write_json(model_folder(args.results, "generator") / "nanogpt_speed.json", {
            "command": "python -m studies.benchmarks.nanogpt --nanogpt nanoGPT", "torch": torch.__version__,
            "threads": torch.get_num_threads(), "rounds": ROUNDS, "order": ["ours", "ours with AdamW alone", "nanoGPT"],
            "rows": rows})  # fmt: skip


if __name__ == "__main__":
    main()
