"""The tables of docs/autocomplete.md: figures of evaluate_autocomplete.py and studies.remembered as Markdown.

A language is 0 for English, 1 for Russian. A row that was not measured has no line, a figure that was not has a dash.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from studies.doc_tables import Snapshot, number, percent, table
from studies.labels import MESSAGE_ROWS, Pair

Figure = dict[str, float] | None


class Column(NamedTuple):
    """A column of a comparison: its head, and what stands in it for a row of evaluation.json."""

    head: Pair
    cell: Callable[[dict[str, Any], int], str]


def with_interval(figure: Figure, show: Callable[[float, int], str], language: int) -> str:
    """A figure and its 95 % interval."""
    if figure is None:
        return "–"
    value, low, high = (show(figure[key], language) for key in ("value", "low", "high"))
    return f"{value} ({low}–{high})" if low != high else value


def share(name: str, head: Pair) -> Column:
    """A figure in percent, with its interval."""
    return Column(head, lambda row, language: with_interval(row["figures"][name], points, language))


def points(value: float, language: int) -> str:
    """A share in percent with one decimal, without the sign."""
    return number(100 * value, 1, language)


def bits(name: str, head: Pair) -> Column:
    """A figure with three decimals, with its interval."""
    return Column(head, lambda row, language: with_interval(row["figures"][name], three, language))


def three(value: float, language: int) -> str:
    return number(value, 3, language)


def rouge(row: dict, language: int) -> str:
    return " / ".join(three(row["figures"][f"rouge_{part}"]["value"], language) for part in "12L")


def bare(name: str, digits: int, head: Pair) -> Column:
    """A figure without its interval."""
    def cell(row: dict, language: int) -> str:
        return number(row["figures"][name]["value"], digits, language) if row["figures"][name] else "–"
    return Column(head, cell)


def bare_share(name: str, head: Pair) -> Column:
    """A figure in percent, without its interval."""
    return Column(head, lambda row, language: points(row["figures"][name]["value"], language))


def parameters(row: dict, language: int) -> str:
    return f"{number(row['parameters'] / 1e6, 1, language)}, {number(row['bytes'] / 1e6, 1, language)}"


def key_times(row: dict, language: int) -> str:
    return " / ".join(number(row["key_ms"][name], 1, language) for name in ("p50", "p95"))


WORDS = (
    bits("bits_per_character", ("bits per character", "бит на знак")),
    share("right_in_1", ("next word right in 1, %", "следующее слово с 1 попытки, %")),
    share("right_in_3", ("in 3, %", "с 3, %")),
    share("keystrokes_saved", ("keystrokes saved, %", "сбережено нажатий, %")),
)
SHORT = (
    bare("bits_per_character", 3, ("bits per character", "бит на знак")),
    bare_share("right_in_1", ("next word right, %", "следующее слово верно, %")),
    bare_share("keystrokes_saved", ("keystrokes saved, %", "сбережено нажатий, %")),
    Column(("ms per key, p50 / p95", "мс на нажатие, p50 / p95"), key_times),
)
RESTS = (
    share("rest_in_1", ("last quarter exact in 1, %", "последняя четверть дословно с 1, %")),
    share("rest_in_5", ("in 5, %", "с 5, %")),
    Column(("ROUGE-1 / 2 / L", "ROUGE-1 / 2 / L"), rouge),
    bare("length_ratio", 2, ("words written over wanted", "написано слов на нужное")),
)
ENDS = (
    share("end_precision", ("end: precision, %", "конец: точность, %")),
    share("end_recall", ("recall, %", "полнота, %")),
    Column(("first chip's probability is off by, points", "вероятность первого слова ошибается на, пунктов"),
           lambda row, language: points(row["calibration"]["error"], language)),
    bare("perplexity", 1, ("perplexity per token", "перплексия на токен")),
)
COSTS = (
    Column(("parameters, millions; MB", "параметров, млн; МБ"), parameters),
    Column(("ms per key, p50 / p95", "мс на нажатие, p50 / p95"), key_times),
    share("keystrokes_saved", ("keystrokes saved, %", "сбережено нажатий, %")),
)
ABLATION = (
    bits("bits_per_character", ("bits per character, all", "бит на знак, всё")),
    bits("rest_bits_per_character", ("of the last quarter and the end", "последней четверти и конца")),
    Column(("parameters, millions; MB", "параметров, млн; МБ"), parameters),
)


def row_name(name: str, language: int) -> str:
    return MESSAGE_ROWS.get(name, (name, name))[language]


def rows_of(snapshot: Snapshot, name: str) -> dict[str, dict]:
    """The rows of an evaluation in the order of MESSAGE_ROWS."""
    rows = snapshot.json(f"{name}/evaluation.json")["rows"]
    return {row: rows[row] for row in sorted(rows, key=lambda row: (*MESSAGE_ROWS, row).index(row))}


def comparison(snapshot: Snapshot, name: str, columns: tuple[Column, ...], language: int) -> str:
    """A line per row of the evaluation in results/shipped/<name>/."""
    lines = [[row_name(row, language), *(column.cell(content, language) for column in columns)]
             for row, content in rows_of(snapshot, name).items()]
    return table([[("model", "модель")[language], *(column.head[language] for column in columns)], *lines])


def learning_table(snapshot: Snapshot, name: str, language: int) -> str:
    """Bits per character on validation messages after so many messages, of each row whose training told it."""
    lines = []
    for row, content in rows_of(snapshot, name).items():
        points_ = [f"{count:,}".replace(",", " ") + f": {three(value, language)}" for count, value in content["learning"] or []]
        if points_:
            lines.append([row_name(row, language), "; ".join(points_)])
    return table([[("model", "модель")[language], ("messages seen: bits per character", "сообщений: бит на знак")[language]],
                  *lines])


def pairs_table(snapshot: Snapshot, name: str, pairs: tuple[tuple[str, str], ...], language: int) -> str:
    """Paired differences of two rows on the messages that both were measured on."""
    found = {(pair["row"], pair["minus"], pair["figure"]): pair for pair in snapshot.json(f"{name}/evaluation.json")["pairs"]}
    heads = {"bits_per_character": three, "right_in_1": points, "right_in_3": points, "keystrokes_saved": points}
    lines = [[f"{row_name(one, language)} − {row_name(other, language)}",
              *(difference(found, one, other, figure, show, language) for figure, show in heads.items())]
             for one, other in pairs]
    return table([[("difference", "разность")[language], *(column.head[language] for column in WORDS)], *lines])


def difference(found: dict, one: str, other: str, figure: str, show: Callable[[float, int], str], language: int) -> str:
    """one minus other, whichever way round it was measured."""
    sign = 1 if (one, other, figure) in found else -1
    pair = found.get((one, other, figure)) or found[other, one, figure]
    low, high = sorted(sign * pair[key] for key in ("low", "high"))
    return f"{show(sign * pair['value'], language)} ({show(low, language)} … {show(high, language)})"


def remembered_table(snapshot: Snapshot, name: str, language: int) -> str:
    """How often the last quarter of a message is reproduced word for word: learned messages beside held-out ones."""
    labels = {"train": ("learned from", "обучающие"), "test": ("held out", "отложенные")}
    lines = []
    for part, counts in snapshot.json(f"{name}/remembered.json")["parts"].items():
        lines.append([labels[part][language], *(f"{one['exact']} / {one['messages']} ({percent_of(one, language)})"
                                                for one in counts.values())])
    heads = (("last quarter of 1 word", "2 words", "3 words or more"),
             ("последняя четверть: 1 слово", "2 слова", "3 слова и более"))  # fmt: skip
    return table([[("messages", "сообщения")[language], *heads[language]], *lines])


def percent_of(one: dict, language: int) -> str:
    return percent(one["exact"] / max(1, one["messages"]), language) + " %"
