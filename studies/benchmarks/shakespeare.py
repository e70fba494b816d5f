"""Character-level Shakespeare beside nanoGPT, each by its own training script, in turn.

    git clone https://github.com/karpathy/nanoGPT && python nanoGPT/data/shakespeare_char/prepare.py
    python benchmarks/shakespeare.py --nanogpt nanoGPT

nanoGPT runs the command that its README gives for a CPU (4 layers, width 128, context 64, batch 12, 2000 steps). Ours
has the same shape, window and batch, one epoch of the same nine tenths of the text, and validates on all of the last
tenth. Writes results/generator/shakespeare.json: wall seconds of the whole commands, and validation losses in nats per
character.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from generator import write_text  # noqa: E402

NANOGPT = (
    "train.py config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 "
    "--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)
OURS = (
    "train_generator.py --tokenizer char --num-layers 4 --hidden-size 128 --num-heads 4 --num-kv-heads 4 --max-length 64 "
    "--batch-size 12 --num-epochs 1 --learning-rate 6e-3 --eval-every 1000000"
)
ROUNDS = 3


def nanogpt(folder: Path, output: str) -> float:
    """The validation loss that nanoGPT prints last."""
    command = [sys.executable, *NANOGPT.split(), f"--out_dir={output}"]
    printed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    return float(re.findall(r"val loss ([\d.]+)", printed)[-1])


def ours(text: Path, output: str) -> float:
    """The last validation loss in the metrics that train_generator.py wrote."""
    command = [sys.executable, *OURS.split(), "--text", str(text), "--output", output]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    rows = map(json.loads, (Path(output) / "metrics.jsonl").read_text("utf-8").splitlines())
    return [row["validation_loss"] for row in rows if "validation_loss" in row][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a clone of nanoGPT with its data prepared")
    folder = parser.parse_args().nanogpt.resolve()
    text = folder / "data" / "shakespeare_char" / "input.txt"
    runs = {"ours": [], "nanogpt": []}
    for _ in range(ROUNDS):
        for name, train in (("ours", lambda output: ours(text, output)), ("nanogpt", lambda output: nanogpt(folder, output))):
            with tempfile.TemporaryDirectory() as output:
                start = time.perf_counter()
                loss = train(os.path.join(output, "run"))
                runs[name].append({"validation_loss": loss, "seconds": round(time.perf_counter() - start, 1)})
                print(name, runs[name][-1], flush=True)
    pairs = zip(runs["ours"], runs["nanogpt"], strict=True)
    ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in pairs)
    content = {"commands": {"ours": OURS, "nanogpt": NANOGPT}, "torch": torch.__version__,
               "threads": torch.get_num_threads(), "time_ratio": round(ratio, 3), "runs": runs}  # fmt: skip
    write_text(ROOT / "results" / "generator" / "shakespeare.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
