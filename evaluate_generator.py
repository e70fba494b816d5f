"""Measure a trained decoder on held-out requests: names, amounts and heroes that its training never showed.

    python evaluate_generator.py
    python evaluate_generator.py --model runs/decoder --transfers 100 --stories 20

Transfers are decoded greedily; exact means that the whole JSON is right to the letter. Stories are drawn at temperature 0.8
with top_p 0.95. The summary is printed; results/<model>/evaluation.json holds it with every text.
"""

from support.errors import one_line_errors

import random
import statistics
import time
from collections import Counter

from common import answer, checked_ids
from data.corpus.documents import STORYTELLER
from data.corpus.judging import SENTENCE, keeps_hero
from data.corpus.stories import held_out_story
from data.corpus.transfers import held_out_transfer
from models.chatml import chatml
from models.loading import Loaded, load_model
from strategies import continue_ids
from support.files import check_writable, write_text
from support.flags import COUNT, Parser, add_model_flags, add_results_flag, number
from support.results import model_folder, run_facts, write_json

from tqdm import tqdm

MAX_NEW_TOKENS = 400
STORY_SETTINGS = {"temperature": 0.8, "top_p": 0.95}


def respond(loaded: Loaded, prompt: str, **settings: float) -> tuple[str, bool]:
    """The text that answers a prompt, and whether it ended by itself; `settings` are those of `continue_ids`."""
    ids = list(continue_ids(loaded.model, checked_ids(loaded, prompt), loaded.eos_ids,
                            max_new_tokens=MAX_NEW_TOKENS, **settings))  # fmt: skip
    return answer(loaded, ids), ids[-1] in loaded.eos_ids


def evaluate_transfers(loaded: Loaded, count: int) -> list[dict]:
    """The answers to held-out transfers, each with its request and the JSON that is right."""
    rng = random.Random("evaluation")
    results = []
    for _ in tqdm(range(count), desc="transfers"):
        transfer = held_out_transfer(rng)
        text, ended = respond(loaded, transfer.document().prompt, temperature=0)
        results.append({"request": transfer.request, "expected": transfer.json, "text": text,
                        "exact": ended and text == transfer.json})  # fmt: skip
    return results


def evaluate_stories(loaded: Loaded, count: int) -> list[dict]:
    """The stories for held-out heroes, each with its request and what was found in it."""
    rng = random.Random("evaluation")
    results = []
    for seed in tqdm(range(count), desc="stories"):
        story = held_out_story(rng)
        text, ended = respond(loaded, chatml(STORYTELLER, story.request), seed=seed, **STORY_SETTINGS)
        results.append({"request": story.request, "text": text, "ended": ended, "kept": keeps_hero(text, story.hero),
                        "first_sentence": (SENTENCE.findall(text) or [text])[0],
                        "most_repeated": most_repeated(text)})  # fmt: skip
    return results


def most_repeated(text: str) -> int:
    """How often the most frequent sentence occurs in the text."""
    return max(Counter(sentence.strip() for sentence in SENTENCE.findall(text)).values(), default=0)


def summarize(transfers: list[dict], stories: list[dict]) -> dict:
    """The figures of all answers."""
    def mean(results: list[dict], name: str) -> float:
        return sum(result[name] for result in results) / len(results)

    return {
        "transfers": len(transfers),
        "transfers_exact": mean(transfers, "exact"),
        "stories": len(stories),
        "stories_ended": mean(stories, "ended"),
        "stories_keeping_name_and_animal": mean(stories, "kept"),
        "distinct_first_sentences": len({story["first_sentence"] for story in stories}),
        "most_repeats_of_a_sentence": max(story["most_repeated"] for story in stories),
        "median_words": statistics.median(len(story["text"].split()) for story in stories),
    }


def markdown(summary: dict) -> str:
    """The summary as a table for people."""
    rows = (
        (f"{summary['transfers']} held-out transfers, greedy: the JSON exact", f"{summary['transfers_exact']:.1%}"),
        (f"{summary['stories']} stories for held-out heroes: end by themselves within {MAX_NEW_TOKENS} tokens",
         f"{summary['stories_ended']:.1%}"),
        ("keep the asked name and animal to the end", f"{summary['stories_keeping_name_and_animal']:.1%}"),
        ("distinct first sentences", summary["distinct_first_sentences"]),
        ("most repeats of one sentence within a story", summary["most_repeats_of_a_sentence"]),
        ("words in a story, median", f"{summary['median_words']:g}"),
    )
    return "\n".join(("| measured | result |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows))) + "\n"


def main() -> None:
    with one_line_errors():
        parser = Parser(__doc__)
        parser.add_argument("--transfers", type=number(COUNT), default=500, metavar="N", help="(default: %(default)s)")
        parser.add_argument("--stories", type=number(COUNT), default=200, metavar="N", help="(default: %(default)s)")
        add_model_flags(parser)
        add_results_flag(parser)
        args = parser.parse_args()
        path = model_folder(args.results, args.model, args.adapter) / "evaluation.json"
        check_writable(path.parent)
        start = time.perf_counter()
        loaded = load_model(args.model, args.device, args.dtype, args.engine, args.adapter)
        transfers, stories = evaluate_transfers(loaded, args.transfers), evaluate_stories(loaded, args.stories)
        summary = {**summarize(transfers, stories), "seconds": round(time.perf_counter() - start)}
        write_json(path, {**run_facts(args.device, args.dtype), "model": loaded.identity, "summary": summary,
                          "story_settings": STORY_SETTINGS, "transfers": transfers, "stories": stories})  # fmt: skip
        write_text(path.with_suffix(".md"), markdown(summary))
        print(markdown(summary))


if __name__ == "__main__":
    main()
