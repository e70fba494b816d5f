"""Character-level Shakespeare beside nanoGPT, each by its own training script, in turn.

    git clone https://github.com/karpathy/nanoGPT && python nanoGPT/data/shakespeare_char/prepare.py
    python -m studies.benchmarks.shakespeare --nanogpt nanoGPT

nanoGPT runs the command that its README gives for a CPU (4 layers, width 128, context 64, batch 12, 2000 steps). Ours has
the same shape, window and batch, one epoch of the same nine tenths of the text, and validates on all of the last tenth.
Writes results/generator/shakespeare.json: wall seconds of the whole commands, and validation losses in nats per character.
"""

from support.errors import ROOT, InputError, one_line_errors

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.flags import Parser, add_results_flag
from support.results import model_folder, write_json

import torch

NANOGPT = (
    "train.py config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 "
    "--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)
OURS = (
    "train_generator.py --tokenizer char --num-layers 4 --hidden-size 128 --num-heads 4 --num-kv-heads 4 --max-length 64 "
    "--batch-size 12 --num-epochs 1 --learning-rate 6e-3 --eval-every 1000000"
)
ROUNDS = 3


def printed_by(command: list[str], folder: Path) -> str:
    """What a Python script prints, run in a folder. Raises InputError where it fails."""
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip() or "no message").splitlines()[-1]
        raise InputError(f"{command[0]} in {folder} failed: {why}")
    return done.stdout


def nanogpt(folder: Path, output: Path) -> float:
    """Train nanoGPT, cloned in `folder`, into `output`: the validation loss that it prints last."""
    printed = printed_by([*NANOGPT.split(), f"--out_dir={output}"], folder)
    return float(re.findall(r"val loss ([\d.]+)", printed)[-1])


def ours(text: Path, output: Path) -> float:
    """Train ours on `text` into `output`: the last validation loss in its metrics."""
    printed_by([*OURS.split(), "--text", str(text), "--output", str(output)], ROOT)
    metrics = map(json.loads, (output / "metrics.jsonl").read_text("utf-8").splitlines())
    return [row["validation_loss"] for row in metrics if "validation_loss" in row][-1]


def main() -> None:
    with one_line_errors():
        parser = Parser(__doc__)
        parser.add_argument("--nanogpt", type=Path, required=True, metavar="FOLDER",
                            help="a clone of nanoGPT with its data prepared")  # fmt: skip
        add_results_flag(parser)
        args = parser.parse_args()
        folder = args.nanogpt.resolve()
        text = folder / "data" / "shakespeare_char" / "input.txt"
        runs = {"ours": [], "nanogpt": []}
        for _ in range(ROUNDS):
            for name, train, source in (("ours", ours, text), ("nanogpt", nanogpt, folder)):
                with tempfile.TemporaryDirectory() as output:
                    start = time.perf_counter()
                    loss = train(source, Path(output) / "run")
                    runs[name].append({"validation_loss": loss, "seconds": round(time.perf_counter() - start, 1)})
                    print(name, runs[name][-1], flush=True)
        ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(runs["ours"], runs["nanogpt"], strict=True))
        write_json(model_folder(args.results, "generator") / "shakespeare.json", {
            "commands": {"ours": OURS, "nanogpt": NANOGPT}, "torch": torch.__version__,
            "threads": torch.get_num_threads(), "time_ratio": round(ratio, 3), "runs": runs})  # fmt: skip


if __name__ == "__main__":
    main()
