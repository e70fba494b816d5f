"""Training speed beside nanoGPT: the same shape, precision and batch, step by step in turn in one process.

    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/nanogpt.py --nanogpt nanoGPT

All take whole steps (forward, backward, clipping, optimizer) on the same random tokens: nanoGPT's GPT with its own
AdamW, ours with Muon and AdamW as train_generator.py has it, and ours with AdamW alone, which tells the model's part from
the optimizer's. Prints, and writes to results/generator/nanogpt_speed.json, the medians and the ratios of tokens per
second, ours over nanoGPT's.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from generator import GeneratorConfig, GeneratorTransformer, write_text  # noqa: E402
from train_generator import intermediate_size  # noqa: E402

from optimizer import make_optimizers  # noqa: E402

SHAPES = (  # layers, width, heads, vocabulary, rows, window
    (6, 256, 4, 4096, 16, 256),
    (4, 256, 4, 4096, 32, 256),
    (4, 128, 4, 65, 12, 64),
)
ROUNDS = 9


def load_nanogpt(folder: Path):
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def nanogpt_step(module, layers, width, heads, vocab, window, dtype):
    model = module.GPT(module.GPTConfig(block_size=window, vocab_size=vocab, n_layer=layers, n_head=heads, n_embd=width,
                                        dropout=0.0, bias=False))  # fmt: skip
    optimizers = [model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")]
    return model, optimizers, lambda ids, targets: model(ids, targets)[1], dtype


def our_step(make_optimizers, layers, width, heads, vocab, window, dtype):
    model = GeneratorTransformer(GeneratorConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=intermediate_size(width), num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=window))  # fmt: skip
    return model, make_optimizers(model, dtype), lambda ids, targets: model(ids, targets=targets).loss / targets.numel(), dtype


def adamw_alone(model, dtype):
    return [torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), fused=True)]


def timed(model, optimizers, loss_of, dtype, ids, targets) -> float:
    start = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = loss_of(ids, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a clone of nanoGPT")
    args = parser.parse_args()
    module, rows = load_nanogpt(args.nanogpt), []
    for layers, width, heads, vocab, batch, window in SHAPES:
        for dtype in (torch.bfloat16, torch.float32):
            shape = (layers, width, heads, vocab, window, dtype)
            steps = [our_step(make_optimizers, *shape), our_step(adamw_alone, *shape), nanogpt_step(module, *shape)]
            ids = torch.randint(vocab, (batch, window + 1))
            rounds = [[timed(*step, ids[:, :-1], ids[:, 1:].contiguous()) for step in steps] for _ in range(ROUNDS + 1)][1:]
            rows.append({
                "layers": layers, "width": width, "heads": heads, "vocabulary": vocab, "rows": batch, "window": window,
                "dtype": str(dtype).removeprefix("torch."),
                "parameters": [sum(weight.numel() for weight in step[0].parameters()) for step in steps],
                "tokens_per_second": [round(batch * window / statistics.median(times)) for times in zip(*rounds, strict=True)],
                "ratio": round(statistics.median(theirs / ours for ours, _, theirs in rounds), 3),
                "ratio_with_adamw_alone": round(statistics.median(theirs / ours for _, ours, theirs in rounds), 3),
            })  # fmt: skip
            print(json.dumps(rows[-1]))
    content = {"command": "python benchmarks/nanogpt.py --nanogpt nanoGPT", "torch": torch.__version__,
               "threads": torch.get_num_threads(), "rounds": ROUNDS, "order": ["ours", "ours with AdamW alone", "nanoGPT"],
               "rows": rows}  # fmt: skip
    write_text(ROOT / "results" / "generator" / "nanogpt_speed.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
