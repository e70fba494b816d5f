"""Measure what each strategy does: many seeds per setting, on the exercise's prompts and on held-out ones.

    python experiments.py
    python experiments.py --model qwen --seeds 20 --held-out 5

Every figure comes with its 95 % interval. results/<model>/experiments.json is written after each setting; a run that
was stopped goes on where it ended. Intervals of shares are Wilson's (1927), those of means percentile bootstraps. Answers to
the same request are alike: over several requests a figure is the mean of the requests' own, and so is its interval.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import task3_temperature
import task4_nucleus
from common import (
    PROMPTS,
    RIGHT_JSON,
    InputError,
    add_model_flags,
    add_results_flag,
    answer,
    decode,
    judge_json,
    load_model,
    make_row,
    one_line_errors,
    prompt_ids,
    results_folder,
    run_facts,
    save_figures,
    set_aside,
    setting_type,
    writing,
)
from evaluate_generator import keeps_hero
from strategies import choose
from task5_beam import beam_search, rank

import numpy as np
import torch
from corpus.chatml import STORYTELLER, chatml
from corpus.stories import Hero, held_out_story
from corpus.transfers import held_out_transfer
from scipy.stats import binomtest, bootstrap
from tqdm import tqdm

EXERCISE_DRAWS = [(0.0, 1.0), *((setting["temperature"], setting.get("top_p", 1.0))
                                for setting in task3_temperature.SETTINGS + task4_nucleus.SETTINGS)]  # fmt: skip
BEAMS = (1, 2, 4, 8, 16)
PENALTIES = (0.0, 0.5, 1.0, 2.0)
TEMPERATURE_SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
TOP_P_SWEEP = (0.05, 0.15, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
FILE = "experiments.json"
OUTSIDE = 0.9  # a draw falls outside when the tokens more likely than it hold at least so much


class Request(NamedTuple):
    """A prompt, and what its answer is judged by: the JSON to be written, or the hero to be told of."""

    prompt: str
    expected: str | None
    hero: Hero | None


class Sample(NamedTuple):
    """One answer and what was seen while it was written; log_prob, entropy (nats) and outside are means per token."""

    text: str
    tokens: int
    ended: bool
    log_prob: float
    entropy: float
    outside: float


EXERCISE = (Request("hedgehog", None, Hero("Sonic", "hedgehog", "tiny", "he")),
            Request("json", RIGHT_JSON, None))  # fmt: skip


def held_out_requests(count: int) -> list[Request]:
    """So many stories, and twice as many transfers, none of which training showed."""
    rng = random.Random("experiments")
    stories = [held_out_story(rng) for _ in range(count)]
    transfers = [held_out_transfer(rng) for _ in range(2 * count)]
    return [*(Request(chatml(STORYTELLER, story.request), None, story.hero) for story in stories),
            *(Request(transfer.document().prompt, transfer.json, None) for transfer in transfers)]  # fmt: skip


def settings() -> list[dict]:
    """The exercise's settings and the sweeps between them, each once."""
    found = EXERCISE_DRAWS + [(temperature, top_p) for top_p in (1.0, 0.9) for temperature in TEMPERATURE_SWEEP]
    found += [(1.0, top_p) for top_p in TOP_P_SWEEP]
    return [{"temperature": t, "top_k": 0, "top_p": p} for t, p in dict.fromkeys(found)]


# ------------------------------------------------------------------------------------------------------------ writing


def draw(loaded, request: Request, setting: dict, seeds: int, max_new_tokens: int) -> list[Sample]:
    """Answers to one request, one row each, in one batch."""
    rows = [make_row(seed, request.prompt, setting, 1) for seed in range(seeds)]
    seen = {id(row): [] for row in rows}  # of each row and step: entropy, and whether the draw fell outside

    def watched(logits, live):
        tokens = choose(logits, live)
        log_probs = logits.log_softmax(dim=-1)  # (rows, vocab)
        probs = log_probs.exp()
        entropy = -(probs * log_probs).nan_to_num().sum(dim=-1)  # a probability of 0 adds nothing
        above = (probs * (log_probs > log_probs.gather(1, tokens[:, None]))).sum(dim=-1)
        for row, step in zip(live, zip(entropy.tolist(), (above >= OUTSIDE).tolist(), strict=True), strict=True):
            seen[id(row)].append(step)
        return tokens

    ids, written, log_probs = prompt_ids(loaded.tokenizer, request.prompt), [[] for _ in rows], [0.0] * seeds
    for i, token, log_prob in decode(loaded.model, ids, watched, rows, loaded.eos_ids, max_new_tokens):
        written[i].append(token)
        log_probs[i] += log_prob
    return [Sample(answer(loaded, tokens), len(tokens), tokens[-1] in loaded.eos_ids, log_prob / len(tokens),
                   *np.mean(seen[id(row)], axis=0).tolist())
            for row, tokens, log_prob in zip(rows, written, log_probs, strict=True)]  # fmt: skip


def search(loaded, request: Request, max_new_tokens: int) -> list[dict]:
    """The winner of each number of beams and length penalty."""
    ids, found = prompt_ids(loaded.tokenizer, request.prompt), []
    for num_beams in BEAMS:
        candidates = beam_search(loaded.model, ids, num_beams, loaded.eos_ids, max_new_tokens)
        for penalty in PENALTIES:
            score, best = rank(candidates, penalty)[0]
            sample = Sample(answer(loaded, best.ids), len(best.ids), best.ended, best.log_prob / len(best.ids), 0.0, 0.0)
            found.append({"num_beams": num_beams, "length_penalty": penalty, "score": score, "log_prob": best.log_prob,
                          **sample_figures(request, sample)})  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------------------ figures


def share(flags) -> dict:
    """The share of true ones, with its interval."""
    flags = list(flags)
    low, high = binomtest(sum(flags), len(flags)).proportion_ci(0.95, "wilson")
    return {"value": sum(flags) / len(flags), "low": low, "high": high}


def mean(values) -> dict:
    """The mean, with its interval; one value, or equal ones, have none."""
    values = np.array(values, dtype=float)
    low = high = values.mean()
    if len(values) > 1 and values.std() > 0:
        low, high = bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=0).confidence_interval
    return {"value": values.mean(), "low": float(low), "high": float(high)}


def ngrams(text: str, n: int) -> list[tuple]:
    words = text.split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def repetition(text: str, n: int = 4) -> float:
    """rep-n: the share of n-grams that stood in the text before (Welleck et al. 2020, section 6.1)."""
    found = ngrams(text, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def distinct(first: str, second: str, n: int = 2) -> float:
    """distinct-n of two texts together: different n-grams over all (Li et al. 2016, section 5.3)."""
    found = ngrams(first, n) + ngrams(second, n)
    return len(set(found)) / len(found) if found else 0.0


def sample_figures(request: Request, sample: Sample) -> dict:
    """What holds of one answer, by what its request asks for."""
    if request.hero:
        return {"ended": sample.ended, "kept": keeps_hero(sample.text, request.hero), "words": len(sample.text.split()),
                "repetition": repetition(sample.text)}  # fmt: skip
    valid, right = judge_json(sample.text, request.expected)
    return {"ended": sample.ended, "valid": valid, "right": right}


def answers_figures(request: Request, answers: list[Sample]) -> dict[str, list]:
    """What holds of each answer to a request, and between neighbours: each is in one pair only, so pairs are independent."""
    each = [{**sample_figures(request, sample), "tokens": sample.tokens, "log_prob": sample.log_prob,
             "entropy": sample.entropy, "outside": sample.outside} for sample in answers]  # fmt: skip
    pairs = [(a.text, b.text) for a, b in zip(answers[::2], answers[1::2], strict=False)]
    return {**{name: [row[name] for row in each] for name in each[0]},
            "pairs_differ": [a != b for a, b in pairs], "distinct_2": [distinct(a, b) for a, b in pairs]}  # fmt: skip


def summary(requests: list[Request], drawn: list[list[Sample]]) -> dict:
    """The figures of all answers to requests of one kind."""
    found = [answers_figures(request, answers) for request, answers in zip(requests, drawn, strict=True)]
    if len(found) == 1:
        figures = {name: (share if isinstance(values[0], bool) else mean)(values) for name, values in found[0].items()}
    else:
        figures = {name: mean([np.mean(one[name]) for one in found]) for name in found[0]}
    return {**figures, "answers": sum(map(len, drawn)),
            "distinct_texts": sum(len({sample.text for sample in answers}) for answers in drawn)}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ the work


def tasks(args) -> list[tuple[str, str, list[Request], dict | None]]:
    """(what, kind, requests, setting) of each line of the results; a setting of None means beams."""
    held_out = held_out_requests(args.held_out)
    kinds = {
        "hedgehog": EXERCISE[:1],
        "json": EXERCISE[1:],
        "held-out stories": [request for request in held_out if request.hero],
        "held-out transfers": [request for request in held_out if request.expected],
    }
    drawn = [("draws", kind, requests, setting) for setting in settings() for kind, requests in kinds.items()
             if kind in PROMPTS or (setting["temperature"], setting["top_p"]) in EXERCISE_DRAWS]  # fmt: skip
    return drawn + [("beams", kind, requests, None) for kind, requests in kinds.items()]


def answered(loaded, request: Request, setting: dict | None, seeds: int, max_new_tokens: int) -> tuple[list, float]:
    """The answers to one request, or the winners of its beam searches, and the seconds it took."""
    start = time.perf_counter()
    if setting is None:
        found = search(loaded, request, max_new_tokens)
    else:
        different = seeds if setting["temperature"] else 1  # at temperature 0 every seed writes the same text
        found = draw(loaded, request, setting, different, max_new_tokens) * (seeds // different)
    return found, time.perf_counter() - start


def load_here(args, threads: int) -> None:
    """A process's start: its own copy of the model. It ends with the main process, even if that is killed."""
    global loaded_here
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(threads)
    loaded_here = load_model(args.model, args.device, args.dtype)


def answered_here(*work) -> tuple[list, float]:
    return answered(loaded_here, *work)


@contextlib.contextmanager
def side_by_side(args, loaded):
    """A `map` for `answered`, over processes: the steps of a small model are too short to keep several cores busy."""
    if args.processes == 1:
        yield lambda works: (answered(loaded, *work) for work in works)
        return
    pool = ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn"), load_here,
                               (args, torch.get_num_threads()))  # fmt: skip

    def spread(works):
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the processes inherit it: Ctrl-C is for this one to act on
        try:
            return pool.map(answered_here, *zip(*works, strict=True))
        finally:
            signal.signal(signal.SIGINT, handler)

    try:
        yield spread
    except BrokenProcessPool:
        raise InputError("a process died, perhaps of too little memory: try --processes 1") from None
    finally:
        for process in multiprocessing.active_children():
            process.kill()  # what it is at would only be thrown away
        pool.shutdown(cancel_futures=True)


def finished_rows(args, head: dict) -> list[dict]:
    """The rows of an earlier run of the same work, with however many processes; a file of any other is kept aside."""
    path = results_folder(args) / FILE
    if not path.exists():
        return []
    why = "is of another model, version or setting"
    try:
        old = json.loads(path.read_text("utf-8"))
        if all(old[key] == value for key, value in head.items() if key not in ("command", "threads")):
            return old["rows"]
    except (ValueError, KeyError, TypeError, RecursionError):
        why = "is corrupt"
    with writing(path):
        set_aside(path, why)
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=setting_type("samples"), default=200, help="answers per setting and kind (%(default)s)")
    parser.add_argument("--held-out", type=setting_type("samples"), default=20, metavar="N",
                        help="held-out stories, and twice as many transfers (%(default)s)")  # fmt: skip
    parser.add_argument("--max-new-tokens", type=setting_type("max_new_tokens"), default=400, metavar="N",
                        help="stop here if the model does not end by itself (%(default)s)")  # fmt: skip
    parser.add_argument("--processes", type=setting_type("processes"), default=2, metavar="N",
                        help="side by side, each with its copy of the model (%(default)s)")
    add_model_flags(parser)
    add_results_flag(parser)
    args = parser.parse_args()
    torch.set_num_threads(max(1, torch.get_num_threads() // args.processes))
    with one_line_errors():
        loaded = load_model(args.model, args.device, args.dtype)
        head = {"model": loaded.identity, "seeds": args.seeds, "held_out": args.held_out, "max_new_tokens": args.max_new_tokens}
        rows = finished_rows(args, {**run_facts(args), **head})
        save_figures(args, FILE, {**head, "rows": rows})  # first: better to know now if the folder cannot be written
        done = {(row["what"], row["kind"], json.dumps(row["setting"])) for row in rows}
        todo = [task for task in tasks(args) if (task[0], task[1], json.dumps(task[3])) not in done]
        works = [(request, setting, max(2, args.seeds // len(requests)), args.max_new_tokens)
                 for _, _, requests, setting in todo for request in requests]  # fmt: skip
        bar = tqdm(total=len(works), desc="experiments", unit="request", disable=not works)
        with side_by_side(args, loaded) as spread, bar:
            results = spread(works)
            for what, kind, requests, setting in todo:
                found, seconds = zip(*itertools.islice(results, len(requests)), strict=True)
                bar.update(len(requests))
                figures = {"searches": found} if setting is None else summary(requests, found)
                rows.append({"what": what, "kind": kind, "setting": setting, "seconds": round(sum(seconds), 1), **figures})
                save_figures(args, FILE, {**head, "rows": rows})


if __name__ == "__main__":
    main()
