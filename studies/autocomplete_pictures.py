"""Draw the pictures of the comparison of models that complete messages.

    python -m studies.autocomplete_pictures
    python -m studies.autocomplete_pictures --row n-gram

Reads results/<name>/evaluation.json, which evaluate_autocomplete.py writes, and writes PNG files beside it: along.png,
saved.png, sure.png, rouge.png, typed.png with the keys of one row, and learning.png where the models' folders told how they
learned.
"""

from support.errors import InputError, one_line_errors

from pathlib import Path
from typing import Any

from studies.drawing import plt, save
from support.colours import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY
from support.flags import Parser, add_results_flag, some_name, some_text
from support.results import read_json

from matplotlib.axes import Axes

Rows = dict[str, dict[str, Any]]
COLOURS = (BLUE, GREEN, ORANGE, PURPLE, SKY, "black")  # of the models, in their order
FAST = 20  # ms per key: what a person does not notice
SURE = 0.5  # the precision that a threshold is named for


def styles(rows: Rows) -> dict[str, dict[str, str]]:
    """The colour and marker of each row, the same in every picture; those that know nothing are grey."""
    models = [name for name in rows if name not in ("constant", "n-gram")]
    found = {name: {"color": COLOURS[i % len(COLOURS)], "marker": "os^Dv*"[i % 6]} for i, name in enumerate(models)}
    return {"constant": {"color": GREY, "marker": "x"}, "n-gram": {"color": GREY, "marker": "P"}, **found}


def measured(rows: Rows, figure: str) -> Rows:
    """The rows that have a figure. Raises InputError where none has."""
    found = {name: row for name, row in rows.items() if row["figures"].get(figure)}
    if not found:
        raise InputError(f"evaluation.json has no {figure}: run evaluate_autocomplete.py again")
    return found


def best(rows: Rows, figure: str, lowest: bool = False) -> tuple[str, float]:
    """The row with the highest value of a figure, or the lowest, and the value."""
    values = {name: row["figures"][figure]["value"] for name, row in measured(rows, figure).items()}
    name = (min if lowest else max)(values, key=values.get)
    return name, values[name]


def whiskers(figure: dict[str, float], scale: float = 1.0) -> tuple[float, list[list[float]]]:
    """A figure's value, and how far its interval reaches below and above it."""
    value, low, high = (scale * figure[key] for key in ("value", "low", "high"))
    return value, [[max(0.0, value - low)], [max(0.0, high - value)]]


# ------------------------------------------------------------------------------------------------ the pictures


def draw_along(rows: Rows, path: Path) -> None:
    """Bits per character of the first word of a message, the second, ..., and the bits of its end."""
    rows, look = measured(rows, "bits_per_character"), styles(rows)
    name, value = best(rows, "bits_per_character", lowest=True)
    figure, (axis, ends) = plt.subplots(1, 2, figsize=(9, 4.2), width_ratios=(3, 1), layout="constrained")
    for row, content in rows.items():
        words, total = content["along"]["words"], content["figures"]["bits_per_character"]["value"]
        axis.plot(range(1, len(words) + 1), words, **look[row], markersize=4, label=f"{row}: {total:.3f} in all")
    bars = ends.bar(range(len(rows)), [content["along"]["end"] for content in rows.values()],
                    color=[look[row]["color"] for row in rows])  # fmt: skip
    ends.bar_label(bars, fmt="%.1f", fontsize=8)
    axis.set(title=f"What a letter costs along a message: {name} needs least, {value:.2f} bits", xlabel="word of the message",
             ylabel="bits per character", xticks=range(1, 21))
    ends.set(title="and what the end costs", ylabel="bits", xticks=[])
    for panel in (axis, ends):
        panel.grid(alpha=0.3, axis="y")
    axis.legend(title="bits per character")
    save(figure, path)


def draw_learning(rows: Rows, path: Path) -> None:
    """Bits per character on validation messages over the messages that a model has learned from, of the rows that have it."""
    look, floor = styles(rows), rows["n-gram"]["figures"]["bits_per_character"]["value"]
    curves = {name: row["learning"] for name, row in rows.items() if row["learning"]}
    name = min(curves, key=lambda name: curves[name][-1][1])
    figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for row, points in curves.items():
        axis.plot(*zip(*points, strict=True), **look[row], markersize=4, label=row)
    axis.axhline(floor, color=GREY, linestyle="--", label="n-gram, all messages (on the test part)")
    axis.set(title=f"What more messages buy: {name} comes down to {curves[name][-1][1]:.2f} bits", xscale="log",
             xlabel="messages learned from, repeats counted", ylabel="bits per character, validation")
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)


def draw_saved(rows: Rows, path: Path) -> None:
    """Keystrokes saved against the time that a key takes, and against the size of the model."""
    rows, look = measured(rows, "keystrokes_saved"), styles(rows)
    name, value = best(rows, "keystrokes_saved")
    bound = next(iter(rows.values()))["figures"]["keystrokes_bound"]["value"]
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), sharey=True, layout="constrained")
    figure.suptitle(f"Keystrokes saved by three chips, and what they cost: {name} saves most, {value:.1%}\n"
                    f"(no more than {bound:.1%} can be saved)".replace("%", r" %"))
    for place, (row, content) in enumerate(rows.items()):
        saved, reach = whiskers(content["figures"]["keystrokes_saved"], 100)
        if row == "constant":
            for axis in axes:
                axis.axhline(saved, color=GREY, linestyle="--")
            axes[1].annotate("constant: the most frequent words", (0.98, saved), (0, 4), fontsize=8, color=GREY, ha="right",
                             xycoords=("axes fraction", "data"), textcoords="offset points")
            continue
        for axis, x in zip(axes, (content["key_ms"]["p95"], content["bytes"] / 1e6), strict=True):
            axis.errorbar(x, saved, yerr=reach, **look[row], linestyle="none", capsize=3)
            axis.annotate(row, (x, saved), (7, -13 if place % 2 else 5), textcoords="offset points",
                          color=look[row]["color"])
    axes[0].axvline(FAST, color=GREY, linestyle=":")
    axes[0].annotate(f"{FAST} ms", (FAST, 0.02), (3, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
                     color=GREY)
    axes[0].set(xlabel="ms per key (95 of 100 are faster)", ylabel="keystrokes saved, %")
    axes[1].set(xlabel="size, MB")
    for axis in axes:
        axis.set_xscale("log")
        axis.margins(x=0.3, y=0.15)
        axis.grid(alpha=0.3)
    save(figure, path)


def draw_sure(rows: Rows, path: Path) -> None:
    """How right the first chip is where only chips above a threshold are shown, and whether its probability can be believed."""
    rows, look = measured(rows, "right_in_1"), styles(rows)
    shown = {name: max((point["coverage"] for point in row["coverage"] if point["precision"] >= SURE), default=0.0)
             for name, row in rows.items()}  # fmt: skip
    name = max(shown, key=shown.get)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
    figure.suptitle(f"Offered only when sure: on {100 * shown[name]:.0f} % of next words {name} is right half of the time")
    for row, content in rows.items():
        points = content["coverage"]
        left.plot([100 * point["coverage"] for point in points], [100 * point["precision"] for point in points],
                  color=look[row]["color"], linestyle="--" if row == "constant" else "-", label=row)
        if row != "constant":
            bins, error = content["calibration"]["bins"], content["calibration"]["error"]
            right.plot([one["prob"] for one in bins], [one["right"] for one in bins], **look[row], markersize=4,
                       label=f"{row}: {100 * error:.1f} points off")
    left.axhline(100 * SURE, color=GREY, linestyle=":")
    left.set(title="raising the threshold: fewer words, righter ones", xlabel="next words that are offered, %",
             ylabel="of these right, %", xlim=(0, 102), ylim=(0, 100))
    right.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    right.set(title="believable: near the dotted line", xlabel="the first chip's probability", ylabel="how often it was right",
              xlim=(0, 1), ylim=(0, 1))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    save(figure, path)


def draw_rouge(rows: Rows, path: Path) -> None:
    """ROUGE of the rest of a message, with a line where an answer stands that never changes."""
    rows, look = measured(rows, "rouge_1"), styles(rows)
    floor = rows["constant"]["figures"]
    models = {name: row for name, row in rows.items() if name != "constant"}
    below = sum(row["figures"]["rouge_1"]["value"] < floor["rouge_1"]["value"] for row in models.values())
    figure, axis = plt.subplots(figsize=(9, 4.6), layout="constrained")
    width = 0.8 / max(1, len(models))
    for i, (name, row) in enumerate(models.items()):
        for place, part in enumerate("12L"):
            value, reach = whiskers(row["figures"][f"rouge_{part}"])
            x = place + (i - (len(models) - 1) / 2) * width
            axis.bar(x, value, width, color=look[name]["color"], label=None if place else name, yerr=reach, capsize=3)
    for place, part in enumerate("12L"):
        value = floor[f"rouge_{part}"]["value"]
        axis.plot((place - 0.48, place + 0.48), (value, value), color="black", linestyle="--",
                  label=None if place else "constant: the same seven words, always")
    axis.set(title=f"ROUGE of the last quarter: in ROUGE-1 {below} of {len(models)} fall below an answer that never changes",
             ylabel="F-measure", xticks=range(3), xticklabels=("ROUGE-1", "ROUGE-2", "ROUGE-L"))
    axis.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=(len(models) + 2) // 2)
    save(figure, path)


def draw_typed(name: str, example: dict, path: Path) -> None:
    """A message key by key: the text so far, the three chips, and the one that is taken."""
    steps, text = example["keys"], example["text"]
    figure, axis = plt.subplots(figsize=(9, 0.8 + 0.26 * len(steps)), layout="constrained")
    axis.set(xlim=(0, 10), ylim=(len(steps) - 0.5, -0.5))
    axis.axis("off")
    axis.set_title(f'{name}, "{text}": {len(steps)} keys instead of {len(text)} letters and blanks', loc="left", fontsize=11)
    for line, step in enumerate(steps):
        axis.text(0, line, f"{step['text']}▏", fontsize=9, va="center", family="monospace")
        for i, chip in enumerate(step["chips"]):
            write_chip(axis, 5.6 + 1.5 * i, line, chip, chip == step["taken"])
    save(figure, path)


def write_chip(axis: Axes, x: float, y: float, chip: str, taken: bool) -> None:
    axis.text(x, y, chip, fontsize=9, va="center", ha="center", color="white" if taken else "black",
              bbox={"boxstyle": "round,pad=0.25", "fc": BLUE if taken else "white", "ec": BLUE if taken else GREY})


# ------------------------------------------------------------------------------------------------ the command


def main() -> None:
    with one_line_errors():
        parser = Parser(__doc__)
        parser.add_argument("--row", type=some_text, metavar="NAME",
                            help="whose chips typed.png shows (default: the first model after constant and n-gram)")
        parser.add_argument("--name", type=some_name, default="autocomplete", metavar="NAME",
                            help="the folder in --results, as evaluate_autocomplete.py was told (default: %(default)s)")
        add_results_flag(parser)
        args = parser.parse_args()
        folder = args.results / args.name
        rows = read_json(folder / "evaluation.json").get("rows", {})
        name = args.row or next((name for name in rows if name not in ("constant", "n-gram")), "n-gram")
        if name not in rows:
            raise InputError(f"evaluation.json has no row {name}: it has {', '.join(rows) or 'none'}")
        draw_along(rows, folder / "along.png")
        if any(row["learning"] for row in rows.values()):
            draw_learning(rows, folder / "learning.png")
        draw_saved(rows, folder / "saved.png")
        draw_sure(rows, folder / "sure.png")
        if any(row["figures"]["rouge_1"] for row in rows.values()):  # else no message was long enough to be cut in two
            draw_rouge(rows, folder / "rouge.png")
        draw_typed(name, rows[name]["example"], folder / "typed.png")
        print(f"the pictures are in {folder}")


if __name__ == "__main__":
    main()
