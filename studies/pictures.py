"""Draw the pictures of the documents from the results of a model.

    python -m studies.pictures
    python -m studies.pictures --model qwen

Reads results/<model>/experiments.json and the results of tasks 1 to 3, asks the model itself for the distributions along
their texts, and writes PNG files beside them.
"""

from support.errors import InputError, one_line_errors

import math
import statistics
from pathlib import Path

from common import checked_ids, step
from models.limits import vocab_size
from models.loading import Loaded, load_model
from studies.drawing import save, token_name
from studies.measures import entropies
from studies.token_page import logits_along
from support.colours import BLUE, GREEN, GREY, ORANGE
from support.drawing import plt
from support.flags import Parser, add_model_flags, add_results_flag
from support.results import model_folder, read_results
from task3_temperature import SETTINGS, apply_temperature
from task4_nucleus import nucleus

import torch
from torch import Tensor

TEMPERATURES = dict(zip((setting["temperature"] for setting in SETTINGS), (BLUE, GREEN, GREY, "black", ORANGE), strict=True))
TICKS = (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)  # of the temperature axis of the trade-off
TOP_P = 0.9
LEAST = 1e-6  # the lowest probability that is shown
NAMED_TOKENS = 6  # of a distribution
SHOWN_STEPS = 120  # of a text


# --------------------------------------------------------------------------------------------- from experiments.json


def curve(rows: list[dict], kind: str, top_p: float, figure: str) -> list[tuple[float, float, float, float]]:
    """(temperature, value, low, high) of one figure, by rising temperature. Raises InputError where there is none."""
    found = [(row["setting"]["temperature"], *(row[figure][key] for key in ("value", "low", "high"))) for row in rows
             if row["what"] == "draws" and row["kind"] == kind and row["setting"]["top_p"] == top_p]  # fmt: skip
    if not found:
        raise InputError("experiments.json is not finished: run python -m studies.experiments again")
    return sorted(found)


def draw_tradeoff(rows: list[dict], path: Path) -> None:
    """What temperature buys and what it costs: different stories, and right JSON and kept heroes."""
    panels = (("json", "right", "JSON right (share)"), ("hedgehog", "kept", "stories that keep their hero (share)"),
              ("hedgehog", "distinct_2", "diversity of two stories (distinct-2)"))  # fmt: skip
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 9), sharex=True, layout="constrained")
    figure.suptitle("What temperature costs (above) and what it buys (below)\n"
                    "95 % intervals; the axis is linear up to T = 1, then logarithmic")
    for axis, (kind, name, label) in zip(axes, panels, strict=True):
        for top_p, colour, marker, text in ((1.0, ORANGE, "o", "whole distribution"), (TOP_P, BLUE, "s", f"nucleus {TOP_P}")):
            x, value, low, high = zip(*curve(rows, kind, top_p, name), strict=True)
            axis.plot(x, value, marker=marker, color=colour, label=text)
            axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set(ylabel=label, ylim=(-0.03, 1.03))
        axis.grid(alpha=0.3)
    floor = curve(rows, "hedgehog", 1.0, "distinct_2")[0][1]  # at the lowest temperature
    axes[-1].axhline(floor, color=GREY, linestyle="--", label=f"the floor, one story twice: {floor:.2f}")
    axes[-1].legend(loc="lower right")
    axes[-1].set_xscale("symlog", linthresh=1)
    axes[-1].set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes[-1].set_xticks([], minor=True)
    axes[-1].set(xlabel="temperature (0: greedy)", xlim=(-0.05, 11))
    save(figure, path)


def draw_top_p(rows: list[dict], path: Path) -> None:
    """How many different stories each top_p gives at T = 1, and how many of them keep their hero."""
    found = [(row["setting"]["top_p"], row["distinct_texts"], row["kept"]["value"] * row["answers"], row["answers"])
             for row in rows if row["what"] == "draws" and row["kind"] == "hedgehog"
             and row["setting"]["temperature"] == 1]  # fmt: skip
    x, different, kept, answers = zip(*sorted(found), strict=True)
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    axis.plot(x, different, marker="o", color=BLUE, label="different stories")
    axis.plot(x, kept, marker="s", color=ORANGE, label="stories that keep their hero")
    for top_p, count in zip(x, different, strict=True):
        if count < max(answers):
            axis.annotate(str(count), (top_p, count), (-3, 7), textcoords="offset points", ha="right", color=BLUE)
    axis.set(title=f"{answers[0]} stories at T = 1: what top_p lets through", xlabel="top_p (1: the whole distribution)",
             ylabel=f"of {answers[0]} stories", xlim=(0, 1.03), ylim=(0, 1.05 * answers[0]))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    save(figure, path)


# ---------------------------------------------------------------------------------------------------- distributions


def at_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits (rows, vocab) -> the log-probabilities (rows, vocab) that are drawn from."""
    return apply_temperature(logits, torch.tensor([[temperature]], dtype=torch.float64)).log_softmax(-1)


def draw_step(loaded: Loaded, prompt: str, word: str, path: Path) -> None:
    """The first token's distribution at five temperatures, sorted, and where the nucleus cuts it.

    `word` is the first one of the greedy text: tokens are pieces, and the most likely may be only its beginning.
    """
    logits = step(loaded.model, checked_ids(loaded, prompt), None)  # (1, vocab)
    figure, axis = plt.subplots(figsize=(8, 5.5), layout="constrained")
    for temperature, colour in TEMPERATURES.items():
        log_probs = at_temperature(logits, temperature)
        probs = log_probs[0].exp().sort(descending=True).values
        kept = int(nucleus(log_probs, torch.tensor([[TOP_P]], dtype=torch.float64)).isfinite().sum())
        shown = int((probs >= LEAST).sum())
        axis.plot(range(1, kept + 1), probs[:kept], color=colour, linewidth=2.5)
        axis.plot(range(kept, shown + 1), probs[kept - 1:shown], color=colour, linewidth=1, linestyle=":")
        axis.plot(kept, probs[kept - 1], "o", color=colour, label=f"T = {temperature:g}: {kept} kept")
    names = [token_name(loaded.tokenizer, token) for token in logits[0].topk(NAMED_TOKENS).indices.tolist()]
    piece = f'; "{names[0]}" is the first piece of "{word}"' if word.startswith(names[0]) and word != names[0] else ""
    axis.set(xscale="log", yscale="log", ylim=(LEAST, 2), ylabel="probability", xlabel="rank of the token, the likeliest first",
             title=f"The first token of the story at five temperatures{piece}")
    top = axis.secondary_xaxis("top")
    top.set_xticks(range(1, len(names) + 1), names, rotation=60, ha="left", rotation_mode="anchor")
    top.set_xticks([], minor=True)
    axis.legend(loc="upper right", title=f"The nucleus of {TOP_P} ends at the dot;\nwhat it drops is dotted")
    axis.grid(alpha=0.3)
    save(figure, path)


def text_logits(loaded: Loaded, result: dict) -> tuple[Tensor, Tensor]:
    """The first tokens (steps,) of a text, and the logits (steps, vocab) that they were chosen from."""
    ids = result["token_ids"][:SHOWN_STEPS]
    pieces = logits_along(loaded.model, checked_ids(loaded, result["prompt"]), ids)
    return torch.tensor(ids), torch.cat(list(pieces))


def along(loaded: Loaded, result: dict) -> tuple[list[float], list[float]]:
    """Of each token of a text the probability, and the entropy (nats) of the distribution that it was chosen from.

    That is the distribution after the temperature of the text's setting; greedy is taken to choose at T = 1.
    """
    ids, logits = text_logits(loaded, result)
    log_probs = at_temperature(logits, result["parameters"].get("temperature", 1.0))
    return log_probs.gather(1, ids[:, None])[:, 0].exp().tolist(), entropies(log_probs).tolist()


def draw_along(loaded: Loaded, texts: dict[str, dict], path: Path) -> None:
    """Token by token: how likely the chosen one was, and how open the choice. `texts` are results by their titles."""
    figure, axes = plt.subplots(len(texts), 1, figsize=(9, 2.5 * len(texts)), sharex=True, layout="constrained")
    for axis, (name, result) in zip(axes, texts.items(), strict=True):
        probs, entropy = along(loaded, result)
        axis.bar(range(len(probs)), probs, color=BLUE, width=1.0, label="probability of the chosen token")
        axis.set(title=f"{name}: median probability {statistics.median(probs):.2%}", ylabel="probability", ylim=(0, 1.03))
        right = axis.twinx()
        right.plot(entropy, color=ORANGE, label="entropy of the distribution it was chosen from (right axis)")
        right.set(ylabel="nats", ylim=(0, 1.03 * math.log(vocab_size(loaded.model))))  # one scale: equal probabilities
    axes[-1].set(xlabel="token")
    handles = [*axes[0].get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    figure.legend(handles, [handle.get_label() for handle in handles], loc="outside lower center", ncols=2)
    save(figure, path)


def draw_entropy(loaded: Loaded, greedy: dict, by_temperature: list[dict], path: Path) -> None:
    """Mean entropy of the distributions that are drawn from, against the temperature.

    A line for one fixed text, the greedy one; a dot for each text that was written at its own temperature.
    """
    _, logits = text_logits(loaded, greedy)
    temperatures = [10 ** (exponent / 20) for exponent in range(-60, 41)]  # 0.001 to 100
    entropy = [entropies(at_temperature(logits, temperature)).mean().item() for temperature in temperatures]
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    axis.plot(temperatures, entropy, color=BLUE, label="along the greedy story")
    for result in by_temperature:
        values = along(loaded, result)[1]
        axis.plot(result["parameters"]["temperature"], statistics.mean(values), "o", color=ORANGE)
    axis.plot([], [], "o", color=ORANGE, label="along the story drawn at that T")
    vocab = vocab_size(loaded.model)
    axis.axhline(math.log(vocab), color=GREY, linestyle="--", label=f"equal probabilities: ln {vocab} = {math.log(vocab):.2f}")
    axis.set(xscale="log", xlabel="temperature", ylabel="mean entropy, nats per token", ylim=(-0.2, 1.05 * math.log(vocab)),
             title=f"Entropy of the distribution drawn from, first {SHOWN_STEPS} tokens")
    axis.grid(alpha=0.3)
    axis.legend(loc="center left")
    save(figure, path)


# ----------------------------------------------------------------------------------------------------- the command


def result_of(path: Path, identity: dict, **setting: float) -> dict:
    """A task's first hedgehog story with this setting. Raises InputError where there is none."""
    for result in read_results(path, identity)["runs"]:
        if result["prompt"] == "hedgehog" and result["parameters"] == setting:
            return result
    raise InputError(f"{path} holds no hedgehog story with {setting}: run its script again")


def main() -> None:
    with one_line_errors():
        parser = Parser(__doc__)
        add_model_flags(parser)
        add_results_flag(parser)
        args = parser.parse_args()
        folder = model_folder(args.results, args.model, args.adapter)
        loaded = load_model(args.model, args.device, args.dtype, args.engine, args.adapter)
        rows = read_results(folder / "experiments.json", loaded.identity).get("rows", [])
        greedy = result_of(folder / "task1_greedy.json", loaded.identity)
        sampled = result_of(folder / "task2_sampling.json", loaded.identity)
        by_temperature = [result_of(folder / "task3_temperature.json", loaded.identity, temperature=temperature)
                          for temperature in TEMPERATURES]  # fmt: skip
        draw_tradeoff(rows, folder / "tradeoff.png")
        draw_top_p(rows, folder / "top_p.png")
        draw_step(loaded, "hedgehog", greedy["text"].partition(" ")[0], folder / "step.png")
        draw_along(loaded, {"greedy": greedy, "sampled at T = 1": sampled, "sampled at T = 10": by_temperature[-1]},
                   folder / "along.png")
        draw_entropy(loaded, greedy, by_temperature, folder / "entropy.png")
        print(f"tradeoff.png, top_p.png, step.png, along.png and entropy.png are in {folder}")


if __name__ == "__main__":
    main()
