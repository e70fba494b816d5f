"""Measure a trained decoder on held-out requests: names, amounts and heroes that its training never showed.

    python evaluate_generator.py
    python evaluate_generator.py --model runs/decoder --transfers 100 --stories 20

Transfers are decoded greedily; exact means the whole JSON is right to the letter. Stories are drawn at temperature 0.8
from the top 0.95. The summary is printed; results/<model>/evaluation.json holds it with every text.
"""

import argparse
import random
import re
import statistics
import time
from collections import Counter

from common import (
    add_model_flags,
    add_results_flag,
    answer,
    load_model,
    one_line_errors,
    prompt_ids,
    save_figures,
    setting_type,
    writing,
)
from generator import write_text
from strategies import continue_ids

from corpus.chatml import STORYTELLER, chatml
from corpus.stories import Hero, held_out_story
from corpus.transfers import held_out_transfer
from tqdm import tqdm

SENTENCE = re.compile(r"[^.!?]+[.!?]+\"?")
MAX_NEW_TOKENS = 400
STORY_SETTINGS = {"temperature": 0.8, "top_p": 0.95}


def respond(loaded, prompt: str, **settings) -> tuple[str, bool]:
    """The text that answers a prompt, and whether it ended by itself."""
    ids = list(continue_ids(loaded.model, prompt_ids(loaded.tokenizer, prompt), loaded.eos_ids,
                            max_new_tokens=MAX_NEW_TOKENS, **settings))  # fmt: skip
    return answer(loaded, ids), ids[-1] in loaded.eos_ids


def evaluate_transfers(loaded, count: int) -> list[dict]:
    rng = random.Random("evaluation")
    rows = []
    for _ in tqdm(range(count), desc="transfers"):
        transfer = held_out_transfer(rng)
        text, ended = respond(loaded, transfer.document().prompt, temperature=0)
        rows.append({"request": transfer.request, "expected": transfer.json, "text": text,
                     "exact": ended and text == transfer.json})  # fmt: skip
    return rows


def evaluate_stories(loaded, count: int) -> list[dict]:
    rng = random.Random("evaluation")
    rows = []
    for seed in tqdm(range(count), desc="stories"):
        story = held_out_story(rng)
        text, ended = respond(loaded, chatml(STORYTELLER, story.request), seed=seed, **STORY_SETTINGS)
        rows.append({"request": story.request, "text": text, "ended": ended, "kept": keeps_hero(text, story.hero),
                     "first_sentence": (SENTENCE.findall(text) or [text])[0],
                     "most_repeated": most_repeated(text)})  # fmt: skip
    return rows


def keeps_hero(text: str, hero: Hero) -> bool:
    """Whether the asked name and animal stand both in the first and in the last third of the text."""
    third = len(text) // 3
    words = (rf"\b{word}\b" for word in (hero.name, hero.animal))
    return all(re.search(word, part) for word in words for part in (text[:third], text[-third:]))


def most_repeated(text: str) -> int:
    """How often the most frequent sentence stands in the text."""
    return max(Counter(sentence.strip() for sentence in SENTENCE.findall(text)).values(), default=0)


def summarize(transfers: list[dict], stories: list[dict]) -> dict:
    def mean(rows: list[dict], name: str) -> float:
        return sum(row[name] for row in rows) / len(rows)

    return {
        "transfers": len(transfers),
        "transfers_exact": mean(transfers, "exact"),
        "stories": len(stories),
        "stories_ended": mean(stories, "ended"),
        "stories_keeping_name_and_animal": mean(stories, "kept"),
        "distinct_first_sentences": len({row["first_sentence"] for row in stories}),
        "most_repeats_of_a_sentence": max(row["most_repeated"] for row in stories),
        "median_words": statistics.median(len(row["text"].split()) for row in stories),
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transfers", type=setting_type("samples"), default=500, help="(%(default)s)")
    parser.add_argument("--stories", type=setting_type("samples"), default=200, help="(%(default)s)")
    add_model_flags(parser)
    add_results_flag(parser)
    args = parser.parse_args()
    with one_line_errors():
        start = time.perf_counter()
        loaded = load_model(args.model, args.device, args.dtype)
        transfers, stories = evaluate_transfers(loaded, args.transfers), evaluate_stories(loaded, args.stories)
        summary = {**summarize(transfers, stories), "seconds": round(time.perf_counter() - start)}
        print(markdown(summary))
        content = {"model": loaded.identity, "summary": summary, "story_settings": STORY_SETTINGS, "transfers": transfers,
                   "stories": stories}  # fmt: skip
        path = save_figures(args, "evaluation.json", content)
        with writing(path):
            write_text(path.with_suffix(".md"), markdown(summary))


if __name__ == "__main__":
    main()
