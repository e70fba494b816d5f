"""The story of a text: prompt -> ids -> rows -> loop -> texts. What the five tasks share.

A task file holds a strategy, a function from the next token's logits to the next token, and hands it to `run_task`.
`write_one` is the loop as it is best understood, for one text; `decode` is the same for many texts at once:

    prompt -> ids (1, T) -> Batch: one prefill, spread over the rows -> decode: one token per row and step -> results

All rows of a batch continue the same prompt, or prompts of one length: there is no padding and no attention mask. "Select
these rows" is the only operation on the cache: it spreads, drops and reorders them.
"""

from support.errors import InputError, one_line_errors, report

import argparse
import hashlib
import inspect
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data.corpus.documents import JSON_MACHINE, STORYTELLER
from data.corpus.judging import judge_json
from decoding.no_repeat_ngram import ban_repeats
from decoding.numbers import checked_logits
from models.cache import growing_cache
from models.chatml import chatml, check_unicode, request_ids
from models.limits import check_known, context_of
from models.loading import Loaded, load_model
from models.rotary import keys_hold
from support.flags import COUNT, RULES, Parser, add_model_flags, add_results_flag, flag, number
from support.results import TaskResults, model_folder, print_result, run_facts, shorten

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # its import takes a second, for which --help need not wait
    from transformers import Cache, PreTrainedTokenizerBase

PROMPTS = {
    "hedgehog": chatml(STORYTELLER, "Generate me a short story about a tiny hedgehog named Sonic."),
    "json": chatml(JSON_MACHINE, "Transfer 100 rubles and 50 kopeck to Mike"),
}
RIGHT_JSON = '{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}'


# ----------------------------------------------------------------------------------------------------- prompt -> ids


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> Tensor:
    """A prompt's ids (1, T): a name in PROMPTS, ChatML text, or a user's text, each as the model wants it (`request_ids`).

    Raises InputError for an empty prompt and for one that is not valid text.
    """
    if not prompt.strip():
        raise InputError("the prompt is empty")
    check_unicode("prompt", prompt)
    return torch.tensor([request_ids(tokenizer, PROMPTS.get(prompt, prompt), STORYTELLER)])


def checked_ids(loaded: Loaded, prompt: str) -> Tensor:
    """A prompt's ids (1, T), an exercise's cut to the context. Raises InputError for unknown tokens and too long a text."""
    ids, context = prompt_ids(loaded.tokenizer, prompt), context_of(loaded.model)
    check_known(ids[0].tolist(), loaded.model, loaded.tokenizer.convert_ids_to_tokens)
    if ids.shape[1] > context and prompt not in PROMPTS:
        raise InputError(f"the prompt has {ids.shape[1]} tokens, more than the model's context of {context}: shorten it")
    if ids.shape[1] > context:
        report(f"of the {ids.shape[1]} tokens of the prompt {prompt} the model's context holds the last {context}")
        return ids[:, -context:]
    return ids


def answer(loaded: Loaded, token_ids: list[int]) -> str:
    """The text of generated ids, without the EOS that ended it; any other special token stays visible."""
    shown = token_ids[:-1] if token_ids[-1] in loaded.eos_ids else token_ids
    return loaded.tokenizer.decode(shown, clean_up_tokenization_spaces=False)


# -------------------------------------------------------------------------------------------------- the decoding loop


@torch.inference_mode()
def step(model: nn.Module, ids: Tensor, cache: "Cache | None") -> Tensor:
    """Feed new tokens ids (rows, new) -> float32 logits of the last position (rows, vocab), on the CPU.

    Raises InputError for logits that are not numbers.
    """
    device = next(model.parameters()).device
    return checked_logits(model(input_ids=ids.to(device), past_key_values=cache, logits_to_keep=1).logits[:, -1])


def write_one(model: nn.Module, ids: Tensor, choose: Callable[[Tensor], Tensor], eos_ids: frozenset[int],
              max_new_tokens: int) -> list[int]:
    """The loop for one text: the ids that continue ids (1, T), up to an id of `eos_ids`, which is among them.

    The cache remembers what was fed. `decode` does the same for many rows, and also where a cache does not hold any longer:
    beyond the model's context, and where its rotary factors change.
    """
    cache, written = growing_cache(), []
    while len(written) < max_new_tokens:
        logits = step(model, ids, cache)  # (1, vocab)
        token = choose(logits)  # (1,)
        written.append(token.item())
        if token.item() in eos_ids:
            break
        ids = token[:, None]  # (1, 1)
    return written


class Batch:
    """The texts being written: their ids (rows, T) and the cache of what the model has already read."""

    def __init__(self, model: nn.Module, ids: Tensor, context_len: int | None = None, cache: "Cache | None" = None) -> None:
        """Start with the prompt, ids (1, T). A `cache` that holds the first tokens of `ids` is used, and changed."""
        self.model, self.ids, self.cache = model, ids, growing_cache(model.config) if cache is None else cache
        self.context = context_of(model, context_len)

    def next_logits(self) -> Tensor:
        """Logits of each row's next token (rows, vocab)."""
        length = self.ids.shape[1]
        if length <= self.context:
            if not keys_hold(self.model.config, self.cache.get_seq_length(), length):
                self.cache = growing_cache(self.model.config)
            return step(self.model, self.ids[:, self.cache.get_seq_length():], self.cache)
        # The window slides: the position of every token changes, so nothing in the cache is valid any more.
        self.cache = None
        return step(self.model, self.ids[:, -self.context:], None)

    def select(self, rows: list[int]) -> None:
        """Keep these rows: [0, 0, 0] spreads, [0, 2] drops, a beam's parents reorder."""
        if list(rows) != list(range(len(self.ids))):  # copying the cache to itself costs as much as a reordering
            self.ids = self.ids[rows]
            if self.cache is not None:
                self.cache.batch_select_indices(torch.tensor(rows))

    def append(self, tokens: Tensor) -> None:
        """Add one token to each row: tokens (rows,)."""
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)


def decode(model: nn.Module, ids: Tensor, choose: Callable[..., Tensor], columns: dict[str, Sequence | Tensor],
           eos_ids: frozenset[int], max_new_tokens: int, num_rows: int = 1, context_len: int | None = None,
           cache: "Cache | None" = None, no_repeat_ngram_size: int = 0) -> Iterator[tuple[int, int, float]]:
    """Continue prompts of one length, ids (prompts, T), `num_rows` times each; yield (number of the row, token, log_prob).

    The rows of the first prompt come first. A `cache` has a row for each prompt, and holds the first tokens of all or none.
    `choose(logits (n, vocab), **columns) -> tokens (n,)` is the strategy. `columns` are what its signature names, a value
    for each row: {"generators": [...], "temperature": (rows, 1)}. A row ends with an id of `eos_ids` (which is yielded too) or
    after `max_new_tokens`; rows that end leave the batch. No run of `no_repeat_ngram_size` tokens is written twice; 0: any.
    log_prob is the token's own under the model's unchanged distribution, whatever the strategy.
    """
    spread = [prompt for prompt in range(len(ids)) for _ in range(num_rows)]
    live = list(range(len(spread)))
    batch = Batch(model, ids, context_len, cache)
    logits = batch.next_logits()[spread]  # the prefill, once for all rows of a prompt
    batch.select(spread)
    for remaining in reversed(range(max_new_tokens)):
        tokens = choose(ban_repeats(logits, batch.ids, no_repeat_ngram_size), **columns)
        log_probs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        yield from zip(live, tokens.tolist(), log_probs.tolist(), strict=True)
        alive = [i for i, token in enumerate(tokens.tolist()) if token not in eos_ids]
        if not alive or not remaining:
            return
        batch.append(tokens)
        if len(alive) < len(live):
            batch.select(alive)
            live = [live[i] for i in alive]
            columns = {name: column[alive] if isinstance(column, Tensor) else [column[i] for i in alive]
                       for name, column in columns.items()}
        logits = batch.next_logits()


# ------------------------------------------------------------------------------------------------------ running a task


class Row(NamedTuple):
    """One text to write: its setting, its number among the samples of this setting, its own random numbers."""

    setting: dict[str, float]
    sample: int
    generator: torch.Generator


def make_row(seed: int, prompt: str, setting: dict[str, float], sample: int) -> Row:
    """A row whose random numbers depend on these four alone: not on the batch, its order, or the process."""
    identity = json.dumps([seed, prompt, setting, sample], sort_keys=True)
    seed_of_row = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big")  # torch's CPU generator: 32 bits
    return Row(setting, sample, torch.Generator().manual_seed(seed_of_row))


class Text(NamedTuple):
    """A finished row: what was written, in how many seconds; `candidates`: all that a beam search finished, best first."""

    row: Row
    token_ids: list[int]
    log_prob: float
    seconds: float
    candidates: list[dict] | None = None


# (loaded, ids, rows, max_new_tokens, tick) -> each text as it ends; `tick` is told the length reached, for a progress bar.
Write = Callable[[Loaded, Tensor, list[Row], int, Callable[[int], object]], Iterator[Text]]


def token_by_token(choose: Callable[..., Tensor]) -> Write:
    """The writer of a strategy that chooses one token per row: it yields the texts in the order in which they end."""
    def write(loaded: Loaded, ids: Tensor, rows: list[Row], max_new_tokens: int,
              tick: Callable[[int], object]) -> Iterator[Text]:
        start, written, sums = time.perf_counter(), [[] for _ in rows], [0.0] * len(rows)
        events = decode(loaded.model, ids, choose, columns_of(choose, rows), loaded.eos_ids, max_new_tokens, len(rows),
                        no_repeat_ngram_size=rows[0].setting.get("no_repeat_ngram_size", 0))
        for i, token, log_prob in events:
            written[i].append(token)
            sums[i] += log_prob
            tick(len(written[i]))
            if token in loaded.eos_ids or len(written[i]) == max_new_tokens:
                yield Text(rows[i], written[i], sums[i], time.perf_counter() - start)
    return write


def columns_of(choose: Callable[..., Tensor], rows: list[Row]) -> dict[str, Sequence | Tensor]:
    """What a strategy's signature names after the logits: for sample_at_temperature(logits, generators, temperature) the rows'
    generators, and the "temperature" of their settings as a tensor (rows, 1)."""
    _, *names = inspect.signature(choose).parameters
    return {name: [row.generator for row in rows] if name == "generators" else
            torch.tensor([[row.setting[name]] for row in rows], dtype=torch.float64) for name in names}


def run_task(description: str, write: Write, settings: Sequence[dict] = ({},), samples: int | None = None) -> None:
    """The command line of a task: write the texts of every prompt, setting and sample, print and save them.

    `settings` are the exercise's; `write` is `token_by_token(strategy)`, or a search of its own; a strategy that draws has
    a number of `samples`.
    """
    with one_line_errors():
        args = parse_arguments(description, settings, samples)
        results = TaskResults(model_folder(args.results, args.model, args.adapter) / f"{Path(sys.argv[0]).stem}.json")
        settings = chosen_settings({name: getattr(args, name) for name in settings[0]}, settings)
        if args.no_repeat_ngram_size:
            settings = [{**setting, "no_repeat_ngram_size": args.no_repeat_ngram_size} for setting in settings]
        loaded = load_model(args.model, args.device, args.dtype, args.engine, args.adapter)
        ids = {prompt: checked_ids(loaded, prompt) for prompt in dict.fromkeys(args.prompt)}
        results.open({"model": loaded.identity, **run_facts(args.device, args.dtype), "seed": args.seed})
        try:
            for prompt in ids:
                rows = [make_row(args.seed, prompt, setting, sample + 1)
                        for setting in settings for sample in range(args.samples)]
                for text in with_progress(write, loaded, prompt, ids[prompt], rows, args.max_new_tokens):
                    result = make_result(loaded, prompt, text, args.seed, args.max_new_tokens)
                    results.add(result)  # first: whoever reads may have left
                    print_result(result)
        finally:
            results.save()  # also after Ctrl-C: what is finished is kept


def with_progress(write: Write, loaded: Loaded, prompt: str, ids: Tensor, rows: list[Row],
                  max_new_tokens: int) -> Iterator[Text]:
    """The texts of one prompt, each as it ends, with a progress bar on a terminal meanwhile."""
    from tqdm import tqdm

    with tqdm(total=max_new_tokens, desc=f"{shorten(prompt)}, {len(rows)} rows", unit="token", leave=False,
              disable=None) as bar:
        for text in write(loaded, ids, rows, max_new_tokens, lambda length: bar.update(length - bar.n)):
            bar.clear()
            yield text


def make_result(loaded: Loaded, prompt: str, text: Text, seed: int, max_new_tokens: int) -> dict[str, Any]:
    """A text as it is saved."""
    words = answer(loaded, text.token_ids)
    result = {"prompt": prompt, "parameters": text.row.setting, "sample": text.row.sample, "seed": seed,
              "max_new_tokens": max_new_tokens, "text": words, "token_ids": text.token_ids,
              "new_tokens": len(text.token_ids), "stop": "eos" if text.token_ids[-1] in loaded.eos_ids else "limit",
              "log_prob": text.log_prob, "tokens_per_second": round(len(text.token_ids) / text.seconds, 1)}
    if prompt == "json":
        result["json_valid"], result["json_correct"] = judge_json(words, RIGHT_JSON)
    if text.candidates:
        result["candidates"] = text.candidates
    return result


def parse_arguments(description: str, settings: Sequence[dict], samples: int | None) -> argparse.Namespace:
    """The flags: one for each number in the task's settings, then those that all tasks share."""
    parser = Parser(description)
    own = parser.add_argument_group("the strategy's settings")
    for name in settings[0]:
        values = dict.fromkeys(setting[name] for setting in settings)
        own.add_argument(flag(name), type=number(RULES[name]), nargs="+", metavar="N",
                         help=f"{RULES[name].words}; several values make every combination "
                              f"(default: {' '.join(f'{value:g}' for value in values)})")
    if samples:
        own.add_argument("--samples", type=number(COUNT), default=samples, metavar="N",
                         help="texts per prompt and setting (default: %(default)s)")
    else:
        parser.set_defaults(samples=1)
    own.add_argument("--seed", type=number(RULES["seed"]), default=0, metavar="N",
                     help="another seed, other texts; the same seed, the same texts (default: %(default)s)" if samples else
                     "accepted so that all tasks have the same flags: nothing is drawn here")
    common = parser.add_argument_group("common")
    common.add_argument("--prompt", nargs="+", default=list(PROMPTS), metavar="TEXT",
                        help="hedgehog, json, or a text of your own, put into the model's chat template "
                             "(default: hedgehog json)")
    common.add_argument("--max-new-tokens", type=number(COUNT), default=1000, metavar="N",
                        help="stop here if the model does not end by itself (default: %(default)s)")
    common.add_argument("--no-repeat-ngram-size", type=number(RULES["no_repeat_ngram_size"]), default=0, metavar="N",
                        help="write no run of N tokens twice, those of the prompt included (default: %(default)s, off)")
    add_model_flags(common)
    add_results_flag(common)
    return parser.parse_args()


def chosen_settings(given: dict[str, list[float] | None], settings: Sequence[dict]) -> Sequence[dict]:
    """The exercise's settings, or every combination of the flags; a flag left out keeps the exercise's values."""
    if not any(given.values()):
        return settings
    values = [dict.fromkeys(given[name] or [setting[name] for setting in settings]) for name in given]
    return [dict(zip(given, combination, strict=True)) for combination in itertools.product(*values)]
