"""What a training measured: a file with one JSON object a line, the curve drawn from it, and a line for the terminal."""

from support.errors import InputError, first_line

import json
from pathlib import Path

from support.colours import BLUE, GREEN, ORANGE
from support.files import write_aside, write_text, writing

import numpy as np


class Metrics:
    """The rows of metrics.jsonl and the picture loss.png, in one folder.

    A row is what one step gave, {"step", "loss"}, or an evaluation: {"step", "train_loss", "validation_loss",
    "perplexity", "seconds"} and, if they are measured, "bits_per_character", "sample", one share under a key of its own, and
    "heads", by name each {"loss", "right"}. Losses are in nats per target.
    """

    def __init__(self, folder: Path, last_step: int, share: tuple[str, str] | None = None) -> None:
        """Continue the file after `last_step`: what a killed training wrote after its last saved step is dropped.

        share: the key and the label of a figure from 0 to 1 that the picture's right axis shows.
        Raises InputError where the file to be continued is missing or damaged, or cannot be written.
        """
        self.path, self.picture, self.share = folder / "metrics.jsonl", folder / "loss.png", share
        self.rows = self._read(last_step) if last_step else []
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def _read(self, last_step: int) -> list[dict]:
        try:
            lines = self.path.read_text("utf-8").split("\n")[:-1]  # a last line without its end was cut short
            return [row for row in map(json.loads, lines) if row["step"] <= last_step]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{self.path} cannot be read: {first_line(error)}") from error

    def add(self, row: dict) -> None:
        """Append a row to the file. Raises InputError where that fails."""
        self.rows.append(row)
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def words(self, row: dict) -> str:
        """An evaluation as it is told on the terminal; a sample stands on a line of its own."""
        share = f", {self.share[1]} {row[self.share[0]]:.1%}" if self.share else ""
        bits = f", {row['bits_per_character']:.4f} bits per character" if "bits_per_character" in row else ""
        heads = "".join(f", {name} {head['loss']:.3f} ({head['right']:.1%} right)"
                        for name, head in row.get("heads", {}).items())
        sample = f"\n    … {' '.join(row['sample'].split())}" if "sample" in row else ""
        return (f"step {row['step']}: training loss {row['train_loss']:.4f}, validation loss {row['validation_loss']:.4f}, "
                f"perplexity {row['perplexity']:.2f}{bits}{share}{heads}{sample}")

    def draw(self) -> None:
        """Draw the losses of all steps, averaged, and those of all evaluations, of which there must be one."""
        from support.drawing import Figure

        losses = np.array([(row["step"], row["loss"]) for row in self.rows if "loss" in row])  # (steps, 2)
        evaluations = [row for row in self.rows if "validation_loss" in row]
        window = min(50, len(losses))
        smooth = np.convolve(losses[:, 1], np.ones(window) / window, "valid")
        figure = Figure(figsize=(8, 4.5), layout="constrained")  # without pyplot, which opens windows
        axes = figure.subplots()
        axes.plot(losses[window - 1:, 0], smooth, color=BLUE, label=f"training, mean of {window} steps")
        steps = [row["step"] for row in evaluations]
        axes.plot(steps, [row["validation_loss"] for row in evaluations], "o-", color=ORANGE, label="validation")
        axes.set(xlabel="step", ylabel="loss (nats per token)", yscale="log")
        if self.share:
            key, label = self.share
            right = axes.twinx()
            right.plot(steps, [100 * row[key] for row in evaluations], "s--", color=GREEN, label=f"{label} (right axis)")
            right.set(ylabel="%", ylim=(0, 100))
        figure.legend(loc="outside lower center", ncols=3)
        write_aside(self.picture, lambda path: figure.savefig(path, format="png", dpi=120))
