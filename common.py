"""What the five tasks share: the prompts, loading a model, the decoding loop, the command line, the results.

A task file holds an algorithm and hands it to `run_task`. Everything here serves any strategy:

    prompt -> ids (1, T) -> Rows: one prefill, spread over the rows -> decode: one token per row and step -> results

All rows of a batch continue the same prompt, so they always have the same length: there is no padding and no
attention mask. "Select these rows" is the only operation on the cache: it spreads, drops and reorders them.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import platform
import re
import shlex
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import torch  # transformers is imported where it is used: `--help` has no need to wait for it

from corpus.chatml import STORYTELLER
from generator import GeneratorTransformer, write_text
from packing import pack
from tokenizer import IM_END, IM_START

input_text_hedgehog = '<|im_start|>system\nYou are a storyteller. Generate a story based on user message.<|im_end|>\n<|im_start|>user\nGenerate me a short story about a tiny hedgehog named Sonic.<|im_end|>\n<|im_start|>assistant\n'  # noqa: E501
input_text_json = '<|im_start|>system\nYou are a JSON machine. Generate a JSON with format {"contractor": string with normalized contractor name, "sum": decimal, "currency": string with uppercased 3-letter currency code} based on user message.<|im_end|>\n<|im_start|>user\nTransfer 100 rubles and 50 kopeck to Mike<|im_end|>\n<|im_start|>assistant\n'  # noqa: E501
PROMPTS = {"hedgehog": input_text_hedgehog, "json": input_text_json}
RIGHT_JSON = '{"contractor": "Mike", "sum": 100.50, "currency": "RUB"}'

QWEN = "Qwen/Qwen2.5-0.5B-Instruct"
CHECKPOINT = Path(__file__).resolve().parent / "checkpoint"


# ---------------------------------------------------------------------------------------------- refusing bad input


class InputError(ValueError):
    """The user asked for something that cannot be done; the message is one line for the user."""


@contextmanager
def one_line_errors():
    """An InputError, or a full disk under the output, becomes `error: ...` and exit code 2, Ctrl-C exit code 130, a reader
    who left 1: never a traceback."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit would fail again
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        print(f"error: cannot go on: {first_line(error)}", file=sys.stderr)
        sys.exit(2)


# name: (type, whether a value is allowed, what to tell the user otherwise)
RULES = {
    "temperature": (float, lambda value: 0 <= value < math.inf, "a finite number, 0 or more"),
    "top_k": (int, lambda value: value >= 0, "0 (off) or more"),
    "top_p": (float, lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "num_beams": (int, lambda value: value >= 1, "1 or more"),
    "length_penalty": (float, lambda value: -50 <= value <= 50, "from -50 to 50"),
    "max_new_tokens": (int, lambda value: value >= 1, "1 or more"),
    "context_len": (int, lambda value: value >= 1, "1 or more"),
    "samples": (int, lambda value: value >= 1, "1 or more"),
    "processes": (int, lambda value: value >= 1, "1 or more"),
    "seed": (int, lambda value: 0 <= value < 2**63, "0 or more, below 2**63"),
}


def check_setting(name, value):
    """The value as its setting's type; text is parsed. Raises InputError when the setting cannot have this value."""
    kind, allowed, rule = RULES[name]
    try:
        number = kind(value)
        if number != value and not isinstance(value, str) or not allowed(number):  # int(1.5) is 1: not what was asked
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name.replace('_', ' ')} must be {rule}, not {value!r}") from error
    return number


# ------------------------------------------------------------------------------------------------------- the model


class Loaded(NamedTuple):
    """A model ready to decode: `identity` says which one it is, for the results."""

    model: torch.nn.Module
    tokenizer: object
    eos_ids: frozenset
    identity: dict


def load_model(name, device="cpu", dtype="float32"):
    """Open `generator` (the shipped checkpoint), `qwen`, any hub name, or any local folder.

    Raises InputError for what is not there or cannot be read. There is no fallback to another model.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        folder = find_folder(name)
        model, tokenizer = (open_generator if name == "generator" else open_causal_lm)(folder, getattr(torch, dtype))
        model = model.to(device).eval()
        parameters = sum(weight.numel() for weight in model.parameters())
        pack(model)
    except InputError:
        raise
    except Exception as error:  # a broken folder or device fails in many ways, with many types
        raise InputError(f"cannot load the model {name}: {first_line(error)}") from error
    if len(tokenizer) > model.config.vocab_size:
        raise InputError(f"the model {name} has a tokenizer of {len(tokenizer)} tokens "
                         f"but weights for {model.config.vocab_size}")
    identity = {"name": QWEN if name == "qwen" else short_name(name), "revision": revision(folder),
                "parameters": parameters}
    return Loaded(model, tokenizer, frozenset([chat_end(tokenizer)]), identity)


def short_name(name):
    """A model's name for the results and their folder: the last part of a path, or of a hub name."""
    return Path(name).resolve().name or "model"


def open_generator(folder, dtype):
    """The project's own decoder and its tokenizer, from its checkpoint folder."""
    return GeneratorTransformer.load_from_checkpoint(folder).to(dtype), open_tokenizer(folder)


def open_causal_lm(folder, dtype):
    """Any causal language model of transformers that attends to keys and values.

    Raises InputError for weights that are missing or do not fit, and for a model that keeps a running state, as Mamba does.
    """
    from transformers import AutoModelForCausalLM
    from transformers.cache_utils import DynamicCache, LinearAttentionCacheLayerMixin

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False,
        output_loading_info=True)
    unfit = [*info["missing_keys"], *info["mismatched_keys"]]  # transformers would fill these with random numbers
    if unfit:
        raise InputError(f"the weights in {folder} do not fill the model: {unfit[0]} is missing or misshaped")
    kept = DynamicCache(config=model.config).layers
    if model._is_stateful or any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in kept):
        raise InputError(f"{model.config.model_type} keeps a running state, where decoding here needs keys and values")
    return model, open_tokenizer(folder)


def open_tokenizer(folder):
    """The tokenizer of a model's folder.

    AutoTokenizer gives every folder of type qwen2 the pre-tokenizer of Qwen2, whatever its tokenizer.json says: wrong
    for a decoder of ours that was trained on characters or words.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    settings = folder / "tokenizer_config.json"
    plain = settings.exists() and json.loads(settings.read_text("utf-8")).get("tokenizer_class") == "PreTrainedTokenizerFast"
    opener = PreTrainedTokenizerFast if plain else AutoTokenizer
    return opener.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def find_folder(name):
    """The local folder of a model; a hub model is downloaded unless the Hugging Face cache holds it."""
    folder = CHECKPOINT if name == "generator" else Path(name)
    if folder.is_dir() and name != "qwen":
        return folder
    if name == "generator":
        raise InputError("the folder checkpoint/ is missing: restore it with git, or train one: README.md, Train it yourself")
    hub_name = QWEN if name == "qwen" else name
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", hub_name):
        raise InputError(f"no model folder at {name}")
    from huggingface_hub import model_info, snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    try:
        try:
            cached = Path(snapshot_download(hub_name, allow_patterns=wanted, local_files_only=True))
            if (cached / "config.json").exists() and any(cached.glob("*.safetensors")):
                return cached
        except OSError:
            pass  # not in the cache: ask the hub
        model_info(hub_name, timeout=5)  # snapshot_download would wait for ever for a hub that does not answer
        return Path(snapshot_download(hub_name, allow_patterns=wanted))
    except Exception as error:  # no network, no such model, no permission, no space: each with a type of its own
        raise InputError(f"no model {name} here, in the Hugging Face cache or on the hub ({first_line(error)}): "
                         f"download it with `hf download {hub_name}`, point --model at a folder, "
                         "or use --model generator") from error


def first_line(error):
    """An exception's message without what follows its first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def revision(folder):
    """The hub's commit when the folder is a snapshot in its cache, else a hash of the weights and the tokenizer."""
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("tokenizer.json")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return "sha256:" + digest.hexdigest()[:16]


def chat_end(tokenizer):
    """The id that ends an answer: <|im_end|> where the tokenizer has it (151645 in Qwen2.5), else its own EOS."""
    end = tokenizer.get_vocab().get(IM_END, tokenizer.eos_token_id)
    if end is None:
        raise InputError("the model's tokenizer names no end-of-text token")
    return end


# --------------------------------------------------------------------------------------------------------- prompts


def prompt_ids(tokenizer, prompt):
    """A prompt's ids (1, T): a name in PROMPTS, ChatML text as it stands, or a user's text, which gets wrapped.

    Raises InputError for an empty prompt and for one that is not valid text.
    """
    if not prompt.strip():
        raise InputError("the prompt is empty")
    check_unicode("prompt", prompt)
    text = PROMPTS.get(prompt, prompt)
    if IM_START in text:
        return torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    return chat_ids(tokenizer, [("system", STORYTELLER), ("user", text)])


def check_unicode(name, text):
    """Raises InputError for bytes that no terminal should have sent: Python keeps them as surrogates."""
    if re.search("[\ud800-\udfff]", text):
        raise InputError(f"the {name} is not valid UTF-8")


def chat_ids(tokenizer, messages):
    """Ids (1, T) of a ChatML conversation of (role, text) pairs, open for the assistant's answer.

    The texts are data: an <|im_end|> in them becomes ordinary characters, not the control token.
    """
    start, end = (tokenizer.encode(mark, add_special_tokens=False) for mark in (IM_START, IM_END))
    ids = [start + plain_ids(tokenizer, f"{role}\n{text}") + end + plain_ids(tokenizer, "\n") for role, text in messages]
    return torch.tensor([[*itertools.chain(*ids), *start, *plain_ids(tokenizer, "assistant\n")]])


def plain_ids(tokenizer, text):
    """The ids (a list) of a text in which nothing is a control token, whatever it looks like."""
    ids = []
    for part in re.split(f"({added_tokens(tokenizer)})", text):
        # A tokenizer looks for its added tokens in the text, and some of them count as ordinary: cut through each.
        pieces = (part[:1], part[1:]) if part in tokenizer.get_added_vocab() else (part,)
        for piece in pieces:
            ids += tokenizer.encode(piece, add_special_tokens=False, split_special_tokens=True)
    return ids


def added_tokens(tokenizer):
    """A regular expression that finds the tokens that were added to the tokenizer's vocabulary."""
    return "|".join(map(re.escape, sorted(tokenizer.get_added_vocab(), key=len, reverse=True))) or "(?!)"


# -------------------------------------------------------------------------------------------------------- decoding


@torch.inference_mode()
def step(model, ids, cache):
    """Feed new tokens ids (rows, new) -> float32 logits of the last position (rows, vocab), on the CPU.

    Choosing on the CPU makes the choice the same whatever device the model is on. `cache` may be None.
    """
    device = next(model.parameters()).device
    logits = model(input_ids=ids.to(device), past_key_values=cache, logits_to_keep=1).logits[:, -1].float().cpu()
    if logits.isnan().any():
        raise InputError("the model's logits are not numbers: its weights are broken, or try --dtype float32")
    return logits


class Rows:
    """The texts being written: their ids (rows, T) and the cache of what the model has already read."""

    def __init__(self, model, ids, context_len=None, cache=None):
        """Start with the prompt, ids (1, T); the context is the model's unless `context_len` is less.

        A `cache` that holds the first tokens of `ids` is gone on with, and changed.
        """
        from cache import growing_cache

        self.model, self.ids, self.cache = model, ids, growing_cache() if cache is None else cache
        limits = [context_len, getattr(model.config, "max_position_embeddings", None), sys.maxsize]
        self.context = min(limit for limit in limits if limit and limit > 0)  # XLNet's, without limit, is -1

    def next_logits(self):
        """Logits of each row's next token (rows, vocab)."""
        if self.ids.shape[1] <= self.context:
            return step(self.model, self.ids[:, self.cache.get_seq_length():], self.cache)
        # The context shifts: every position moves, so nothing cached holds any more.
        self.cache = None
        return step(self.model, self.ids[:, -self.context:], None)

    def select(self, rows):
        """Go on with these rows: [0, 0, 0] spreads, [0, 2] drops, a beam's parents reorder."""
        if list(rows) != list(range(len(self.ids))):  # copying the cache to itself costs as much as a reordering
            self.ids = self.ids[rows]
            if self.cache is not None:
                self.cache.batch_select_indices(torch.tensor(rows))

    def append(self, tokens):
        """Add one token to each row: tokens (rows,)."""
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)


def decode(model, ids, choose, rows, eos_ids, max_new_tokens, context_len=None, cache=None):
    """Continue one prompt, ids (1, T), as many times as there are rows; yield (number of the row, token, log_prob).

    `rows` is a list of anything; `choose(logits (n, vocab), the n rows still being written) -> tokens (n,)` is the
    strategy. A row ends with an id of `eos_ids` (which is yielded too) or after `max_new_tokens`; rows that end leave
    the batch. log_prob is the token's own under the model's unchanged distribution, whatever the strategy.
    """
    live = list(range(len(rows)))
    texts = Rows(model, ids, context_len, cache)
    logits = texts.next_logits().expand(len(rows), -1)  # the prefill, once for all rows
    texts.select([0] * len(rows))
    for remaining in reversed(range(max_new_tokens)):
        tokens = choose(logits, [rows[i] for i in live])
        log_probs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        yield from zip(live, tokens.tolist(), log_probs.tolist(), strict=True)
        alive = [i for i, token in enumerate(tokens.tolist()) if token not in eos_ids]
        if not alive or not remaining:
            return
        texts.append(tokens)
        texts.select(alive)
        live = [live[i] for i in alive]
        logits = texts.next_logits()


@dataclass(frozen=True)
class Row:
    """One text to write: its settings, its number among the samples of these settings, its own random numbers."""

    parameters: dict
    sample: int
    generator: torch.Generator


def make_row(seed, prompt, parameters, sample):
    """A row whose random numbers depend on these four alone: not on the batch, its order, or the process."""
    identity = json.dumps([seed, prompt, parameters, sample], sort_keys=True)
    number = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big")  # torch's CPU generator: 32 bits
    return Row(parameters, sample, torch.Generator().manual_seed(number))


def column(rows, name):
    """The rows' values of one parameter as a tensor (rows, 1), to broadcast over the vocabulary."""
    return torch.tensor([[row.parameters[name]] for row in rows], dtype=torch.float64)


# ------------------------------------------------------------------------------------------------ running the tasks


class Text(NamedTuple):
    """What came of a row, after how many seconds; `candidates` is a beam search's whole list, best first."""

    row: Row
    token_ids: list
    log_prob: float
    seconds: float
    candidates: list | None = None


def token_by_token(choose):
    """The texts of a strategy that chooses one token per row, in the order in which they end."""
    def write(loaded, ids, rows, max_new_tokens, tick):
        start, written, sums = time.perf_counter(), [[] for _ in rows], [0.0] * len(rows)
        for i, token, log_prob in decode(loaded.model, ids, choose, rows, loaded.eos_ids, max_new_tokens):
            written[i].append(token)
            sums[i] += log_prob
            tick(len(written[i]))
            if token in loaded.eos_ids or len(written[i]) == max_new_tokens:
                yield Text(rows[i], written[i], sums[i], time.perf_counter() - start)
    return write


def by_beams(beam_search, rank):
    """The texts of a beam search: rows that share num_beams share one search and differ in the ranking alone."""
    def write(loaded, ids, rows, max_new_tokens, tick):
        for num_beams in dict.fromkeys(row.parameters["num_beams"] for row in rows):
            start = time.perf_counter()
            found = beam_search(loaded.model, ids, num_beams, loaded.eos_ids, max_new_tokens,
                                watch=lambda step: tick(step.length))
            seconds = time.perf_counter() - start
            for row in rows:
                if row.parameters["num_beams"] == num_beams:
                    ranked = rank(found, row.parameters["length_penalty"])
                    best = ranked[0][1]
                    yield Text(row, best.ids, best.log_prob, seconds, [
                        {"text": answer(loaded, candidate.ids), "log_prob": candidate.log_prob,
                         "length": len(candidate.ids), "score": score, "stop": "eos" if candidate.ended else "limit"}
                        for score, candidate in ranked])
    return write


def run_task(description, settings, write, samples=None):
    """The command line of a task: write the texts of every prompt, setting and sample, print and save them.

    `settings` are the exercise's parameter sets, `write` is `token_by_token(...)` or `by_beams(...)`; a strategy that
    draws has a number of `samples`.
    """
    with one_line_errors():
        args = parse_arguments(description, settings, samples)
        results = Results(args)  # first: a folder that cannot be written is better known before the work
        settings = chosen_settings(args, settings)
        loaded = load_model(args.model, args.device, args.dtype)
        results.open(loaded)
        ids = {prompt: checked_ids(loaded, prompt) for prompt in dict.fromkeys(args.prompt)}
        for setting in settings:
            if setting.get("num_beams", 1) > loaded.model.config.vocab_size:
                raise InputError(f"num beams must be at most the vocabulary, {loaded.model.config.vocab_size}")
        try:
            for prompt in ids:
                rows = [make_row(args.seed, prompt, setting, sample + 1)
                        for setting in settings for sample in range(args.samples)]
                for run in finished_runs(write, loaded, prompt, ids[prompt], rows, args):
                    print_run(run)
                    results.add(run)
        finally:
            results.save()  # also after Ctrl-C: what is finished is kept


def checked_ids(loaded, prompt):
    """A prompt's ids (1, T); InputError when they do not fit into the model's context."""
    ids = prompt_ids(loaded.tokenizer, prompt)
    context = Rows(loaded.model, ids).context
    if ids.shape[1] > context:
        raise InputError(f"the prompt has {ids.shape[1]} tokens, more than the model's context of {context}")
    return ids


def finished_runs(write, loaded, prompt, ids, rows, args):
    """Yield a result for each row of one prompt as it ends, with a progress bar on a terminal meanwhile."""
    from tqdm import tqdm

    with tqdm(total=args.max_new_tokens, desc=f"{shorten(prompt)}, {len(rows)} rows", unit="token", leave=False,
              disable=None) as bar:
        for text in write(loaded, ids, rows, args.max_new_tokens, lambda length: bar.update(length - bar.n)):
            bar.clear()
            yield make_run(loaded, prompt, text, args)


def make_run(loaded, prompt, text, args):
    """A text as the dictionary that is saved."""
    words = answer(loaded, text.token_ids)
    run = {"prompt": prompt, "parameters": text.row.parameters, "sample": text.row.sample, "seed": args.seed,
           "max_new_tokens": args.max_new_tokens, "text": words, "token_ids": text.token_ids,
           "new_tokens": len(text.token_ids), "stop": "eos" if text.token_ids[-1] in loaded.eos_ids else "limit",
           "log_prob": text.log_prob, "tokens_per_second": round(len(text.token_ids) / text.seconds, 1)}
    if prompt == "json":
        run["json_valid"], run["json_correct"] = judge_json(words)
    if text.candidates:
        run["candidates"] = text.candidates
    return run


def answer(loaded, token_ids):
    """The text of generated ids, without the EOS that ended it; any other special token stays visible."""
    shown = token_ids[:-1] if token_ids[-1] in loaded.eos_ids else token_ids
    return loaded.tokenizer.decode(shown, clean_up_tokenization_spaces=False)


def judge_json(text, expected=RIGHT_JSON):
    """(it parses, it is right): the same keys as `expected`, and equal values, numbers as decimals."""
    def no_constant(name):
        raise ValueError(f"{name} is not JSON")

    def parsed(text):
        # pairs, not a dict: a key that stands twice is one key too many
        return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=no_constant,
                          object_pairs_hook=lambda pairs: sorted(pairs, key=lambda pair: pair[0]))

    try:
        return True, parsed(text) == parsed(expected)
    except (ValueError, ArithmeticError, RecursionError):  # ArithmeticError: an exponent beyond Decimal's
        return False, False


# ------------------------------------------------------------------------------------------------- the command line


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message):
        raise InputError(message)


def setting_type(name):
    """An argparse type that applies the setting's rule."""
    def parse(text):
        try:
            return check_setting(name, text)
        except InputError as error:
            raise argparse.ArgumentTypeError(error) from error
    return parse


def parse_arguments(description, settings, samples):
    """The flags: one for each parameter in the task's settings, then those that all tasks share."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    own = parser.add_argument_group("the strategy's settings")
    for name in settings[0]:
        own.add_argument(flag(name), type=setting_type(name), nargs="+", metavar="N",
                         help=f"{RULES[name][2]}; several values make every combination "
                              f"(default: {' '.join(f'{value:g}' for value in distinct(settings, name))})")
    if samples:
        own.add_argument("--samples", type=setting_type("samples"), default=samples, metavar="N",
                         help="texts per prompt and setting (default: %(default)s)")
        own.add_argument("--seed", type=setting_type("seed"), default=0, metavar="N",
                         help="another seed, other texts; the same seed, the same texts (default: %(default)s)")
    else:
        parser.set_defaults(samples=1)
        own.add_argument("--seed", type=setting_type("seed"), default=0, metavar="N",
                         help="taken so that all tasks have the same flags: nothing is drawn here")
    common = parser.add_argument_group("common")
    common.add_argument("--prompt", nargs="+", default=list(PROMPTS), metavar="TEXT",
                        help="hedgehog, json, or a text of your own, wrapped in ChatML unless it already is "
                             "(default: hedgehog json)")
    common.add_argument("--max-new-tokens", type=setting_type("max_new_tokens"), default=1000, metavar="N",
                        help="stop here if the model does not end by itself (default: %(default)s)")
    add_model_flags(common)
    add_results_flag(common)
    return parser.parse_args()


def add_model_flags(parser):
    """The flags of every script that runs a model."""
    parser.add_argument("--model", default="generator", metavar="NAME",
                        help=f"generator (the checkpoint that comes with the project), qwen ({QWEN}), any name on the "
                             "Hugging Face hub, or a folder (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"],
                        help="16 bits are faster, but round so that a text may depend on its batch "
                             "(default: %(default)s)")


def add_results_flag(parser):
    """The flag of every script that writes results."""
    parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results", metavar="FOLDER",
                        help="where <model>/<task>.json and .md are written (default: results/ beside this file)")


def flag(name):
    """The flag of a setting: top_p -> --top-p."""
    return "--" + name.replace("_", "-")


def distinct(settings, name):
    """The different values of one parameter, in order."""
    return list(dict.fromkeys(setting[name] for setting in settings))


def chosen_settings(args, settings):
    """The exercise's settings, or every combination of the flags; a flag left out keeps the exercise's values."""
    given = {name: getattr(args, name) for name in settings[0]}
    if not any(given.values()):
        return settings
    values = [dict.fromkeys(given[name] or distinct(settings, name)) for name in given]
    return [dict(zip(given, combination, strict=True)) for combination in itertools.product(*values)]


# --------------------------------------------------------------------------------------------------------- results


def describe(parameters):
    """Settings in words, for a heading: {"temperature": 0.5, "top_p": 0.9} -> temperature 0.5, top_p 0.9"""
    words = [f"{name} {value:g}" + (" (the limit: greedy)" if (name, value) == ("temperature", 0) else "")
             for name, value in parameters.items()]
    return ", ".join(words) or "no parameters"


def shorten(prompt):
    """A prompt as a heading: its name, or the beginning of a user's own text."""
    line = " ".join(prompt.split())
    return line if len(line) <= 60 else line[:57] + "..."


def figures(run):
    """The line of figures under a text."""
    parts = [f"{run['new_tokens']} tokens", "ended by itself" if run["stop"] == "eos" else "cut off at the limit",
             f"{run['tokens_per_second']:g} tokens/s", f"log-probability {run['log_prob']:.2f}"]
    if "json_valid" in run:
        parts.append("JSON " + ("right" if run["json_correct"] else "wrong" if run["json_valid"] else "does not parse"))
    return ", ".join(parts)


def print_run(run):
    """A text as it stands, between its settings and its figures; for beams what else was in the choice."""
    print(f"=== {shorten(run['prompt'])}: {describe(run['parameters'])}, sample {run['sample']}")
    print(run["text"])
    print(f"--- {figures(run)}")
    for candidate in run.get("candidates", []):
        print("    " + candidate_line(candidate))
    print(flush=True)


def candidate_line(candidate):
    """One finished candidate of a beam search in a line."""
    return (f"score {candidate['score']:.4f} = {candidate['log_prob']:.4f} over {candidate['length']} tokens "
            f"({'ended' if candidate['stop'] == 'eos' else 'cut off'}): {shorten(candidate['text'])}")


def markdown(content, task):
    """The results for people: one section per prompt and setting, derived from the JSON alone."""
    model = content["model"]
    lines = [f"# {task}: {model['name']}", "",
             f"`{content['command']}`: {model['parameters']:,} parameters, revision {model['revision']}, "
             f"{content['dtype']} on {content['device']}, {content['threads']} threads, "
             f"{content['seconds']:g} s, " + ", ".join(f"{k} {v}" for k, v in content["versions"].items()) + "."]
    for run in content["runs"]:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", run["text"])), default=0))
        lines += ["", f"## {shorten(run['prompt'])}: {describe(run['parameters'])}, sample {run['sample']}", "",
                  fence + "text", run["text"], fence, "", figures(run) + "."]
        if "candidates" in run:
            lines += ["", *(f"- `{candidate_line(c).replace('`', chr(39))}`" for c in run["candidates"])]
    return "\n".join(lines) + "\n"


def run_facts(args):
    """What must stand beside a figure for it to be repeated."""
    import tokenizers
    import transformers

    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__, "tokenizers": tokenizers.__version__},
        "device": args.device, "dtype": args.dtype, "threads": torch.get_num_threads(),
        "command": shlex.join(["python", os.path.relpath(sys.argv[0], Path(__file__).resolve().parent), *sys.argv[1:]])}


def set_aside(path, why):
    """Keep a results file that cannot be gone on with under another name beside it, and say why. Raises OSError."""
    aside = next(name for n in itertools.count(1) if not (name := path.with_suffix(f".old{n}")).exists())
    os.replace(path, aside)
    print(f"{path.name} {why}: kept as {aside.name}, starting anew", file=sys.stderr)


class Results:
    """The results of one task and model: <folder>/<model>/<task>.json, and the .md that is derived from it."""

    def __init__(self, args):
        """Raises InputError when the folder cannot be written."""
        script = Path(sys.argv[0])
        self.path = results_folder(args) / f"{script.stem}.json"
        self.start, self.added, self.content = time.perf_counter(), 0, None
        self.args = args
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path.with_suffix(".test"), "")
            self.path.with_suffix(".test").unlink()

    def open(self, loaded):
        """Take up the runs that the file holds, if the same model and versions wrote them; else it is kept aside."""
        self.header = {"model": loaded.identity, **run_facts(self.args), "seed": self.args.seed}
        with writing(self.path):
            old = self.read()
            facts = ("model", "versions", "device", "dtype", "threads")
            other = [key for key in facts if old and old.get(key) != self.header[key]]
            if other:
                set_aside(self.path, f"was written with other {', '.join(other)}")
        self.content = {**self.header, "runs": [] if other else old.get("runs", [])}

    def read(self):
        """What the file holds, {} if there is none; a corrupt file is kept aside."""
        if not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            markdown(content, self.path.stem)  # fails, as saving would, if anything is missing
            if not isinstance(content["runs"], list):
                raise TypeError
            return content
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            set_aside(self.path, "is corrupt")
            return {}

    def add(self, run):
        """Put a run in the place of the one with the same prompt, settings and sample, or at the end."""
        runs, keys = self.content["runs"], [run_key(old) for old in self.content["runs"]]
        place = keys.index(run_key(run)) if run_key(run) in keys else len(runs)
        runs[place:place + 1] = [run]
        self.added += 1

    def save(self):
        """Write both files, if there is anything new; raises InputError when that is impossible."""
        if not self.added:
            return
        self.content["seconds"] = round(time.perf_counter() - self.start, 2)
        with writing(self.path):
            write_text(self.path, json.dumps(self.content, ensure_ascii=False, indent=1) + "\n")
            write_text(self.path.with_suffix(".md"), markdown(self.content, self.path.stem))
        print(f"{self.added} texts saved in {self.path}", file=sys.stderr)


def run_key(run):
    """What makes two runs the same one."""
    return json.dumps([run["prompt"], run["parameters"], run["sample"]], sort_keys=True)


def results_folder(args):
    """Where the results of the model that the flags name are."""
    return args.results / short_name(args.model)


def save_figures(args, name, content):
    """Write a script's figures to <results>/<model>/<name>, with what must stand beside them; returns the path."""
    path = results_folder(args) / name
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({**run_facts(args), **content}, ensure_ascii=False, indent=1) + "\n")
    return path


@contextmanager
def writing(path):
    """A failure to write becomes an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
