"""The comparison of models that complete messages as one table for people, made of evaluation.json alone."""

from typing import Any

Figures = dict[str, Any]
HEADS = ("row", "parameters", "MB", "bits per character", "perplexity per token", "next word in 1, %", "in 3, %",
         "keystrokes saved, %", "rest in 1, %", "in 5, %", "ROUGE-1 / 2 / L", "end: precision / recall, %", "length",
         "ms per key, p50 / p95")  # fmt: skip


def table(summary: dict) -> str:
    """Markdown: a line for each row of the comparison, 95 % intervals in parentheses, and what its figures mean."""
    lines = [line(name, row) for name, row in summary["rows"].items()]
    bound = next(iter(summary["rows"].values()))["figures"]["keystrokes_bound"]
    counts = ", ".join(f"{name} {row['messages']['typed']:,}" for name, row in summary["rows"].items())
    return "\n".join((
        f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|", *(f"| {' | '.join(cells)} |" for cells in lines), "",
        f"{summary['num_messages']:,} messages of {summary['num_words']:,} words, for bits and ends; words, keystrokes and "
        f"rests on the first of them by hash: {counts}. Perplexity compares only rows of one vocabulary. Of keystrokes no more "
        f"than {percent(bound)} % can be saved: a word is one at least. length: words written over words wanted, greedily, at "
        f"most {summary['cap']} tokens; rest in 1 and 5: by {summary['beams']} beams.", ""))


def line(name: str, row: dict) -> list[str]:
    """The cells of a row."""
    found = row["figures"]
    rouge = " / ".join(number(found[f"rouge_{n}"], 3, with_interval=False) for n in "12L")
    ends = " / ".join(percent(found[f"end_{name}"], with_interval=False) for name in ("precision", "recall"))
    return [name, f"{row['parameters']:,}", f"{row['bytes'] / 1e6:.1f}", number(found["bits_per_character"], 3),
            number(found["perplexity"], 1, with_interval=False), percent(found["right_in_1"]), percent(found["right_in_3"]),
            percent(found["keystrokes_saved"]), percent(found["rest_in_1"]), percent(found["rest_in_5"]), rouge, ends,
            number(found["length_ratio"], 2, with_interval=False),
            f"{row['key_ms']['p50']:.1f} / {row['key_ms']['p95']:.1f}"]  # fmt: skip


def percent(figure: Figures | None, with_interval: bool = True) -> str:
    return number(figure and {key: 100 * value for key, value in figure.items()}, 1, with_interval)


def number(figure: Figures | None, digits: int, with_interval: bool = True) -> str:
    """A figure with its interval, a dash where there is none."""
    if figure is None:
        return "–"
    value, low, high = (f"{figure[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low}–{high})" if with_interval and low != high else value
