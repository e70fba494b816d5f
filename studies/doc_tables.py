"""The tables of the documents: figures of the results files as Markdown.

A language is 0 for English, 1 for Russian, which has decimal commas; the labels are in studies/labels.py.
"""

from support.errors import ROOT, InputError

import json
import statistics
from pathlib import Path

from common import RIGHT_JSON
from data.corpus.judging import judge_json
from studies.labels import (
    BEAM_COLUMNS,
    CANDIDATE_COLUMNS,
    EVALUATION_HEADS,
    EVALUATION_LINES,
    HELD_OUT_BEAM_COLUMNS,
    NAMES,
    PLAIN,
    SETTING,
    SHAKESPEARE,
    SPEED_HEADS,
    SPEED_MODELS,
    SPEED_WORKS,
    STEP_RATIOS,
    TRAINING_COLUMNS,
    TRAINING_STEP,
    YES_NO,
    Pair,
)
from support.results import read_json

SHIPPED = ROOT / "results" / "shipped"


class Snapshot:
    """The results files that the documents quote: what is shipped, or `fresh` files that are about to be, by name."""

    def __init__(self, shipped: Path = SHIPPED, fresh: dict[str, Path] | None = None) -> None:
        """`fresh`: "generator/experiments.json" -> where that file is now."""
        self.shipped, self.fresh, self.parsed = shipped, fresh or {}, {}

    def path(self, name: str) -> Path:
        """Where the file called "<model>/<file>" is."""
        return self.fresh.get(name, self.shipped / name)

    def json(self, name: str) -> dict:
        """A results file, parsed once for all the parts that quote it. Raises InputError where it is missing or corrupt."""
        if name not in self.parsed:
            self.parsed[name] = read_json(self.path(name))
        return self.parsed[name]

    def lines(self, name: str) -> list[dict]:
        """A file of one JSON object per line. Raises InputError where it is missing or corrupt."""
        try:
            return [json.loads(line) for line in self.path(name).read_text("utf-8").splitlines()]
        except OSError as error:
            raise InputError(f"there is no {self.path(name)}") from error
        except ValueError as error:
            raise InputError(f"{self.path(name)} is corrupt") from error


# ----------------------------------------------------------------------------------------------------------- numbers


def number(value: float, digits: int, language: int) -> str:
    """A number with so many decimals, a real minus sign, and the language's decimal sign."""
    text = f"{round(value, digits) + 0:.{digits}f}".replace("-", "−")  # + 0 turns -0.0 into 0.0
    return text.replace(".", ",") if language else text


def percent(share: float, language: int) -> str:
    """A share in percent, without the sign: one decimal if it is not zero; below 1 % two significant digits."""
    value = 100 * share
    text = f"{value:.2g}" if 1e-2 <= value < 1 else f"{value:.1f}".removesuffix(".0")
    return text.replace(".", ",") if language else text


def cell(figure: dict | int, is_share: bool, language: int) -> str:
    """A figure with its 95 % interval, where it has one that the digits can show; a count as it is."""
    if not isinstance(figure, dict):
        return str(figure)
    value, low, high = (percent(figure[key], language) if is_share else number(figure[key], 2, language)
                        for key in ("value", "low", "high"))
    between = "–" if figure["low"] >= 0 else " … "
    return value + " %" * is_share + (f" ({low}{between}{high})" if low != high else "")


def setting_name(setting: dict, language: int) -> str:
    """A setting in words: {"temperature": 0.5, "top_p": 0.9} -> "temperature 0.5, top_p 0.9"."""
    named = [f"{NAMES.get(name, (name, name))[language]} {plain(value, language)}" for name, value in setting.items()]
    return (", ", "; ")[language].join(named) or PLAIN[language]


def plain(value: float, language: int) -> str:
    """A setting's value, without needless zeros, with the language's decimal sign."""
    text = f"{value:g}"
    return text.replace(".", ",") if language else text


# ------------------------------------------------------------------------------------------------------------ tables


def table(rows: list[list[str]]) -> str:
    """Markdown: the first row is the head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body]) + "\n"


def heads(labels: tuple[Pair, ...], language: int) -> list[str]:
    """A table's head: the setting, then the labels."""
    return [SETTING[language], *(label[language] for label in labels)]


def draws(snapshot: Snapshot, kind: str, temperature: float, top_p: float) -> dict:
    """The figures of a kind of request at a setting. Raises InputError where they were not measured."""
    for row in snapshot.json("generator/experiments.json")["rows"]:
        if (row["what"], row["kind"]) == ("draws", kind):
            if (row["setting"]["temperature"], row["setting"]["top_p"]) == (temperature, top_p):
                return row
    raise InputError(f"experiments.json holds no {kind} at temperature {temperature:g}, top_p {top_p:g}: run it to its end")


def exact(row: dict, name: str) -> dict | int:
    """A figure of a row; without its interval where all answers were the same text, for then nothing was drawn."""
    figure = row[name]
    if isinstance(figure, dict) and row["distinct_texts"] == 1:
        return {key: figure["value"] for key in figure}
    return figure


def draws_table(snapshot: Snapshot, settings: list[dict], columns: dict, language: int) -> str:
    """A line per setting, a column per (kind of request, figure)."""
    rows = [heads(tuple(label for label, _ in columns.values()), language)]
    for setting in settings:
        key = (setting.get("temperature", 1.0), setting.get("top_p", 1.0))
        figures = [cell(exact(draws(snapshot, kind, *key), name), is_share, language)
                   for (kind, name), (_, is_share) in columns.items()]
        rows.append([setting_name(setting, language), *figures])
    return table(rows)


def top_p_table(snapshot: Snapshot, language: int) -> str:
    """The sweep of top_p at temperature 1: how many different stories 200 seeds write."""
    found = {row["setting"]["top_p"]: row for row in snapshot.json("generator/experiments.json")["rows"]
             if (row["what"], row["kind"]) == ("draws", "hedgehog") and row["setting"]["temperature"] == 1}
    return table([["top_p", ("different stories of 200", "разных сказок из 200")[language]],
                  *([plain(top_p, language), str(found[top_p]["distinct_texts"])] for top_p in sorted(found))])


# ------------------------------------------------------------------------------------------------------------- beams


def searches(snapshot: Snapshot, kind: str) -> list[list[dict]]:
    """Of each request of a kind the winners of all beam searches. Raises InputError where there are none."""
    for row in snapshot.json("generator/experiments.json")["rows"]:
        if (row["what"], row["kind"]) == ("beams", kind):
            return row["searches"]
    raise InputError(f"experiments.json holds no beam searches of {kind}: run it to its end")


def winners(snapshot: Snapshot, kind: str, setting: dict) -> list[dict]:
    """Of each request of a kind the winner at a setting."""
    return [next(one for one in search if one.items() >= setting.items()) for search in searches(snapshot, kind)]


def beams_table(snapshot: Snapshot, settings: list[dict], language: int) -> str:
    """What beam search chose on the exercise's two prompts."""
    results = {(run["prompt"], *run["parameters"].values()): run
               for run in snapshot.json("generator/task5_beam.json")["runs"]}
    rows = [heads(BEAM_COLUMNS, language)]
    for setting in settings:
        story, transfer = (results[prompt, *setting.values()] for prompt in ("hedgehog", "json"))
        rows.append([setting_name(setting, language), number(story["log_prob"], 2, language), str(story["new_tokens"]),
                     YES_NO[transfer["json_correct"]][language],
                     f"{len(story['candidates'])}, {len(transfer['candidates'])}"])
    return table(rows)


def held_out_beams_table(snapshot: Snapshot, settings: list[dict], language: int) -> str:
    """Beam search on held-out requests, counted: transfers that are right, stories likelier and less likely than greedy's."""
    rows = [heads(HELD_OUT_BEAM_COLUMNS, language)]
    greedy = [story["log_prob"] for story in winners(snapshot, "held-out stories", {"num_beams": 1, "length_penalty": 1.0})]
    for setting in settings:
        stories, transfers = (winners(snapshot, kind, setting) for kind in ("held-out stories", "held-out transfers"))
        gains = [story["log_prob"] - plain for story, plain in zip(stories, greedy, strict=True)]
        counts = [sum(one["right"] for one in transfers), sum(gain > 1e-6 for gain in gains),
                  sum(gain < -1e-6 for gain in gains), sum(one["kept"] for one in stories)]
        totals = [len(transfers), *[len(stories)] * 3]
        of = ("of", "из")[language]
        rows.append([setting_name(setting, language),
                     *(f"{count} {of} {total}" for count, total in zip(counts, totals, strict=True))])
    return table(rows)


def candidates_table(snapshot: Snapshot, setting: dict, language: int) -> str:
    """The finished candidates of a beam search for the JSON, best first: how likely each is, and whether it is right."""
    run = next((run for run in snapshot.json("generator/task5_beam.json")["runs"]
                if (run["prompt"], run["parameters"]) == ("json", setting)), None)
    if run is None:
        raise InputError(f"task5_beam.json holds no JSON with {setting_name(setting, 0)}")
    rows = [[label[language] for label in CANDIDATE_COLUMNS]]
    for place, one in enumerate(run["candidates"], 1):
        right = judge_json(one["text"], RIGHT_JSON)[1]
        rows.append([str(place), number(one["score"], 4, language), number(one["log_prob"], 4, language), str(one["length"]),
                     YES_NO[right][language]])
    return table(rows)


# ------------------------------------------------------------------- decoder and speed, whose pages are in English only


def evaluation_table(snapshot: Snapshot, language: int) -> str:
    """What evaluate_generator.py measured of the shipped decoder."""
    summary = snapshot.json("generator/evaluation.json")["summary"]
    return table([list(EVALUATION_HEADS),
                  *([label, shape.format(summary[name])] for name, (label, shape) in EVALUATION_LINES.items())])


def training_table(snapshot: Snapshot, name: str, language: int) -> str:
    """The evaluations of a training, from its metrics."""
    evaluations = [[f"{row[name]:{shape}}" for name, (_, shape) in TRAINING_COLUMNS.items()]
                   for row in snapshot.lines(name) if "validation_loss" in row]
    return table([[label for label, _ in TRAINING_COLUMNS.values()], *evaluations])


def speed_table(snapshot: Snapshot, language: int) -> str:
    """What studies/benchmarks measured side by side: transformers' generate, nanoGPT's training step and whole training."""
    decoding = [(label, snapshot.json(f"{model}/decoding_speed_{dtype}.json")["rows"])
                for (model, dtype), label in SPEED_MODELS.items()]
    steps, shakespeare = (snapshot.json(f"generator/{name}.json") for name in ("nanogpt_speed", "shakespeare"))
    losses = {name: statistics.median(run["validation_loss"] for run in runs) for name, runs in shakespeare["runs"].items()}
    return table([
        list(SPEED_HEADS),
        *([beside, SPEED_WORKS[row["work"]], f"{row['ratio']:.2f}"] for beside, works in decoding for row in works),
        *(["nanoGPT", TRAINING_STEP.format(**row), STEP_RATIOS.format(**row)] for row in steps["rows"]),
        ["nanoGPT", SHAKESPEARE.format(**losses), f"{1 / shakespeare['time_ratio']:.2f}"],
    ])
