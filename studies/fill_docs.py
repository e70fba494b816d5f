"""Write the derived parts of README.md and README.ru.md, tables and texts, anew from the files in results/generator/.

    python fill_readme.py

A derived part stands between `<!-- filled: name -->` and `<!-- end -->`; the names are those of PARTS below. Nothing in it is
written by hand, and a test fails when one of the two pages is stale.
"""

import argparse
import html
import json
import re
import statistics
import textwrap
from functools import cache, partial
from pathlib import Path

from common import InputError, one_line_errors, shorten, writing
from generator import write_text
from task3_temperature import SETTINGS as TEMPERATURES
from task4_nucleus import SETTINGS as NUCLEI
from task5_beam import SETTINGS as BEAMS

from experiments import mean

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results" / "generator"
PAGES = {"README.md": 0, "README.ru.md": 1}  # the place of the page's language in the (English, Russian) pairs
PART = re.compile(r"(<!-- filled: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
SHOWN_CHARACTERS = 700  # of a text that never ended

# Columns of the tables: where the figure is found: (its label, whether it is a share).
JSON_COLUMNS = {
    ("json", "valid"): (("JSON parses", "JSON разбирается"), True),
    ("json", "right"): (("JSON right", "JSON верен"), True),
    ("json", "distinct_texts"): (("different texts", "разных текстов"), False),
    ("held-out transfers", "right"): (("held-out transfers right", "отложенные переводы верны"), True),
}
STORY_COLUMNS = {
    ("hedgehog", "ended"): (("story ends", "сказка кончается"), True),
    ("hedgehog", "kept"): (("keeps its hero", "держит героя"), True),
    ("hedgehog", "distinct_texts"): (("different texts", "разных текстов"), False),
    ("hedgehog", "distinct_2"): (("distinct-2 of two stories", "distinct-2 двух сказок"), False),
    ("hedgehog", "repetition"): (("rep-4", "rep-4"), True),
    ("hedgehog", "log_prob"): (("log-probability of a token", "лог-вероятность токена"), False),
    ("hedgehog", "entropy"): (("entropy", "энтропия"), False),
    ("hedgehog", "outside"): (("draws outside the top 0.9", "выборы вне верхних 0,9"), True),
    ("held-out stories", "kept"): (("held-out stories keep their hero", "отложенные сказки держат героя"), True),
}
BEAM_COLUMNS = (
    ("story: log-probability", "сказка: лог-вероятность"), ("words", "слов"), ("JSON right", "JSON верен"),
    ("held-out transfers right", "отложенные переводы верны"),
    ("held-out stories likelier than greedy's", "отложенные сказки вероятнее жадной"),
    ("their words", "слов в них"), ("their rep-4", "их rep-4"), ("keep their hero", "держат героя"),
)  # fmt: skip
EVALUATION_LINES = {
    "transfers_exact": (("500 held-out transfers, greedy: the JSON exact",
                         "500 отложенных переводов, жадно: JSON в точности верен"), "{:.1%}"),
    "stories_ended": (("200 stories for held-out heroes, temperature 0.8, top_p 0.95: end within 400 tokens",
                       "200 сказок про отложенных героев, температура 0,8, top_p 0,95: кончаются за 400 токенов"), "{:.1%}"),
    "stories_keeping_name_and_animal": (("keep the asked name and animal to the end",
                                         "держат заданные имя и зверя до конца"), "{:.1%}"),
    "distinct_first_sentences": (("distinct first sentences", "разных первых предложений"), "{}"),
    "most_repeats_of_a_sentence": (("most repeats of one sentence within a story",
                                    "наибольшее число повторов предложения в сказке"), "{}"),
    "median_words": (("words in a story, median", "слов в сказке, медиана"), "{:g}"),
}  # fmt: skip
TRAINING_COLUMNS = {
    "step": (("step", "шаг"), "d"),
    "seconds": (("seconds", "секунд"), "d"),
    "train_loss": (("training loss", "потери на обучении"), ".3f"),
    "validation_loss": (("validation loss", "потери на проверке"), ".3f"),
    "perplexity": (("perplexity", "перплексия"), ".1f"),
}
SPEED_HEADS = (("beside", "с чем сравниваем"), ("work", "работа"),
               ("our speed over theirs", "наша скорость, делённая на их"))  # fmt: skip
SPEED_MODELS = {
    ("generator", "float32"): ("`generate`, the shipped decoder", "`generate`, приложенный декодер"),
    ("qwen-shape", "bfloat16"): ("`generate`, Qwen2.5-0.5B's shape, bfloat16", "`generate`, форма Qwen2.5-0.5B, bfloat16"),
    ("qwen-shape", "float32"): ("`generate`, Qwen2.5-0.5B's shape, float32", "`generate`, форма Qwen2.5-0.5B, float32"),
}  # fmt: skip
SPEED_WORKS = {
    "one greedy stream": ("one greedy text", "один жадный текст"),
    "eight sampled rows": ("eight sampled texts at once", "восемь проб сразу"),
    "the five tasks": ("all settings of the five tasks", "все настройки пяти задач"),
}
STEP = ("training step, {layers} layers of {width}, {rows} windows of {window}, {dtype}",
        "шаг обучения; слоёв {layers}, ширина {width}; окон {rows} по {window}; {dtype}")  # fmt: skip
STEP_RATIOS = ("{ratio_with_adamw_alone:.2f} with AdamW alone, {ratio:.2f} with Muon",
               "{ratio_with_adamw_alone:.2f} только с AdamW; {ratio:.2f} с Muon")  # fmt: skip
SHAKESPEARE = ("Shakespeare by characters, whole command; validation loss {ours:.2f}, nanoGPT's {nanogpt:.2f}",
               "Шекспир по символам, вся команда; потери на проверке {ours:.2f}, у nanoGPT {nanogpt:.2f}")  # fmt: skip
EVALUATION_HEADS = (("measured", "измерено"), ("result", "результат"))
JSON_HEADS = (("setting", "настройка"), ("answer", "ответ"), ("right", "верен"))
SETTING = ("setting", "настройка")
PLAIN = ("as it is", "как есть")
NAMES = {"temperature": ("temperature", "температура")}  # the others are called alike
SAMPLE = ("sample", "проба")
TOKENS = ("tokens", "токенов")
STORY = ("Story", "Сказка")
YES_NO = {True: ("yes", "да"), False: ("no", "нет")}
STOPS = {"eos": ("ended by itself", "кончилась сама"), "limit": ("cut off", "обрезана")}


def read_text(path: Path) -> str:
    """Raises InputError where the file is missing."""
    if not path.exists():
        raise InputError(f"there is no {path}: run the script that writes it first")
    return path.read_text("utf-8")


@cache
def read(path: Path) -> dict:
    """A result file, parsed once for all the cells that quote it. Raises InputError where it is missing."""
    return json.loads(read_text(path))


# ------------------------------------------------------------------------------------------------------------ tables


def table(rows: list[list[str]]) -> str:
    """Markdown: the first row is the head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body]) + "\n"


def cell(figure, is_share: bool, language: int) -> str:
    """A figure with its 95 % interval, where it has one; Russian has decimal commas."""
    if not isinstance(figure, dict):
        return str(figure)
    value, low, high = (100 * figure[key] if is_share else figure[key] for key in ("value", "low", "high"))
    if is_share:
        text, interval = f"{value:.1f}".removesuffix(".0") + " %", f" ({low:.0f}–{high:.0f})"
    else:
        text, interval = f"{value:.2f}", f" ({low:.2f}{'–' if low >= 0 else ' … '}{high:.2f})"
    text = (text + interval * (low < high)).replace("-", "−")
    return text.replace(".", ",") if language else text


def draws(kind: str, temperature: float, top_p: float) -> dict:
    """The figures of a kind of request at a setting. Raises InputError where they were not measured."""
    for row in read(RESULTS / "experiments.json")["rows"]:
        if (row["what"], row["kind"]) == ("draws", kind):
            if (row["setting"]["temperature"], row["setting"]["top_p"]) == (temperature, top_p):
                return row
    raise InputError(f"experiments.json holds no {kind} at temperature {temperature}, top_p {top_p}")


def exact(row: dict, name: str):
    """A figure of a row; without its interval where all answers were the same text, for then nothing was drawn."""
    figure = row[name]
    if isinstance(figure, dict) and row["distinct_texts"] == 1:
        return {key: figure["value"] for key in figure}
    return figure


def setting_name(setting: dict, language: int) -> str:
    named = [f"{NAMES.get(name, (name, name))[language]} {value:g}" for name, value in setting.items()]
    return ", ".join(named) or PLAIN[language]


def draws_table(settings: list[dict], columns: dict, language: int) -> str:
    """A line per setting, a column per (kind of request, figure)."""
    rows = [[SETTING[language], *(label[language] for label, _ in columns.values())]]
    for setting in settings:
        key = (setting.get("temperature", 1.0), setting.get("top_p", 1.0))
        figures = [cell(exact(draws(kind, *key), name), is_share, language)
                   for (kind, name), (_, is_share) in columns.items()]  # fmt: skip
        rows.append([setting_name(setting, language), *figures])
    return table(rows)


def beams_table(language: int) -> str:
    """A line per setting of the exercise: what beam search chose on its two prompts, and how it does on held-out ones."""
    searches = {row["kind"]: row["searches"] for row in read(RESULTS / "experiments.json")["rows"] if row["what"] == "beams"}
    rows = [[SETTING[language], *(label[language] for label in BEAM_COLUMNS)]]
    for setting in BEAMS:
        found = {kind: [next(one for one in search if one.items() >= setting.items()) for search in of_kind]
                 for kind, of_kind in searches.items()}  # fmt: skip
        story, stories, transfers = found["hedgehog"][0], found["held-out stories"], found["held-out transfers"]
        greedy = [search[0] for search in searches["held-out stories"]]  # one beam
        better = [one["log_prob"] > plain["log_prob"] + 1e-6 for one, plain in zip(stories, greedy, strict=True)]
        shares = [mean([float(one["right"]) for one in transfers]), mean([float(flag) for flag in better]),
                  mean([one["repetition"] for one in stories]), mean([float(one["kept"]) for one in stories])]  # fmt: skip
        right, likelier, repeated, kept = (cell(figure, True, language) for figure in shares)
        sums = {"value": story["log_prob"], "low": 0, "high": 0}
        rows.append([setting_name(setting, language), cell(sums, False, language), str(story["words"]),
                     YES_NO[found["json"][0]["right"]][language], right, likelier,
                     cell(mean([one["words"] for one in stories]), False, language), repeated, kept])  # fmt: skip
    return table(rows)


def evaluation_table(language: int) -> str:
    """What evaluate_generator.py measured of the shipped decoder."""
    summary = read(RESULTS / "evaluation.json")["summary"]
    rows = [(label[language], shape.format(summary[name]).replace(".", ".,"[language]))
            for name, (label, shape) in EVALUATION_LINES.items()]  # fmt: skip
    return table([[label[language] for label in EVALUATION_HEADS], *rows])


def training_table(path: Path, language: int) -> str:
    """The evaluations of a training, from its metrics.jsonl."""
    rows = [json.loads(line) for line in read_text(path).splitlines()]
    evaluations = [[f"{row[name]:{shape}}" for name, (_, shape) in TRAINING_COLUMNS.items()]
                   for row in rows if "validation_loss" in row]  # fmt: skip
    return table([[label[language] for label, _ in TRAINING_COLUMNS.values()], *evaluations])


def speed_table(language: int) -> str:
    """What benchmarks/ measured side by side: transformers' generate, nanoGPT's training step, nanoGPT's whole training."""
    decoding = [(label[language], read(RESULTS.parent / model / f"decoding_speed_{dtype}.json")["rows"])
                for (model, dtype), label in SPEED_MODELS.items()]  # fmt: skip
    steps, shakespeare = (read(RESULTS / f"{name}.json") for name in ("nanogpt_speed", "shakespeare"))
    losses = {name: statistics.median(run["validation_loss"] for run in runs) for name, runs in shakespeare["runs"].items()}
    rows = [
        *((beside, SPEED_WORKS[row["work"]][language], f"{row['ratio']:.2f}") for beside, works in decoding for row in works),
        *(("nanoGPT", STEP[language].format(**row), STEP_RATIOS[language].format(**row)) for row in steps["rows"]),
        ("nanoGPT", SHAKESPEARE[language].format(**losses), f"{1 / shakespeare['time_ratio']:.2f}"),
    ]
    text = table([[label[language] for label in SPEED_HEADS], *rows])
    return re.sub(r"(?<=\d)\.(?=\d)", ",", text) if language else text


# ------------------------------------------------------------------------------------------------------------- texts


def texts(task: str, settings: list[dict], language: int) -> str:
    """The texts of a task at the exercise's settings: stories folded, JSON in a table."""
    runs = [run for run in read(RESULTS / f"{task}.json")["runs"] if run["parameters"] in settings]
    runs.sort(key=lambda run: (settings.index(run["parameters"]), run["sample"]))
    rows = [[label[language] for label in JSON_HEADS]]
    for run in runs:
        if run["prompt"] == "json":
            rows.append([run_name(run, language), code(run["text"]), YES_NO[run["json_correct"]][language]])
    stories = [folded_text(run, language) for run in runs if run["prompt"] == "hedgehog"]
    return "\n".join([table(rows), *stories])


def run_name(run: dict, language: int) -> str:
    """What tells a run from the others of its task: the setting, or the number of the sample."""
    return setting_name(run["parameters"], language) if run["parameters"] else f"{SAMPLE[language]} {run['sample']}"


def code(text: str) -> str:
    """A text in a cell of a table: in one line, and at most its beginning."""
    return f"<code>{html.escape(shorten(text), quote=False).replace('|', '&#124;')}</code>"


def folded_text(run: dict, language: int) -> str:
    """A story that opens on a click, its lines wrapped, and only the beginning of one that never ended."""
    text = run["text"] if run["stop"] == "eos" else run["text"][:SHOWN_CHARACTERS] + " …"
    text = "\n".join(textwrap.fill(line, 110) for line in text.split("\n"))
    length, stop = f"{TOKENS[language]}: {run['new_tokens']}", STOPS[run["stop"]][language]
    summary = f"{STORY[language]}, {run_name(run, language)}; {length}; {stop}"
    return f"<details><summary>{summary}</summary>\n\n<pre>\n{html.escape(text, quote=False)}\n</pre>\n\n</details>\n"


def printed(language: int) -> str:
    """The beginning of what task 1 prints, for the first screen; the same in both languages."""
    parts = [f"=== {run['prompt']}\n{textwrap.fill(textwrap.shorten(run['text'], 400, placeholder=' …'), 120)}"
             for run in read(RESULTS / "task1_greedy.json")["runs"]]  # fmt: skip
    return "```text\n" + "\n\n".join(parts) + "\n```\n"


# ------------------------------------------------------------------------------------------------------------- pages

EXERCISE = {"greedy": [{"temperature": 0.0}], "sampling": [{}], "temperature": TEMPERATURES, "nucleus": NUCLEI}
TASKS = {"task1_greedy": [{}], "task2_sampling": [{}], "task3_temperature": TEMPERATURES, "task4_nucleus": NUCLEI,
         "task5_beam": BEAMS}  # fmt: skip
PARTS = {
    **{f"{name}, {kind}": partial(draws_table, settings, columns) for name, settings in EXERCISE.items()
       for kind, columns in (("JSON", JSON_COLUMNS), ("story", STORY_COLUMNS))},
    **{f"texts of {task}": partial(texts, task, settings) for task, settings in TASKS.items()},
    "what task 1 prints": printed,
    "beams": beams_table,
    "evaluation": evaluation_table,
    "speed": speed_table,
    "training on books": partial(training_table, ROOT / "results" / "books" / "training.jsonl"),
}  # fmt: skip


def filled(page: str, language: int) -> str:
    """The page with its derived parts made anew. Raises InputError for a part that does not exist."""

    def part(match: re.Match) -> str:
        if match[2] not in PARTS:
            raise InputError(f"there is no part called {match[2]}")
        return match[1] + PARTS[match[2]](language) + match[3]

    return PART.sub(part, page)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with one_line_errors():
        for name, language in PAGES.items():
            path = ROOT / name
            with writing(path):
                write_text(path, filled(path.read_text("utf-8"), language))
            print(f"{name} is up to date with results/generator/")


if __name__ == "__main__":
    main()
