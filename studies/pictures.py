"""Draw the pictures of README.md from the result files of a model.

    python pictures.py
    python pictures.py --model qwen

Reads results/<model>/experiments.json and the tasks' results, and asks the model itself for the distributions along
their texts. Writes PNG files into results/<model>/. The colours are Okabe and Ito's, for colour-blind readers too.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")

from common import (  # noqa: E402
    InputError,
    add_model_flags,
    add_results_flag,
    load_model,
    one_line_errors,
    prompt_ids,
    results_folder,
    step,
    writing,
)
from generator import write_aside  # noqa: E402
from task3_temperature import SETTINGS, apply_temperature  # noqa: E402
from task4_nucleus import nucleus_ids  # noqa: E402

import torch  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#999999"
TEMPERATURES = [setting["temperature"] for setting in SETTINGS]
TOP_P = 0.9
SHOWN_TOKENS = 12  # of a distribution
SHOWN_STEPS = 120  # of a text


def read(path: Path, loaded) -> dict:
    """A result file. Raises InputError where it is missing, corrupt, or of other weights."""
    if not path.exists():
        raise InputError(f"there is no {path}: run the script that writes it first")
    try:
        content = json.loads(path.read_text("utf-8"))
        model = content["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is corrupt: run its script again") from error
    if model != loaded.identity:
        raise InputError(f"{path} was written by other weights: run its script again")
    return content


def save(figure, path: Path) -> None:
    with writing(path):
        write_aside(path, lambda aside: figure.savefig(aside, format="png", dpi=120))
    plt.close(figure)


# -------------------------------------------------------------------------------------------------------- trade-off


def curve(rows: list[dict], kind: str, top_p: float, figure: str) -> list[tuple]:
    """(temperature, value, low, high) of one figure, by rising temperature up to 3."""
    found = [(row["setting"]["temperature"], *(row[figure][key] for key in ("value", "low", "high"))) for row in rows
             if row["what"] == "draws" and row["kind"] == kind and row["setting"]["top_p"] == top_p
             and row["setting"]["temperature"] <= 3]  # fmt: skip
    if not found:
        raise InputError("experiments.json is not finished: run python experiments.py again")
    return sorted(found)


def draw_tradeoff(rows: list[dict], path: Path) -> None:
    """What temperature buys and what it costs: different stories, and JSON that is right."""
    panels = (("json", "right", "JSON right (share)"), ("hedgehog", "kept", "stories that keep their hero (share)"),
              ("hedgehog", "distinct_2", "story diversity (distinct-2)"))  # fmt: skip
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 8), sharex=True, layout="constrained")
    for axis, (kind, name, label) in zip(axes, panels, strict=True):
        for top_p, colour, marker, text in ((1.0, ORANGE, "o", "whole distribution"), (TOP_P, BLUE, "s", f"nucleus {TOP_P}")):
            x, value, low, high = zip(*curve(rows, kind, top_p, name), strict=True)
            axis.plot(x, value, marker=marker, color=colour, label=text)
            axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set(ylabel=label, ylim=(-0.03, 1.03))
        axis.grid(alpha=0.3)
    axes[-1].set(xlabel="temperature (0: greedy)")
    axes[0].legend(loc="lower left")
    save(figure, path)


# ---------------------------------------------------------------------------------------------------- distributions


def token_name(tokenizer, token: int) -> str:
    """A token as a label: its text, with the space that it may begin with visible, and control characters by name."""
    return repr(tokenizer.decode([token]))[1:-1].replace(" ", "␣").replace("$", r"\$") or "∅"


def draw_step(loaded, prompt: str, path: Path) -> None:
    """The first token's distribution at five temperatures: what the nucleus keeps, and what it drops."""
    logits = step(loaded.model, prompt_ids(loaded.tokenizer, prompt), None)  # (1, vocab)
    figure, axes = plt.subplots(1, len(TEMPERATURES), figsize=(13, 4.2), sharey=True, layout="constrained")
    shown = logits[0].topk(SHOWN_TOKENS).indices.tolist()
    for axis, temperature in zip(axes, TEMPERATURES, strict=True):
        probs = apply_temperature(logits, torch.tensor([[temperature]], dtype=torch.float64))[0].softmax(-1)
        kept = set(nucleus_ids(probs, TOP_P).tolist())
        colours = [BLUE if token in kept else GREY for token in shown]
        axis.barh(range(len(shown)), probs[shown].tolist(), color=colours)
        rest = 1 - probs[shown].sum().item()
        axis.set(title=f"T = {temperature:g}\n{len(kept)} kept, others {rest:.0%}", xlim=(0, 1.05), xlabel="probability")
    axes[0].set_yticks(range(len(shown)), [token_name(loaded.tokenizer, token) for token in shown])
    axes[0].invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (BLUE, GREY)]
    figure.legend(handles, [f"in the nucleus of {TOP_P}", "dropped"], loc="outside lower center", ncols=2)
    save(figure, path)


def along(loaded, run: dict) -> tuple[list[float], list[float]]:
    """Probability of each token of a text, and entropy (nats) of the distribution that it came from, at temperature 1."""
    prompt = prompt_ids(loaded.tokenizer, run["prompt"])
    ids = torch.tensor([run["token_ids"][:SHOWN_STEPS]])
    read = torch.cat([prompt, ids[:, :-1]], dim=1).to(next(loaded.model.parameters()).device)
    logits = loaded.model(read).logits[0, prompt.shape[1] - 1 :].float().cpu()
    log_probs = logits.log_softmax(-1)  # (steps, vocab)
    return log_probs.gather(1, ids[0][:, None])[:, 0].exp().tolist(), (-(log_probs.exp() * log_probs).sum(-1)).tolist()


def draw_along(loaded, texts: dict[str, dict], path: Path) -> None:
    """Token by token: how likely the chosen one was, and how open the choice."""
    figure, axes = plt.subplots(len(texts), 1, figsize=(9, 2.4 * len(texts)), sharex=True, layout="constrained")
    for axis, (name, run) in zip(axes, texts.items(), strict=True):
        probs, entropy = along(loaded, run)
        axis.bar(range(len(probs)), probs, color=BLUE, width=1.0, label="probability of the chosen token")
        axis.set(title=name, ylabel="probability", ylim=(0, 1.03))
        right = axis.twinx()
        right.plot(entropy, color=ORANGE, label="entropy before the choice (right axis)")
        right.set(ylabel="nats", ylim=(0, None))
    axes[-1].set(xlabel="token")
    handles = [*axes[0].get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    figure.legend(handles, [handle.get_label() for handle in handles], loc="outside lower center", ncols=2)
    save(figure, path)


def run_of(loaded, path: Path, **parameters) -> dict:
    """A task's first hedgehog run with these parameters. Raises InputError where there is none."""
    for run in read(path, loaded)["runs"]:
        if run["prompt"] == "hedgehog" and run["parameters"] == parameters:
            return run
    raise InputError(f"{path} holds no hedgehog story with {parameters}: run its script again")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_flags(parser)
    add_results_flag(parser)
    args = parser.parse_args()
    with one_line_errors():
        folder = results_folder(args)
        loaded = load_model(args.model, args.device, args.dtype)
        rows = read(folder / "experiments.json", loaded)["rows"]
        texts = {
            "greedy": run_of(loaded, folder / "task1_greedy.json"),
            "sampled": run_of(loaded, folder / "task2_sampling.json"),
            "temperature 10": run_of(loaded, folder / "task3_temperature.json", temperature=10.0),
        }
        draw_tradeoff(rows, folder / "tradeoff.png")
        draw_step(loaded, "hedgehog", folder / "step.png")
        draw_along(loaded, texts, folder / "along.png")
        print(f"tradeoff.png, step.png and along.png are in {folder}")


if __name__ == "__main__":
    main()
