"""Measures models that write replies: `Evaluator.evaluate` lets one write to held-out requests, and has it judged by others.

    figures = Evaluator(replies).evaluate(Row.of(replier))      # as the notes use theirs
    figures["control"]["tone"]["differs"]                       # {"value", "low", "high"}

With a file of the row the replies are kept as they are written, and what stands there is not written again.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data.replies import Reply, values_of
from studies.measures import mean
from studies.reply_cases import COLUMNS, Author, Case, Write, cases_of, held_out, known_labels, written
from studies.reply_figures import Written, control, distinct_2, known_placeholders, reply_figures, requests_of
from studies.reply_judges import agreement, ceiling, independent_judges
from studies.reply_surprises import LABELS, Reader, perplexity
from studies.row_file import RowFile, hash_of

if TYPE_CHECKING:
    from replier import Replier

REQUESTS = 454  # those of the test part of the set that the figures are published for
SETTINGS = {"max_new_tokens": 96, "temperature": 0.7, "top_p": 0.95, "seed": 0}
TIMED = 10  # requests


class Row(NamedTuple):
    """A row of the comparison: who writes, and the model, where there is one. `fitting`: the real replies themselves."""

    identity: dict
    write: Write
    reader: Reader | None = None
    fitting: bool = False

    @classmethod
    def of(cls, replier: "Replier", guidance: float = 1.0, candidates: int = 1, **settings: float) -> "Row":
        """A model that writes with these settings, those of SETTINGS where they are left out."""
        settings = {**SETTINGS, **settings, "guidance": guidance, "candidates": candidates}
        reader = Reader(replier.loaded, settings["max_new_tokens"])
        return cls(replier.loaded.identity, Author(replier, settings), reader)

    @property
    def at_once(self) -> int:
        """How many replies are written at once."""
        return max(10, 64 // self.write.settings["candidates"]) if isinstance(self.write, Author) else 1000


class Evaluator:
    """Held-out requests, the labels asked with them, and judges that guide no model."""

    def __init__(self, replies: Sequence[Reply], num_requests: int | None = REQUESTS, other: Reader | None = None) -> None:
        """replies: of all parts. other: a model that reads what was written.

        Raises InputError where there is nothing to judge on, or to learn it from.
        """
        self.replies, self.other, self.judges = replies, other, independent_judges(replies)
        self.tests, self.tones = held_out(replies)[:num_requests], values_of(replies)["tone"]
        self.columns, self.known = cases_of(replies, num_requests), known_placeholders(replies)
        self.identity = hash_of(f"{reply.request}\n{reply.reply}" for reply in held_out(replies))

    def evaluate(self, row: Row, file: RowFile | None = None) -> dict:
        """The figures of a row, ready for JSON: see `figures`. A file keeps what is measured, and goes on where it stopped."""
        if file is None:
            with tempfile.TemporaryDirectory() as folder:
                return self.evaluate(row, RowFile(Path(folder) / "row.json", {"model": row.identity}, "reply"))
        self.measure(row, file)
        return self.figures(file.content)

    def cases(self, fitting: bool) -> dict[str, list[Case]]:
        return {column: [case for case in cases if case.fits or not fitting] for column, cases in self.columns.items()}

    # -------------------------------------------------------------------------------------------------- measuring

    def measure(self, row: Row, file: RowFile) -> None:
        """Everything that a row's file lacks."""
        content, cases = file.content, self.cases(row.fitting)
        content["fitting"] = row.fitting
        for column in COLUMNS:
            file.fill(column, cases[column], row.write, row.at_once)
        if row.reader:
            file.fill("surprises", self.tests, partial(row.reader.real, tones=self.tones), 4)
        if self.other and content.get("other") != self.other.loaded.identity:
            content["columns"].pop("other", None)
            content["other"] = self.other.loaded.identity
        if self.other:
            file.fill("other", written(cases["tones"], content["columns"]["tones"]), self.read_by_other, 8)
        if "seconds" not in content:
            content["seconds"] = self.seconds(row.write) if isinstance(row.write, Author) else []
        file.save()

    def read_by_other(self, rows: Sequence[Written]) -> list[tuple[float, int]]:
        return [self.other.surprise(row.request, row.reply, {}, row.ended) for row in rows]

    def seconds(self, author: Author) -> list[float]:
        """How long a reply takes to each of some requests, one at a time."""
        found = []
        for case in self.columns["tones"][:: len(self.tones)][:TIMED]:
            start = time.perf_counter()
            author.replier.write(case.request, known_labels(author.replier, case.asked), **author.settings)
            found.append(time.perf_counter() - start)
        return found

    # ------------------------------------------------------------------------------------------------ the figures

    def figures(self, content: dict) -> dict:
        """The figures of a row's records: those of `reply_figures` for the tones, where "control" has the category and the
        decision over all cases that ask for them; "heads", the same of the verdicts of the model's own heads on the tones;
        "perplexity" by LABELS, and "written" by the other model; "seconds" for a reply; "replies", how many of each column."""
        columns, cases = content["columns"], self.cases(content["fitting"])
        rows = {column: written(cases[column], columns[column], content["fitting"]) for column in COLUMNS}
        tones = rows["tones"]
        of_tone = {name: judge for name, judge in self.judges.items() if judge.attribute in ("tone", "intent")}
        found = reply_figures(tones, of_tone, self.known)
        as_real = [row for row, case in zip(tones, cases["tones"], strict=False) if case.fits]
        found["distinct_2"] = distinct_2(row.reply for row in as_real)  # of equally many replies in every row
        for name in ("category", "decision"):
            if name in self.judges:
                asking = [row for column in COLUMNS for row in rows[column] if name in row.asked]
                found["control"][name] = control(asking, name, self.judges[name].verdicts(asking))
        return {**found, "heads": heads(tones, columns["tones"]), "perplexity": self.perplexities(columns, tones),
                "seconds": mean(content["seconds"]) if content["seconds"] else None,
                "replies": {column: len(some) for column, some in rows.items()}}  # fmt: skip

    def perplexities(self, columns: Mapping[str, list], tones: Sequence[Written]) -> dict[str, dict | None]:
        """Of real replies under each of LABELS, and of "written" ones under the other model; None where not measured."""
        real, other = columns.get("surprises", [])[: len(self.tests)], columns.get("other", [])[: len(tones)]
        clusters = [reply.request or f"\n{number}" for number, reply in enumerate(self.tests)]
        found = {name: perplexity([record[name] for record in real], clusters[: len(real)]) for name in LABELS}
        return {**found, "written": perplexity(other, requests_of(tones)[: len(other)])}

    def judged(self) -> dict:
        """How good the judges are on real replies of the test: "ceiling" by judge's name, and the "agreement" of each further
        judge of the tone with the first."""
        tests = held_out(self.replies)
        got = {name: judge.verdicts(tests) for name, judge in self.judges.items() if name.startswith("tone")}
        return {"ceiling": {name: ceiling(judge, tests) for name, judge in self.judges.items()},
                "agreement": {name: agreement(got["tone"], said) for name, said in got.items()
                              if name != "tone" and "tone" in got}}  # fmt: skip


def heads(rows: Sequence[Written], records: Sequence[dict]) -> dict[str, dict]:
    """What the model's own heads say of its replies, by attribute, as `control` tells it of a judge: the more candidates they
    choose from, the more they are pleased, and the less they prove."""
    names = dict.fromkeys(name for record in records for name in record["judged"])
    got = {name: [record["judged"].get(name, "") for record in records][: len(rows)] for name in names}
    return {name: control(rows, name, said) for name, said in got.items()}
