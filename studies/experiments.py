"""Measure what each strategy does: many seeds per setting, on the exercise's prompts and on held-out ones.

    python -m studies.experiments
    python -m studies.experiments --model qwen --seeds 20 --held-out 5

Every figure comes with its 95 % interval. results/<model>/experiments.json is written after each setting; a run that was
stopped continues where it ended. Answers to the same request resemble each other: over several requests a figure is the
mean of the requests' own figures, and its interval is that mean's.
"""

from support.errors import InputError, one_line_errors

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

import task3_temperature
import task4_nucleus
from common import PROMPTS, RIGHT_JSON, answer, checked_ids, decode, make_row
from data.corpus.documents import STORYTELLER
from data.corpus.judging import judge_json, keeps_hero
from data.corpus.stories import Hero, held_out_story
from data.corpus.transfers import held_out_transfer
from models.chatml import chatml
from models.loading import Loaded, load_model
from strategies import choose
from studies.measures import distinct, entropies, mean, repetition, share
from support.flags import COUNT, Parser, add_model_flags, add_results_flag, number
from support.results import model_folder, read_json, run_facts, set_aside, write_json
from task5_beam import beam_search, rank

import numpy as np
import torch
from torch import Generator, Tensor
from tqdm import tqdm

EXERCISE_DRAWS = [(0.0, 1.0), *((setting["temperature"], setting.get("top_p", 1.0))
                                for setting in task3_temperature.SETTINGS + task4_nucleus.SETTINGS)]  # fmt: skip
BEAMS = (1, 2, 4, 8, 16)
PENALTIES = (0.0, 0.5, 1.0, 2.0)
TEMPERATURE_SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
TOP_P_SWEEP = (0.05, 0.15, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
FILE = "experiments.json"
OUTSIDE = 0.9  # a draw counts as outside when the tokens more likely than it hold at least this much probability


class Request(NamedTuple):
    """A prompt, and what its answer is judged by: the JSON that is right, or the hero to tell of."""

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


class Measurement(NamedTuple):
    """What is still to be measured, one entry of the results file; no setting means beam searches."""

    what: str  # "draws" or "beams"
    kind: str  # of request
    requests: Sequence[Request]
    setting: dict | None


EXERCISE = (Request("hedgehog", None, Hero("Sonic", "hedgehog", "tiny", "he")),
            Request("json", RIGHT_JSON, None))  # fmt: skip


# ---------------------------------------------------------------------------------------------------- what is measured


def held_out_requests(count: int) -> list[Request]:
    """`count` stories, and twice as many transfers, none of which training showed."""
    rng = random.Random("experiments")
    stories = [held_out_story(rng) for _ in range(count)]
    transfers = [held_out_transfer(rng) for _ in range(2 * count)]
    return [*(Request(chatml(STORYTELLER, story.request), None, story.hero) for story in stories),
            *(Request(transfer.document().prompt, transfer.json, None) for transfer in transfers)]  # fmt: skip


def settings() -> list[dict]:
    """The exercise's settings and the sweeps around them, each once."""
    found = EXERCISE_DRAWS + [(temperature, top_p) for top_p in (1.0, 0.9) for temperature in TEMPERATURE_SWEEP]
    found += [(1.0, top_p) for top_p in TOP_P_SWEEP]
    return [{"temperature": t, "top_k": 0, "top_p": p} for t, p in dict.fromkeys(found)]


def measurements(held_out: int) -> list[Measurement]:
    """Everything to measure, with so many held-out stories. The sweeps run on the exercise's prompts alone."""
    requests = held_out_requests(held_out)
    kinds = {
        "hedgehog": EXERCISE[:1],
        "json": EXERCISE[1:],
        "held-out stories": [request for request in requests if request.hero],
        "held-out transfers": [request for request in requests if request.expected],
    }
    draws = [Measurement("draws", kind, requests, setting) for setting in settings() for kind, requests in kinds.items()
             if kind in PROMPTS or (setting["temperature"], setting["top_p"]) in EXERCISE_DRAWS]  # fmt: skip
    return draws + [Measurement("beams", kind, requests, None) for kind, requests in kinds.items()]


# ------------------------------------------------------------------------------------------------------------- writing


def draw(loaded: Loaded, request: Request, setting: dict, seeds: int, max_new_tokens: int) -> list[Sample]:
    """Answers to one request, one row each, in one batch."""
    rows = [make_row(seed, request.prompt, setting, 1) for seed in range(seeds)]
    seen = [[] for _ in rows]  # of each row and step: entropy, and whether the draw fell outside

    def watched(logits: Tensor, generators: list[Generator], numbers: list[int]) -> Tensor:
        tokens = choose(logits, generators, **setting)
        for row, *figures in zip(numbers, *step_figures(logits, tokens), strict=True):
            seen[row].append(figures)
        return tokens

    ids, written, log_probs = checked_ids(loaded, request.prompt), [[] for _ in rows], [0.0] * seeds
    columns = {"generators": [row.generator for row in rows], "numbers": range(seeds)}
    for i, token, log_prob in decode(loaded.model, ids, watched, columns, loaded.eos_ids, max_new_tokens, seeds):
        written[i].append(token)
        log_probs[i] += log_prob
    return [Sample(answer(loaded, tokens), len(tokens), tokens[-1] in loaded.eos_ids, log_prob / len(tokens),
                   *np.mean(figures, axis=0).tolist())
            for figures, tokens, log_prob in zip(seen, written, log_probs, strict=True)]  # fmt: skip


def step_figures(logits: Tensor, tokens: Tensor) -> tuple[list[float], list[bool]]:
    """Each row's entropy, and whether its token fell outside: logits (rows, vocab), tokens (rows,)."""
    log_probs = logits.log_softmax(dim=-1)
    probs = log_probs.exp()
    above = (probs * (log_probs > log_probs.gather(1, tokens[:, None]))).sum(dim=-1)
    return entropies(log_probs).tolist(), (above >= OUTSIDE).tolist()


def search(loaded: Loaded, request: Request, max_new_tokens: int) -> list[dict]:
    """The winner of each number of beams and length penalty."""
    ids, found = checked_ids(loaded, request.prompt), []
    for num_beams in BEAMS:
        candidates = beam_search(loaded.model, ids, num_beams, loaded.eos_ids, max_new_tokens)
        for penalty in PENALTIES:
            score, best = rank(candidates, penalty)[0]
            sample = Sample(answer(loaded, best.ids), len(best.ids), best.ended, best.log_prob / len(best.ids), 0.0, 0.0)
            found.append({"num_beams": num_beams, "length_penalty": penalty, "score": score, "log_prob": best.log_prob,
                          **sample_figures(request, sample)})  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------------------- figures


def sample_figures(request: Request, sample: Sample) -> dict:
    """The figures of one answer, by what its request asks for."""
    if request.hero:
        return {"ended": sample.ended, "kept": keeps_hero(sample.text, request.hero), "words": len(sample.text.split()),
                "repetition": repetition(sample.text)}  # fmt: skip
    valid, right = judge_json(sample.text, request.expected)
    return {"ended": sample.ended, "valid": valid, "right": right}


def answers_figures(request: Request, answers: Sequence[Sample]) -> dict[str, list]:
    """Each figure of each answer to a request, and of pairs of neighbours; no answer is in two pairs: pairs are independent."""
    each = [{**sample_figures(request, sample), "tokens": sample.tokens, "log_prob": sample.log_prob,
             "entropy": sample.entropy, "outside": sample.outside} for sample in answers]  # fmt: skip
    pairs = [(a.text, b.text) for a, b in zip(answers[::2], answers[1::2], strict=False)]
    return {**{name: [one[name] for one in each] for name in each[0]},
            "pairs_differ": [a != b for a, b in pairs], "distinct_2": [distinct(a, b) for a, b in pairs]}  # fmt: skip


def summary(requests: Sequence[Request], drawn: Sequence[Sequence[Sample]]) -> dict:
    """The figures of all answers to the requests of one kind: drawn[i] answers requests[i]."""
    found = [answers_figures(request, answers) for request, answers in zip(requests, drawn, strict=True)]
    if len(found) == 1:
        figures = {name: (share if isinstance(values[0], bool) else mean)(values) for name, values in found[0].items()}
    else:
        figures = {name: mean([np.mean(one[name]) for one in found]) for name in found[0]}
    return {**figures, "answers": sum(map(len, drawn)),
            "distinct_texts": sum(len({sample.text for sample in answers}) for answers in drawn)}  # fmt: skip


# ------------------------------------------------------------------------------------------------------- side by side


Work = tuple[Request, dict | None, int, int]  # request, setting, seeds, max_new_tokens
Spread = Callable[[Sequence[Work]], Iterator[tuple[list, float]]]  # a map of `answered`


def answered(loaded: Loaded, request: Request, setting: dict | None, seeds: int, max_new_tokens: int) -> tuple[list, float]:
    """The answers to one request, or the winners of its beam searches, and the seconds it took."""
    start = time.perf_counter()
    if setting is None:
        found = search(loaded, request, max_new_tokens)
    else:
        different = seeds if setting["temperature"] else 1  # at temperature 0 every seed writes the same text
        found = draw(loaded, request, setting, different, max_new_tokens) * (seeds // different)
    return found, time.perf_counter() - start


def load_here(load: Callable[[], Loaded], threads: int) -> None:
    """Give a process its own copy of the model. The process ends with the main one, even if that is killed."""
    global loaded_here
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(threads)
    loaded_here = load()


def answered_here(*work: object) -> tuple[list, float]:
    """`answered` in a process that `load_here` started."""
    return answered(loaded_here, *work)


@contextlib.contextmanager
def side_by_side(processes: int, loaded: Loaded, load: Callable[[], Loaded]) -> Iterator[Spread]:
    """A map for `answered` over processes that each `load` the model; a single one works here, with the `loaded` model.

    The steps of a small model are too short to keep several cores busy. Raises InputError where a process dies.
    """
    if processes == 1:
        yield lambda works: (answered(loaded, *work) for work in works)
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), load_here, (load, torch.get_num_threads()))

    def spread(works: Sequence[Work]) -> Iterator[tuple[list, float]]:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the processes inherit it: Ctrl-C is for this one to act on
        try:
            return pool.map(answered_here, *zip(*works, strict=True))
        finally:
            signal.signal(signal.SIGINT, handler)

    try:
        yield spread
    except BrokenProcessPool:
        raise InputError("a process died, perhaps because memory ran out: try --processes 1") from None
    finally:
        for process in multiprocessing.active_children():
            process.kill()  # its work would be thrown away
        pool.shutdown(cancel_futures=True)


# ------------------------------------------------------------------------------------------------------- the command


def measure(todo: Sequence[Measurement], spread: Spread, seeds: int, max_new_tokens: int) -> Iterator[dict]:
    """The entries of the results file, each as it is ready; `seeds` answers for each, at least two for a request."""
    works = [(request, one.setting, max(2, seeds // len(one.requests)), max_new_tokens)
             for one in todo for request in one.requests]  # fmt: skip
    with tqdm(total=len(works), desc="experiments", unit="request", disable=not works) as bar:
        results = spread(works)
        for one in todo:
            found, seconds = zip(*itertools.islice(results, len(one.requests)), strict=True)
            bar.update(len(one.requests))
            figures = {"searches": found} if one.setting is None else summary(one.requests, found)
            yield {"what": one.what, "kind": one.kind, "setting": one.setting, "seconds": round(sum(seconds), 1), **figures}


def key(what: str, kind: str, setting: dict | None) -> str:
    """What distinguishes an entry of the results file from the others."""
    return json.dumps([what, kind, setting])


def finished_entries(path: Path, head: dict) -> list[dict]:
    """The entries of an earlier run of the same work, with any number of processes; any other file is kept aside."""
    if not path.exists():
        return []
    try:
        old = read_json(path)
        if all(old[name] == value for name, value in head.items() if name not in ("command", "threads")):
            return old["rows"]
        why = "is of another model, version or setting"
    except (InputError, KeyError):
        why = "is corrupt"
    set_aside(path, why)
    return []


def parse_arguments() -> Namespace:
    """The flags."""
    parser = Parser(__doc__)
    parser.add_argument("--seeds", type=number(COUNT), default=200, metavar="N",
                        help="answers per setting and kind of request (default: %(default)s)")  # fmt: skip
    parser.add_argument("--held-out", type=number(COUNT), default=20, metavar="N",
                        help="held-out stories, and twice as many transfers (default: %(default)s)")  # fmt: skip
    parser.add_argument("--max-new-tokens", type=number(COUNT), default=400, metavar="N",
                        help="stop here if the model does not end by itself (default: %(default)s)")  # fmt: skip
    parser.add_argument("--processes", type=number(COUNT), default=2, metavar="N",
                        help="side by side, each with its copy of the model (default: %(default)s)")  # fmt: skip
    add_model_flags(parser)
    add_results_flag(parser)
    return parser.parse_args()


def main() -> None:
    with one_line_errors():
        args = parse_arguments()
        torch.set_num_threads(max(1, torch.get_num_threads() // args.processes))
        load = partial(load_model, args.model, args.device, args.dtype, args.engine, args.adapter)
        loaded, path = load(), model_folder(args.results, args.model, args.adapter) / FILE
        head = {**run_facts(args.device, args.dtype), "model": loaded.identity, "seeds": args.seeds,
                "held_out": args.held_out, "max_new_tokens": args.max_new_tokens}  # fmt: skip
        entries = finished_entries(path, head)
        write_json(path, {**head, "rows": entries})  # first: better to know now if the folder cannot be written
        done = {key(entry["what"], entry["kind"], entry["setting"]) for entry in entries}
        todo = [one for one in measurements(args.held_out) if key(one.what, one.kind, one.setting) not in done]
        with side_by_side(args.processes, loaded, load) as spread:
            for entry in measure(todo, spread, args.seeds, args.max_new_tokens):
                entries.append(entry)
                write_json(path, {**head, "rows": entries})


if __name__ == "__main__":
    main()
