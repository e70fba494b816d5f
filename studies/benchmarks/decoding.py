"""Decoding speed beside `transformers.generate`: the same weights, prompts and lengths, in turn in one process.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --model FOLDER --new-tokens 32 --rounds 1 --dtype bfloat16

Times a single greedy stream, eight sampled rows, and the five tasks' runs, which ours does as one batch per prompt and
`generate` one call per run. No text ends before its length. Prints, and writes to results/<model>/decoding_speed_<dtype>.json,
the medians and the ratios, theirs over ours: above 1 ours is faster.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import task2_sampling  # noqa: E402
import task3_temperature  # noqa: E402
import task4_nucleus  # noqa: E402
import task5_beam  # noqa: E402
from common import (  # noqa: E402
    PROMPTS,
    InputError,
    add_model_flags,
    add_results_flag,
    find_folder,
    load_model,
    make_row,
    one_line_errors,
    prompt_ids,
    save_figures,
    setting_type,
    token_by_token,
)
from task1_greedy import choose as choose_greedy  # noqa: E402

NO_EOS = frozenset()


def our_rows(loaded, ids, choose, settings, new_tokens):
    """The texts of some settings, one row each, in one batch."""
    rows = [make_row(0, "speed", setting, number) for number, setting in enumerate(settings)]
    unending = loaded._replace(eos_ids=NO_EOS)
    for _ in token_by_token(choose)(unending, ids, rows, new_tokens, tick=lambda length: None):
        pass


def our_beams(loaded, ids, new_tokens):
    """One search per number of beams: the length penalties share it."""
    for num_beams in dict.fromkeys(setting["num_beams"] for setting in task5_beam.SETTINGS):
        task5_beam.beam_search(loaded.model, ids, num_beams, NO_EOS, new_tokens)


def our_tasks(loaded, prompts, new_tokens):
    for ids in prompts:
        our_rows(loaded, ids, choose_greedy, [{}], new_tokens)
        our_rows(loaded, ids, task2_sampling.choose, [{}] * 3, new_tokens)
        our_rows(loaded, ids, task3_temperature.choose, task3_temperature.SETTINGS, new_tokens)
        our_rows(loaded, ids, task4_nucleus.choose, task4_nucleus.SETTINGS, new_tokens)
        our_beams(loaded, ids, new_tokens)


def generate(model, ids, new_tokens, **settings):
    """transformers' own, with nothing of a generation config in its way and no end before the length."""
    ids = ids.to(model.device)
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, eos_token_id=None, pad_token_id=0,
                   **{"do_sample": False, "top_k": 0, "top_p": 1.0, "temperature": 1.0, **settings})  # fmt: skip


def their_tasks(model, prompts, new_tokens):
    for ids in prompts:
        generate(model, ids, new_tokens)
        for setting in [{}] * 3 + task3_temperature.SETTINGS + task4_nucleus.SETTINGS:
            generate(model, ids, new_tokens, do_sample=True, **setting)
        for setting in task5_beam.SETTINGS:
            generate(model, ids, new_tokens, **setting)


def open_theirs(name, device, dtype):
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(find_folder(name), dtype=getattr(torch, dtype)).to(device).eval()
    model.generation_config = GenerationConfig()
    return model


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new-tokens", type=setting_type("max_new_tokens"), default=128, help="(%(default)s)")
    parser.add_argument("--rounds", type=setting_type("samples"), default=5, help="of which the median counts (%(default)s)")
    add_model_flags(parser)
    add_results_flag(parser)
    args = parser.parse_args()
    with one_line_errors():
        loaded, theirs = load_model(args.model, args.device, args.dtype), open_theirs(args.model, args.device, args.dtype)
        prompts, new = [prompt_ids(loaded.tokenizer, name) for name in PROMPTS], args.new_tokens
        story, context = prompts[0], theirs.config.max_position_embeddings
        if max(ids.shape[1] for ids in prompts) + new > context:
            raise InputError(f"prompt and new tokens do not fit the context of {context}")
        works = {
            "one greedy stream": (
                lambda: our_rows(loaded, story, choose_greedy, [{}], new),
                lambda: generate(theirs, story, new)),
            "eight sampled rows": (
                lambda: our_rows(loaded, story, task2_sampling.choose, [{}] * 8, new),
                lambda: generate(theirs, story, new, do_sample=True, num_return_sequences=8)),
            "the five tasks": (
                lambda: our_tasks(loaded, prompts, new),
                lambda: their_tasks(theirs, prompts, new)),
        }  # fmt: skip
        rows = []
        for name, pair in works.items():
            if name != "the five tasks":
                [work() for work in pair]  # once unmeasured, to warm up
            times = [[seconds(work) for work in pair] for _ in tqdm(range(args.rounds), desc=name)]
            ours, other = (statistics.median(column) for column in zip(*times, strict=True))
            ratio = statistics.median(b / a for a, b in times)
            rows.append({"work": name, "seconds": [round(ours, 3), round(other, 3)], "ratio": round(ratio, 2)})
            print(json.dumps(rows[-1]), flush=True)
        content = {"model": loaded.identity, "new_tokens": new, "rounds": args.rounds, "first": "ours", "rows": rows}
        save_figures(args, f"decoding_speed_{args.dtype}.json", content)


if __name__ == "__main__":
    main()
