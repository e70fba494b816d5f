"""Decoding speed beside `transformers.generate`: the same weights, prompts and lengths, in turn in one process.

    python -m studies.benchmarks.decoding
    python -m studies.benchmarks.decoding --model FOLDER --new-tokens 32 --rounds 1 --dtype bfloat16

Times a single greedy stream, eight sampled rows, and the five tasks' texts, which ours writes as one batch per prompt and
`generate` in one call per text. No text ends before its length. Prints the medians and the ratios, theirs over ours (above
1 ours is faster), and writes them to results/<model>/decoding_speed_<dtype>.json.
"""

from support.errors import InputError, one_line_errors

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import task2_sampling
import task3_temperature
import task4_nucleus
import task5_beam
from common import PROMPTS, context_of, make_row, prompt_ids, token_by_token
from models.adapter import merged
from models.loading import Loaded, load_model, open_causal_lm, open_gguf
from models.places import find_model
from support.flags import COUNT, Parser, add_model_flags, add_results_flag, number
from support.results import is_gguf, model_folder, run_facts, write_json
from task1_greedy import greedy

import torch
from torch import Tensor, nn
from tqdm import tqdm

NO_EOS = frozenset()
SAMPLE_SETTINGS = [{}] * 3  # task 2's three samples
DRAWN_SETTINGS = SAMPLE_SETTINGS + task3_temperature.SETTINGS + task4_nucleus.SETTINGS


def our_rows(loaded: Loaded, ids: Tensor, choose: Callable[..., Tensor], settings: Sequence[dict], new_tokens: int) -> None:
    """Write the texts of some settings, one row each, in one batch."""
    rows = [make_row(0, "speed", setting, sample) for sample, setting in enumerate(settings)]
    unending = loaded._replace(eos_ids=NO_EOS)
    for _ in token_by_token(choose)(unending, ids, rows, new_tokens, lambda length: None):
        pass


def our_beams(loaded: Loaded, ids: Tensor, new_tokens: int) -> None:
    """One search per number of beams: the length penalties share it."""
    for num_beams in dict.fromkeys(setting["num_beams"] for setting in task5_beam.SETTINGS):
        task5_beam.beam_search(loaded.model, ids, num_beams, NO_EOS, new_tokens)


def our_tasks(loaded: Loaded, prompts: list[Tensor], new_tokens: int) -> None:
    """Every text of the five tasks."""
    for ids in prompts:
        our_rows(loaded, ids, greedy, [{}], new_tokens)
        our_rows(loaded, ids, task2_sampling.sample, SAMPLE_SETTINGS, new_tokens)
        our_rows(loaded, ids, task3_temperature.sample_at_temperature, task3_temperature.SETTINGS, new_tokens)
        our_rows(loaded, ids, task4_nucleus.sample_from_nucleus, task4_nucleus.SETTINGS, new_tokens)
        our_beams(loaded, ids, new_tokens)


def generate(model: nn.Module, ids: Tensor, new_tokens: int, **settings: float) -> None:
    """transformers' own loop, with nothing of a generation config in its way and no end before the length."""
    ids = ids.to(model.device)
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0,
                   **{"do_sample": False, "top_k": 0, "top_p": 1.0, "temperature": 1.0, **settings})  # fmt: skip


def their_tasks(model: nn.Module, prompts: list[Tensor], new_tokens: int) -> None:
    """The same texts, one call each."""
    for ids in prompts:
        generate(model, ids, new_tokens)
        for setting in DRAWN_SETTINGS:
            generate(model, ids, new_tokens, do_sample=True, **setting)
        for setting in task5_beam.SETTINGS:
            generate(model, ids, new_tokens, **setting)


def open_theirs(name: str, device: str, dtype: str, adapter: Path | None) -> nn.Module:
    """The same model, opened by transformers, without its generation config."""
    from transformers import GenerationConfig

    place = find_model(name)
    model = (open_gguf if is_gguf(place) else open_causal_lm)(place, getattr(torch, dtype))
    model = (merged(model, adapter) if adapter else model).to(device).eval()
    model.generation_config = GenerationConfig()
    return model


def works(loaded: Loaded, theirs: nn.Module, prompts: list[Tensor], new: int) -> dict[str, tuple[Callable, Callable]]:
    """What is timed: (ours, theirs) by name."""
    story = prompts[0]
    return {
        "one greedy stream": (
            lambda: our_rows(loaded, story, greedy, [{}], new),
            lambda: generate(theirs, story, new)),
        "eight sampled rows": (
            lambda: our_rows(loaded, story, task2_sampling.sample, [{}] * 8, new),
            lambda: generate(theirs, story, new, do_sample=True, num_return_sequences=8)),
        "the five tasks": (
            lambda: our_tasks(loaded, prompts, new),
            lambda: their_tasks(theirs, prompts, new)),
    }  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    """The wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(name: str, pair: tuple[Callable, Callable], rounds: int) -> dict:
    """The medians of a pair, timed in turn, and the median ratio."""
    if name != "the five tasks":
        [work() for work in pair]  # once unmeasured, to warm up
    times = [[seconds(work) for work in pair] for _ in tqdm(range(rounds), desc=name)]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    return {"work": name, "seconds": [round(ours, 3), round(theirs, 3)], "ratio": round(ratio, 2)}


def main() -> None:
    with one_line_errors():
        parser = Parser(__doc__)
        parser.add_argument("--new-tokens", type=number(COUNT), default=128, metavar="N", help="(default: %(default)s)")
        parser.add_argument("--rounds", type=number(COUNT), default=5, metavar="N",
                            help="of which the median counts (default: %(default)s)")  # fmt: skip
        add_model_flags(parser)
        add_results_flag(parser)
        args = parser.parse_args()
        loaded = load_model(args.model, args.device, args.dtype, args.engine, args.adapter)
        theirs = open_theirs(args.model, args.device, args.dtype, args.adapter)
        prompts = [prompt_ids(loaded.tokenizer, name) for name in PROMPTS]
        if max(ids.shape[1] for ids in prompts) + args.new_tokens > context_of(theirs):
            raise InputError(f"prompt and new tokens do not fit the context of {context_of(theirs)}")
        rows = []
        for name, pair in works(loaded, theirs, prompts, args.new_tokens).items():
            rows.append(compare(name, pair, args.rounds))
            print(json.dumps(rows[-1]), flush=True)
        write_json(model_folder(args.results, args.model, args.adapter) / f"decoding_speed_{args.dtype}.json", {
            **run_facts(args.device, args.dtype), "model": loaded.identity, "new_tokens": args.new_tokens,
            "rounds": args.rounds, "first": "ours", "rows": rows})  # fmt: skip


if __name__ == "__main__":
    main()
