"""The tables of replies with tone and category: figures of evaluate_replies.py and of the studies of heads and of typed
requests as Markdown, for docs/replies.md and for the evaluation's own page.

A language is 0 for English, 1 for Russian. A figure that was not measured is a dash.
"""

from collections.abc import Callable, Sequence
from functools import partial

from studies.autocomplete_tables import Column, Figure, points, three, with_interval
from studies.doc_tables import Snapshot, number, table
from studies.labels import REPLY_JUDGES, REPLY_ROWS, TYPED_TOTALS, Pair
from studies.reply_figures import METEOR

METEOR_HEAD: Pair = (METEOR, "METEOR (точные + основы)")
FEWEST = 20  # replies of a tone, of which openings are counted

# ------------------------------------------------------------------------------------------------ cells


def plain(digits: int, value: float, language: int) -> str:
    return number(value, digits, language)


def share(head: Pair, *path: str) -> Column:
    """A share of a row's figures, by the keys that lead to it, in percent with its interval."""
    return Column(head, lambda row, language: with_interval(at(row["figures"], path), points, language))


def figure(head: Pair, digits: int, *path: str) -> Column:
    """Another figure, with its interval."""
    return Column(head, lambda row, language: with_interval(at(row["figures"], path), partial(plain, digits), language))


def at(found: dict | None, path: Sequence[str]) -> Figure:
    """What stands at the end of a path of keys, None where one is not there."""
    for key in path:
        found = (found or {}).get(key)
    return found


def values(row: dict, names: Sequence[str], show: Callable[[float, int], str], language: int) -> str:
    """Figures of the overlap side by side, without intervals."""
    found = [row["figures"]["overlap"].get(name) for name in names]
    return " / ".join(show(one["value"], language) if one else "–" for one in found)


def openings(row: dict, language: int) -> str:
    """The tone with the fewest different openings: how many of how many replies."""
    found = [one for one in row["figures"]["openings"].values() if one["replies"] >= FEWEST]
    fewest = min(found, key=lambda one: one["openings"] / one["replies"], default=None)
    return f"{fewest['openings']} {('of', 'из')[language]} {fewest['replies']}" if fewest else "–"


def placeholders(row: dict, language: int) -> str:
    found = row["figures"]["placeholders"]
    return f"{points(found['value'], language)} ({('of', 'из')[language]} {found['written']})" if found else "–"


def kappa(row: dict, language: int) -> str:
    """How the second judge of the tone agrees with the first, beyond chance."""
    found = second_judge(row["figures"]["agreement"])
    return "–" if not found or found["kappa"] is None else number(found["kappa"], 2, language)


def second_judge(by_name: dict) -> dict | None:
    """What belongs to the judge of the tone that learns nothing: the rule, or the count of forms."""
    return next((by_name[name] for name in ("tone_by_rule", "tone_by_forms") if name in by_name), None)


def by_second(row: dict, language: int) -> str:
    found = second_judge(row["figures"]["control"])
    return with_interval(found and found["all"], points, language)


TONE = (
    share(("tone right, %", "тон верен, %"), "control", "tone", "all"),
    share(("that the real reply has", "что у настоящего ответа"), "control", "tone", "fits"),
    share(("that it has not", "другой"), "control", "tone", "differs"),
    share(("without the opening", "без начала ответа"), "control", "tone_without_opening", "all"),
)
SECOND = (
    share(("tone right by the judge, %", "тон верен по судье, %"), "control", "tone", "all"),
    Column(("by the rule", "по правилу"), by_second),
    Column(("agreement, κ", "согласие, κ"), kappa),
    share(("real tone instead, %", "вместо него настоящий тон, %"), "control", "tone", "real_instead"),
)
CATEGORY = (
    share(("category right, %: with the request", "категория верна, %: с запросом"), "control", "category", "fits"),
    share(("without it", "без него"), "control", "category", "alone"),
    share(("against it", "вопреки ему"), "control", "category", "differs"),
    share(("decision right, %", "решение верно, %"), "control", "decision", "all"),
)
CONTENT = (
    share(("request kept, %", "запрос сохранён, %"), "intent_kept"),
    Column(("BLEU / chrF", "BLEU / chrF"), lambda row, language: values(row, ("BLEU", "chrF"), partial(plain, 1), language)),
    Column(("ROUGE-1 / 2 / L", "ROUGE-1 / 2 / L"),
           lambda row, language: values(row, ("ROUGE-1", "ROUGE-2", "ROUGE-L"), three, language)),
    figure(METEOR_HEAD, 3, "overlap", METEOR),
)
VARIETY = (
    Column(("different openings, the least varied tone", "разных начал, у самого однообразного тона"), openings),
    Column(("distinct-2", "distinct-2"), lambda row, language: three(row["figures"]["distinct_2"], language)),
    Column(("placeholders intact, %", "подстановки целы, %"), placeholders),
    figure(("seconds per reply", "секунд на ответ"), 2, "seconds"),
)
PRICE = (
    figure(("perplexity of real replies: right labels", "перплексия настоящих ответов: верные метки"), 2,
           "perplexity", "right"),
    figure(("a wrong tone", "неверный тон"), 2, "perplexity", "wrong"),
    figure(("no label", "без меток"), 2, "perplexity", "none"),
    figure(("of written ones, by another model", "написанных, по другой модели"), 2, "perplexity", "written"),
)
PLEASED = (
    share(("tone right by its own head, %", "тон верен по своей голове, %"), "heads", "tone", "all"),
    share(("by the judge", "по судье"), "control", "tone", "all"),
    figure(("perplexity by another model", "перплексия по другой модели"), 2, "perplexity", "written"),
    figure(("seconds per reply", "секунд на ответ"), 2, "seconds"),
)
TABLES: dict[str, tuple[Column, ...]] = {"tone": TONE, "a second judge": SECOND, "category and decision": CATEGORY,
                                         "contents": CONTENT, "variety": VARIETY, "price": PRICE,
                                         "the heads that choose": PLEASED}  # fmt: skip

# ------------------------------------------------------------------------------------------------ tables


def row_name(row: dict, language: int) -> str:
    """A row in words: its model, and its settings where they are not those of all."""
    words = [REPLY_ROWS.get(row["base"], (row["base"], row["base"]))[language]]
    if row["guidance"] not in (None, 1):
        words.append(f"γ = {number(row['guidance'], 1, language).removesuffix('.0').removesuffix(',0')}")
    if row["candidates"] not in (None, 1):
        words.append(("best of {}", "лучший из {}")[language].format(row["candidates"]))
    return (", ", "; ")[language].join(words)


def comparison(rows: dict[str, dict], columns: Sequence[Column], language: int) -> str:
    """A line per row of an evaluation."""
    lines = [[row_name(row, language), *(column.cell(row, language) for column in columns)] for row in rows.values()]
    return table([[("model", "модель")[language], *(column.head[language] for column in columns)], *lines])


def reply_table(snapshot: Snapshot, name: str, columns: Sequence[Column], language: int,
                bases: Sequence[str] | None = None) -> str:  # fmt: skip
    """A line per row of the evaluation in results/shipped/<name>/, or of those rows that are of some models alone."""
    rows = snapshot.json(f"{name}/evaluation.json")["rows"]
    return comparison({row: content for row, content in rows.items() if bases is None or content["base"] in bases}, columns,
                      language)


def judges_table(snapshot: Snapshot, name: str, language: int) -> str:
    """How good each judge is on real replies: the ceiling of what it can say of written ones."""
    return judges_lines(snapshot.json(f"{name}/evaluation.json")["judges"], language)


def judges_lines(judges: dict, language: int) -> str:
    heads = (("judge", "judge right on real replies, %", "mean of the labels", "replies", "agreement with the first, %"),
             ("судья", "прав на настоящих ответах, %", "среднее по меткам", "ответов", "согласие с первым, %"))  # fmt: skip
    lines = [[REPLY_JUDGES[judge][language], with_interval(found, points, language), points(found["macro"], language),
              str(found["replies"]), with_interval(judges["agreement"].get(judge), points, language)]
             for judge, found in judges["ceiling"].items() if found]  # fmt: skip
    return table([list(heads[language]), *lines])


def page(summary: dict) -> str:
    """All tables of an evaluation, in English, and what they are made of."""
    rows, signatures = summary["rows"], {}
    for row in rows.values():
        signatures |= {name: found["signature"] for name, found in row["figures"]["overlap"].items() if "signature" in found}
    counts = "; ".join(f"{name}: " + ", ".join(f"{column} {count}" for column, count in row["figures"]["replies"].items())
                       for name, row in rows.items())  # fmt: skip
    parts = [f"## {title}\n\n{comparison(rows, columns, 0)}" for title, columns in TABLES.items()]
    notes = [f"{summary['num_requests']} requests. Replies of {counts}.",
             "95 % intervals in parentheses, over requests. Accuracies are means over labels, percentages all.",
             *(f"{name}: `{signature}`" for name, signature in signatures.items())]  # fmt: skip
    return "\n".join([*parts, f"## judges\n\n{judges_lines(summary['judges'], 0)}", "\n\n".join(notes), ""])


# ------------------------------------------------------------------------------------------------ heads, typed requests


def model_name(name: str, language: int) -> str:
    return REPLY_ROWS.get(name, (name, name))[language]


def pooling_table(snapshot: Snapshot, name: str, attribute: str, language: int) -> str:
    """How often heads are right that read a whole reply: the model's own, and new ones on its last and its first token."""
    heads = (("model", "own head right, %", "new head, last token", "first token", "commonest label"),
             ("модель", "своя голова права, %", "новая, последний токен", "первый токен", "самая частая метка"))  # fmt: skip
    lines = []
    for row, found in snapshot.json(f"{name}/heads.json")["rows"].items():
        own = list(found["read"].get(attribute, {}).values())[-1:] or [None]
        figures = (own[0], at(found, ("new", attribute, "last")), at(found, ("new", attribute, "first")),
                   at(found, ("majority", attribute)))  # fmt: skip
        lines.append([model_name(row, language), *(with_interval(one, points, language) for one in figures)])
    return table([list(heads[language]), *lines])


def tokens_table(snapshot: Snapshot, name: str, attribute: str, language: int,
                 lengths: Sequence[int] = (8, 16, 32)) -> str:  # fmt: skip
    """How often a model's own head is right after so many tokens of a reply, and after all that are read."""
    content = snapshot.json(f"{name}/heads.json")
    keys = [*map(str, lengths), str(content["max_tokens"])]
    head = [("model", "модель")[language], *(("{} tokens, %", "{} токенов, %")[language].format(key) for key in keys)]
    lines = [[model_name(row, language), *(with_interval(found["read"][attribute].get(key), points, language) for key in keys)]
             for row, found in content["rows"].items() if attribute in found["read"]]  # fmt: skip
    return table([head, *lines])


def ablations_table(snapshot: Snapshot, name: str, language: int) -> str:
    """What the ways of training cost and give: time, the category read from the request, perplexity of real replies."""
    heads = (("model", "minutes of training", "category read, %", "perplexity: right labels", "no label"),
             ("модель", "минут обучения", "категория прочитана, %", "перплексия: верные метки", "без меток"))  # fmt: skip
    lines = []
    for row, found in snapshot.json(f"{name}/heads.json")["rows"].items():
        seconds = found["training"]["seconds"]
        lines.append([model_name(row, language), "–" if seconds is None else number(seconds / 60, 1, language),
                      with_interval(found["request"], points, language),
                      *(with_interval(found["perplexity"][label], partial(plain, 2), language) for label in ("right", "none"))])
    return table([list(heads[language]), *lines])


def typed_table(snapshot: Snapshot, name: str, language: int) -> str:
    """What became of the requests that people typed."""
    totals = snapshot.json(f"{name}/typed.json")["totals"]
    of = ("of", "из")[language]
    lines = [[TYPED_TOTALS[total][language], f"{found['right']} {of} {found['of']}", with_interval(found, points, language)]
             for total, found in totals.items()]
    return table([[("typed requests", "набранные запросы")[language], ("right", "верно")[language], "%"], *lines])
