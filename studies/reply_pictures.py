"""Draw the pictures of replies with a wanted tone and category.

    python -m studies.reply_pictures
    python -m studies.reply_pictures --name bitext --row token-g2

Reads results/<name>/evaluation.json of evaluate_replies.py and heads.json of studies.reply_heads, and writes PNG files beside
them: price.png, accuracy against perplexity as guidance or the number of candidates grows; matrix.png, tones asked and got, of
one row; optimised.png, what a model's own head and an independent judge say of the best of n; pooling.png and tokens.png, heads
by the token that they read and by how many stand before it. What was not measured is not drawn.
"""

from support.errors import InputError, one_line_errors

from collections.abc import Callable
from pathlib import Path

from studies.autocomplete_pictures import COLOURS, whiskers
from studies.drawing import plt, save
from studies.reply_cases import REAL, SAFE
from support.colours import BLUE, GREEN, GREY, ORANGE
from support.flags import Parser, add_results_flag, some_name, some_text
from support.results import read_json

import numpy as np

Rows = dict[str, dict]


def accuracy(row: dict) -> dict[str, float]:
    """How often the tone came that was asked and that the real reply has not; without real replies, any tone."""
    tone = row["figures"]["control"]["tone"]
    return tone["differs"] or tone["all"]


def curves(rows: Rows) -> dict[tuple[str, str], list[dict]]:
    """By ("guidance" or "candidates", model) the rows in which that alone differs from 1, and the one in which nothing does, in
    the order of that setting; two at least."""
    found = {}
    for setting, other in (("guidance", "candidates"), ("candidates", "guidance")):
        for base in dict.fromkeys(row["base"] for row in rows.values()):
            line = [row for row in rows.values() if row["base"] == base and row[other] == 1]
            if len(line) > 1:
                found[setting, base] = sorted(line, key=lambda row: row[setting])
    return found


# ------------------------------------------------------------------------------------------------ the pictures


def draw_price(rows: Rows, path: Path) -> bool:
    """Accuracy of the tone against the perplexity of what was written, a line for each model and setting."""
    lines = {key: line for key, line in curves(rows).items() if all(row["figures"]["perplexity"]["written"] for row in line)}
    if not lines:
        return False
    figure, axis = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for (setting, base), line in lines.items():
        colour = COLOURS[list(dict.fromkeys(name for _, name in lines)).index(base) % len(COLOURS)]
        x, y = ([point(row) for row in line] for point in (price, lambda row: 100 * accuracy(row)["value"]))
        sign = "γ" if setting == "guidance" else "n"
        axis.plot(x, y, color=colour, linestyle="-" if sign == "γ" else "--", marker="o" if sign == "γ" else "s", markersize=4,
                  label=f"{base}, {'guidance γ' if sign == 'γ' else 'best of n'}")
        for row, at in zip(line, zip(x, y, strict=True), strict=True):
            axis.annotate(f"{sign} = {row[setting]:g}", at, (5, -10), textcoords="offset points", fontsize=8, color=colour)
    if REAL in rows and rows[REAL]["figures"]["perplexity"]["written"]:
        axis.axvline(price(rows[REAL]), color=GREY, linestyle=":", label="perplexity of real replies")
    best = max((row for line in lines.values() for row in line), key=lambda row: accuracy(row)["value"])
    axis.set(title=f"What the tone costs: {100 * accuracy(best)['value']:.0f} % at a perplexity of {price(best):.1f}",
             xlabel="perplexity of the written replies, by another model",
             ylabel="asked tone that the real reply has not: got, %")
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)
    return True


def price(row: dict) -> float:
    return row["figures"]["perplexity"]["written"]["value"]


def draw_matrix(name: str, row: dict, path: Path) -> bool:
    """Which tones an independent judge got of those asked, in percent of each."""
    found = row["figures"]["control"]["tone"]["matrix"]
    counts = np.array(found["counts"], dtype=float)
    shares = 100 * counts / counts.sum(1, keepdims=True)
    figure, axis = plt.subplots(figsize=(1.5 + 1.1 * len(found["got"]), 1.8 + 0.8 * len(found["asked"])), layout="constrained")
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for place, value in np.ndenumerate(shares):
        axis.text(*place[::-1], f"{value:.0f}", ha="center", va="center", color="white" if value > 50 else "black")
    axis.set(title=f"{name}: {100 * row['figures']['control']['tone']['all']['value']:.0f} % of the tones as asked",
             xlabel="got, by an independent judge, %", ylabel="asked", xticks=range(len(found["got"])),
             yticks=range(len(found["asked"])), xticklabels=found["got"], yticklabels=found["asked"])  # fmt: skip
    save(figure, path)
    return True


def draw_optimised(rows: Rows, path: Path) -> bool:
    """How often the head that chooses and the judge that does not find the asked tone, as n grows."""
    lines = {base: line for (setting, base), line in curves(rows).items()
             if setting == "candidates" and all(row["figures"]["heads"].get("tone") for row in line)}  # fmt: skip
    if not lines:
        return False
    figure, axis = plt.subplots(figsize=(8, 4.4), layout="constrained")
    gaps = {}
    for colour, (base, line) in zip(COLOURS, lines.items(), strict=False):
        said = {who: [100 * row["figures"][part]["tone"]["all"]["value"] for row in line]
                for who, part in (("its own head", "heads"), ("the judge", "control"))}  # fmt: skip
        for who, style in (("its own head", "--"), ("the judge", "-")):
            axis.plot([row["candidates"] for row in line], said[who], color=colour, linestyle=style, marker="o", markersize=4,
                      label=f"{base}, by {who}")
        gaps[base] = said["its own head"][-1] - said["the judge"][-1]
    name = max(gaps, key=gaps.get)
    axis.set(title=f"Best of n: {name}'s own head ends {gaps[name]:.0f} points above the judge", xscale="log",
             xlabel="candidates", ylabel="tone as asked, %")
    ticks = sorted({row["candidates"] for line in lines.values() for row in line})
    axis.set_xticks(ticks, labels=ticks, minor=False)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)
    return True


def draw_pooling(rows: Rows, path: Path, attribute: str = "tone") -> bool:
    """Heads learned on the last token's state, on the first one's, and the share of the commonest label."""
    figure, axis = plt.subplots(figsize=(3 + 1.4 * len(rows), 4.4), layout="constrained")
    bars = {"last token": ("last", BLUE), "first token": ("first", ORANGE)}
    for place, (label, (pooling, colour)) in enumerate(bars.items()):
        for i, row in enumerate(rows.values()):
            value, reach = whiskers(row["new"][attribute][pooling], 100)
            axis.bar(i + 0.38 * (place - 0.5), value, 0.36, color=colour, yerr=reach, capsize=3, label=None if i else label)
    for i, row in enumerate(rows.values()):
        value = 100 * row["majority"][attribute]["value"]
        axis.plot((i - 0.45, i + 0.45), (value, value), color="black", linestyle="--", label=None if i else "commonest label")
    last, first = (max(row["new"][attribute][pooling]["value"] for row in rows.values()) for pooling in ("last", "first"))
    axis.set(title=f"Read the last token: {100 * last:.0f} %, the first: {100 * first:.0f} %", ylabel=f"{attribute} right, %",
             xticks=range(len(rows)), xticklabels=rows, ylim=(0, 105))
    axis.grid(alpha=0.3, axis="y")
    figure.legend(loc="outside lower center", ncols=3)
    save(figure, path)
    return True


def draw_tokens(rows: Rows, path: Path) -> bool:
    """How often the models' own heads are right after so many tokens of a real reply."""
    lines = {(name, attribute): list(found.values()) for name, row in rows.items() for attribute, found in row["read"].items()}
    if not lines:
        return False
    figure, axis = plt.subplots(figsize=(8, 4.4), layout="constrained")
    styles = dict(zip(dict.fromkeys(attribute for _, attribute in lines), ("-", "--", ":"), strict=False))
    colours = dict(zip(rows, (BLUE, GREEN, ORANGE, *COLOURS[3:]), strict=False))
    for name, attribute in lines:
        found = rows[name]["read"][attribute]
        axis.plot([int(length) for length in found], [100 * one["value"] for one in found.values()], marker="o", markersize=4,
                  linestyle=styles[attribute], color=colours.get(name, GREY), label=f"{name}, {attribute}")
    (name, attribute), line = max(lines.items(), key=lambda item: item[1][-1]["value"])
    axis.set(title=f"A beginning is enough to judge by? {attribute} of {name}: {100 * line[0]['value']:.0f} % after "
                   f"{next(iter(rows[name]['read'][attribute]))} tokens, {100 * line[-1]['value']:.0f} % at the end",
             xlabel="tokens of the reply that are read", ylabel="right on real replies, %")
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)
    return True


# ------------------------------------------------------------------------------------------------ the command


def main() -> None:
    with one_line_errors():
        parser = Parser(__doc__)
        parser.add_argument("--row", type=some_text, metavar="NAME",
                            help="whose tones matrix.png shows (default: the model that got most of those that differ)")
        parser.add_argument("--name", type=some_name, default="replies", metavar="NAME",
                            help="the folder in --results, as evaluate_replies.py was told (default: %(default)s)")
        add_results_flag(parser)
        args = parser.parse_args()
        folder = args.results / args.name
        rows = read_json(folder / "evaluation.json").get("rows", {})
        models = [name for name in rows if name not in (REAL, SAFE)] or list(rows)
        name = args.row or max(models, key=lambda name: accuracy(rows[name])["value"], default="")
        if name not in rows:
            raise InputError(f"evaluation.json has no row {name}: it has {', '.join(rows) or 'none'}")
        heads = read_json(folder / "heads.json")["rows"] if (folder / "heads.json").is_file() else {}
        pictures: dict[str, Callable[[Path], bool]] = {
            "price": lambda path: draw_price(rows, path), "matrix": lambda path: draw_matrix(name, rows[name], path),
            "optimised": lambda path: draw_optimised(rows, path),
            **({"pooling": lambda path: draw_pooling(heads, path), "tokens": lambda path: draw_tokens(heads, path)}
               if heads else {}),
        }  # fmt: skip
        drawn = [picture for picture, draw in pictures.items() if draw(folder / f"{picture}.png")]
        print(f"in {folder}: {', '.join(f'{picture}.png' for picture in drawn)}")


if __name__ == "__main__":
    main()
