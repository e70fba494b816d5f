"""The figures of written replies: how often the labels asked for came, what the replies share with real ones, what they kept.

Accuracies are macro: the mean of the labels' shares, so that a rare label counts as much as a common one. Their 95 % intervals
are a percentile bootstrap of the requests (Efron and Tibshirani 1993, chapter 13), each drawn with all its replies, for replies
to one request are no independent cases. BLEU and chrF are sacrebleu's, ROUGE rouge-score's, METEOR nltk's, all against several
references; METEOR runs without WordNet, so it pairs equal words and equal stems, no synonyms, and says so in its name.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from data.replies import ANY, Reply
from studies.completion_figures import drawn, interval
from studies.measures import ngrams
from studies.reply_judges import Judge, agreement, first_sentence

import numpy as np

REFERENCES = 4  # of a reply, its own real one among them: their number is what the metrics' time goes by
HUNDRED = 100  # replies of one tone whose openings are counted
BEGINNING = 4  # words
METEOR = "METEOR (exact + stem)"
WORD = re.compile(r"[^\W_]+")
BRACES = re.compile(r"\{+[^{}\n]*\}*|\}+")  # a placeholder, or what was meant as one
PLACEHOLDER = re.compile(r"\{\{[^{}\n]+\}\}")
UNCLOSED = re.compile(r"\{+[^{}\n]*\}?")


class Written(NamedTuple):
    """A written reply: to which request, with which labels asked, and what the real reply to that request has.

    `request` is "" where the model was given none, `real` empty where there is no real reply. `ended` is false where the reply
    was cut at its greatest length.
    """

    request: str
    reply: str
    asked: dict[str, str]
    real: dict[str, str]
    intent: str = ""
    references: Sequence[str] = ()
    ended: bool = True


# ------------------------------------------------------------------------------------------------ labels


def requests_of(rows: Sequence[Written]) -> list[str]:
    """The cluster of each row: its request, or, where there is none, the row itself."""
    return [row.request or f"\n{number}" for number, row in enumerate(rows)]


def macro_accuracy(asked: Sequence[str], got: Sequence[str], clusters: Sequence[str]) -> dict[str, float] | None:
    """The mean over asked labels of the share that was got, {"value", "low", "high"}; None over nothing.

    Requests are drawn, each with all rows of its cluster. A resample in which a label is not asked is the mean of the others.
    """
    labels, places = sorted(set(asked)), {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    parts = np.zeros((2, len(places), len(labels)))  # rows that were right, and all
    for want, is_, cluster in zip(asked, got, clusters, strict=True):
        parts[:, places[cluster], labels.index(want)] += (want == is_, 1)
    if not labels:
        return None
    with np.errstate(invalid="ignore"):
        right, rows = drawn(len(places)) @ parts
        right_of_all, all_rows = parts.sum(1)
        return interval(np.mean(right_of_all / all_rows), np.nanmean(right / rows, axis=1))


def matrix(asked: Sequence[str], got: Sequence[str]) -> dict:
    """How often each label was asked and got: {"asked": labels of the rows, "got": labels of the columns, "counts"}.

    The columns begin with the asked labels in the same order, so that the diagonal is what came as asked.
    """
    rows = sorted(set(asked))
    columns = rows + sorted(set(got) - set(asked))
    counts = Counter(zip(asked, got, strict=True))
    return {"asked": rows, "got": columns, "counts": [[counts[row, column] for column in columns] for row in rows]}


def sides(rows: Sequence[Written], attribute: str) -> dict[str, list[int]]:
    """The places of rows in which a label was asked: one that "fits" the real reply, that "differs" from it, or that stood
    "alone", without a request or a real reply."""
    found: dict[str, list[int]] = {"fits": [], "differs": [], "alone": []}
    for number, row in enumerate(rows):
        if row.asked.get(attribute, ANY) != ANY:
            real = row.request and row.real.get(attribute)
            found["alone" if not real else "fits" if real == row.asked[attribute] else "differs"].append(number)
    return found


def control(rows: Sequence[Written], attribute: str, got: Sequence[str]) -> dict:
    """What a judge got of the labels asked: macro accuracy over "all" rows and over each of `sides`, the "matrix", and
    "real_instead": how often the real reply's label came where another was asked. All None, or empty, where none was asked."""
    clusters, places = requests_of(rows), sides(rows, attribute)

    def accuracy(chosen: Sequence[int], want: str = "asked") -> dict[str, float] | None:
        wanted = [getattr(rows[i], want)[attribute] for i in chosen]
        return macro_accuracy(wanted, [got[i] for i in chosen], [clusters[i] for i in chosen])

    chosen = sorted(sum(places.values(), []))
    return {"all": accuracy(chosen), **{side: accuracy(some) for side, some in places.items()},
            "real_instead": accuracy(places["differs"], "real"),
            "matrix": matrix([rows[i].asked[attribute] for i in chosen], [got[i] for i in chosen])}  # fmt: skip


# ------------------------------------------------------------------------------------------------ against real replies


def references_of(replies: Sequence[Reply], most: int = REFERENCES) -> list[tuple[str, ...]]:
    """The references of each reply's request: the reply itself first, then others of the same intent among these."""
    by_intent: dict[str, list[str]] = {}
    for reply in replies:
        by_intent.setdefault(reply.intent, []).append(reply.reply)
    return [tuple(dict.fromkeys([reply.reply, *(by_intent[reply.intent] if reply.intent else ())]))[:most] for reply in replies]


class Words:
    """Splits texts into words for rouge-score and nltk; rouge-score's own splitter drops every letter but a to z."""

    @staticmethod
    def tokenize(text: str) -> list[str]:
        return WORD.findall(text.lower())


class NoSynonyms:
    """Stands for WordNet, which would have to be downloaded."""

    @staticmethod
    def synsets(word: str) -> list:
        return []


class Stems:
    """Porter's stems of nltk, each word's computed once."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self.stem = lru_cache(maxsize=None)(PorterStemmer().stem)


def bleu_and_chrf(replies: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, dict]:
    """sacrebleu's figures of all replies together, 0 to 100, each {"value", "signature"}: without its signature a BLEU cannot
    be compared with another (Post 2018). Replies may have different numbers of references."""
    from sacrebleu.metrics import BLEU, CHRF

    most = max(map(len, references))
    streams = [[of_one[i] if i < len(of_one) else None for of_one in references] for i in range(most)]
    found = {}
    for name, metric in (("BLEU", BLEU()), ("chrF", CHRF())):
        value = metric.corpus_score(list(replies), streams).score
        found[name] = {"value": value, "signature": str(metric.get_signature())}
    return found


def rouge_and_meteor(replies: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """F-measures of ROUGE-1, -2, -L and METEOR of each reply, 0 to 1, by its best reference."""
    from nltk.translate.meteor_score import meteor_score
    from rouge_score.rouge_scorer import RougeScorer

    names = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}
    scorer, stems, split = RougeScorer(list(names.values()), tokenizer=Words), Stems(), lru_cache(maxsize=None)(Words.tokenize)
    rouge = [scorer.score_multi(of_one, reply) for reply, of_one in zip(replies, references, strict=True)]
    found = {name: [scores[key].fmeasure for scores in rouge] for name, key in names.items()}
    found[METEOR] = [meteor_score([split(text) for text in of_one], split(reply), stemmer=stems, wordnet=NoSynonyms)
                     for reply, of_one in zip(replies, references, strict=True)]  # fmt: skip
    return found


def overlap(rows: Sequence[Written]) -> dict[str, dict]:
    """BLEU, chrF, ROUGE and METEOR of the replies that have references, these two with intervals; empty where none has."""
    rows = [row for row in rows if row.references]
    if not rows:
        return {}
    replies, references, clusters = [row.reply for row in rows], [row.references for row in rows], requests_of(rows)
    single = rouge_and_meteor(replies, references)
    return {**bleu_and_chrf(replies, references), **{name: mean_of(values, clusters) for name, values in single.items()}}


def mean_of(values: Sequence[float], clusters: Sequence[str]) -> dict[str, float] | None:
    """The mean of values, {"value", "low", "high"}, the interval over clusters of them; None over nothing."""
    places = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    if not places:
        return None
    at = [places[cluster] for cluster in clusters]
    sums = np.stack([np.bincount(at, values, len(places)), np.bincount(at, minlength=len(places))], axis=1)
    totals = drawn(len(places)) @ sums
    return interval(sums[:, 0].sum() / sums[:, 1].sum(), totals[:, 0] / totals[:, 1])


# ------------------------------------------------------------------------------------------------ variety and contents


def openings(rows: Sequence[Written]) -> dict[str, dict[str, int]]:
    """Of each tone asked, the first HUNDRED "replies" at most, how many different "openings" (first sentences) they have, and
    how many different "beginnings" (first four words), which no name or date of a request makes many."""
    by_tone: dict[str, list[str]] = {}
    for row in rows:
        by_tone.setdefault(row.asked.get("tone", ""), []).append(row.reply)
    return {tone: {"replies": len(some := replies[:HUNDRED]), "openings": len({first_sentence(reply) for reply in some}),
                   "beginnings": len({" ".join(reply.split()[:BEGINNING]) for reply in some})}
            for tone, replies in sorted(by_tone.items())}  # fmt: skip


def distinct_2(replies: Iterable[str]) -> float:
    """Different pairs of words over all pairs, of all replies together (Li et al. 2016, section 5.3); it falls as more text is
    counted, so compare equally many replies only."""
    pairs = [pair for reply in replies for pair in ngrams(reply, 2)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def known_placeholders(replies: Iterable[Reply]) -> set[str]:
    """The placeholders, such as {{Order Number}}, of real replies and requests."""
    return {found for reply in replies for found in PLACEHOLDER.findall(f"{reply.request} {reply.reply}")}


def placeholders(rows: Sequence[Written], known: set[str]) -> dict[str, float] | None:
    """The share of written placeholders that are well formed and known, with its interval over requests, and "written", their
    number; None where none was written. One that a reply was cut in does not count."""
    intact, clusters = [], []
    for row, cluster in zip(rows, requests_of(rows), strict=True):
        for found in BRACES.finditer(row.reply):
            if row.ended or found.end() < len(row.reply) or not UNCLOSED.fullmatch(found[0]):
                intact.append(found[0] in known)
                clusters.append(cluster)
    share = mean_of(intact, clusters)
    return share and {**share, "written": len(intact)}


# ------------------------------------------------------------------------------------------------ all of it


def reply_figures(rows: Sequence[Written], judges: dict[str, Judge], known: set[str]) -> dict:
    """All figures of written replies, ready for JSON.

    "control" by judge's name (`control`), "agreement" of each further judge of the tone with the first, "intent_kept", how
    often the judged intent is the request's, "overlap" (`overlap`), "openings", "distinct_2" and "placeholders".
    """
    got = {name: judge.verdicts(rows) for name, judge in judges.items() if judge.reads == "reply"}
    kept = [(row.intent == said, cluster) for row, said, cluster
            in zip(rows, got.get("intent", ()), requests_of(rows), strict=False) if row.intent and row.request]  # fmt: skip
    return {
        "control": {name: control(rows, judges[name].attribute, said) for name, said in got.items() if name != "intent"},
        "agreement": {name: agreement(got["tone"], said) for name, said in got.items()
                      if "tone" in got and name.startswith("tone_")},
        "intent_kept": mean_of(*map(list, zip(*kept, strict=True))) if kept else None,
        "overlap": overlap(rows),
        "openings": openings(rows),
        "distinct_2": distinct_2(row.reply for row in rows),
        "placeholders": placeholders(rows, known),
    }  # fmt: skip
