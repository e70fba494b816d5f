"""Train a model that writes replies with a wanted tone and category: our own decoder, or a pretrained language model.

    python train_replies.py                                                 # our decoder, on letters to citizens
    python train_replies.py --text replies.csv --base smollm2 --tune lora   # a pretrained model, on replies of your own
    python train_replies.py --failures failures.jsonl                       # learn from what `reply.py --on-mismatch log` wrote
    python train_replies.py --resume                                        # go on after Ctrl-C or a crash

Without --text it learns the built-in writer's letters. The output folder is runs/replies-<time> unless --output names another:
try it with `python reply.py "My street is dark" --tone apologetic --model runs/replies-<time>`.
"""

from support.errors import ROOT, InputError, one_line_errors

import contextlib
import hashlib
import json
import math
import shlex
import shutil
import sys
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data.replies import Reply, citizen_replies, read_replies, values_of
from generator import GeneratorTransformer
from models import control_folder
from models.control import KINDS, POOLINGS, REPLY_TEMPLATE, Controlled, Labels, asked_ids, reply_end
from models.loading import open_tokenizer
from models.places import HUB_NAMES
from models.transformer import TransformerConfig, intermediate_size
from replier import CANDIDATES, Replier, lessons
from strategies import continue_ids
from support.adapter import adapter_base, adapter_settings
from support.files import make_folder, write_text
from support.flags import COUNT, POSITIVE, RULES, SHARE, Parser, command, number, some_path, some_text
from training.finetuning import FineTuned, adamw, freeze, open_base
from training.metrics import Metrics
from training.optimizer import make_optimizers
from training.precision import computing_dtype
from training.replies import HEADS, ReplyDataset, Trainer
from training.reply_data import chosen, counted, learn_tokenizer, read_failures, read_rows, weighted, write_rows
from training.runs import (
    SETTINGS,
    STATE,
    WORK,
    all_or_nothing,
    check_free,
    discard,
    num_parameters,
    read_settings,
    stopped_in_words,
    unfinished,
    without_folder,
)
from training.trainer import Diverged

import torch
from accelerate import Accelerator
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RUNS, NAMES = Path("runs"), "replies-*"
SHIPPED = ROOT / "checkpoint_replies"
OWN = "generator"  # --base: our own decoder, from nothing
DEFAULTS = {  # what --failures or --tune names; the generator is trained from nothing
    OWN: {"num_replies": 16_000, "max_tokens": 256, "batch_size": 32, "learning_rate": 2e-3, "num_epochs": 4, "dropout": 0.05},
    "frozen": {"num_replies": 1000, "max_tokens": 96, "batch_size": 16, "learning_rate": 3e-3, "num_epochs": 2, "dropout": 0.0},
    "lora": {"num_replies": 1000, "max_tokens": 96, "batch_size": 16, "learning_rate": 1e-3, "num_epochs": 2, "dropout": 0.0},
    "full": {"num_replies": 1000, "max_tokens": 96, "batch_size": 16, "learning_rate": 1e-4, "num_epochs": 2, "dropout": 0.0},
    "failures": {"num_replies": 2000, "max_tokens": 256, "batch_size": 16, "learning_rate": 2e-4, "num_epochs": 2,
                 "dropout": 0.0},
}
TUNES = ("frozen", "lora", "full")
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2}  # of our own decoder
CONTEXT = 768  # its tokens
BETA2 = 0.99  # most tokens are rare, and 0.95 forgets how large their gradients are
LETTERS = 2.6  # written for each that is learned: two of five are of the part "train"
VALIDATION, VALIDATION_PRETRAINED = 500, 100  # replies at most: a pretrained model takes minutes for more
SAMPLE_TOKENS = 60
EVALUATIONS = 10  # in a training
MIXED = 4  # other replies for each one that the model has written itself to a logged failure
ROWS = "replies.jsonl"  # in WORK: what is learned and validated on


@dataclass(frozen=True)
class Settings:
    """What a training is begun with; saved with its state, so that --resume needs no other flag."""

    text: str | None
    failures: str | None
    base: str
    control: str
    tune: str
    freeze: str | None
    heads: str
    pooling: str
    refinement: bool
    own_head: bool
    num_replies: int
    max_tokens: int
    vocab_size: int
    hidden_size: int
    num_layers: int
    lora_rank: int
    dropout: float
    batch_size: int
    learning_rate: float
    num_epochs: int
    dtype: str
    seed: int
    eval_every: int | None
    save_every: int


class Base(NamedTuple):
    """What a controlled model stands on: the network, its tokenizer, and how it is written."""

    network: nn.Module
    tokenizer: "PreTrainedTokenizerBase"
    whole: FineTuned | None  # around a pretrained network whose weights, or additions, are trained
    name: str | None  # of a pretrained one that is not

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        """Write what is trained. Our own decoder is always kept in 16 bits, which changes no text that anybody would notice."""
        if self.whole:
            self.whole.save_checkpoint(folder, dtype)
        elif not self.name:
            self.network.save_checkpoint(folder, torch.bfloat16, REPLY_TEMPLATE)


# ------------------------------------------------------------------------------------------------------ command line


def parse_arguments(argv: list[str] | None = None) -> tuple[Path, Settings | None]:
    """The output folder, and the settings of a new training; None is --resume. Raises InputError, which names the flag."""
    count, positive = number(COUNT), number(POSITIVE)
    parser = Parser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument("--text", type=some_text, metavar="FILE", help="a CSV of requests and replies, with or without tones")
    data.add_argument("--num-replies", type=count, metavar="N",
                      help="learn from at most this many of the training part (16000; pretrained: 1000)")
    data.add_argument("--max-tokens", type=count, metavar="N", help="cut longer replies (256; pretrained: 96)")
    data.add_argument("--failures", type=some_text, metavar="FILE",
                      help="go on with the trained model in --base, the shipped one by default: to each failure that reply.py "
                           f"logged in this file it writes {CANDIDATES} replies, and learns those that hit, among others")
    model = parser.add_argument_group("model")
    model.add_argument("--base", type=some_text, metavar="NAME",
                       help="generator (default: our own decoder, from nothing), or a pretrained model: a folder, a .gguf "
                            "file, smollm2, qwen or any name on the Hugging Face hub")
    model.add_argument("--control", choices=KINDS, help="how labels act: token (default), embedding, hidden or none")
    model.add_argument("--tune", choices=TUNES, help="what is trained of a pretrained model (lora)")
    model.add_argument("--freeze", type=some_text, metavar="LAYERS", help="layers that are not: layers.0-5")
    model.add_argument("--heads", choices=HEADS,
                       help="they learn with the model (joint, the default), on it as it is (separate), or not at all (off)")
    model.add_argument("--pooling", choices=POOLINGS, help="the token that they read: last (default), or first to compare")
    correction = model.add_mutually_exclusive_group()
    correction.add_argument("--refinement", action="store_true", help="a correction of the last hidden states, to compare")
    correction.add_argument("--own-head", action="store_true", help="an output layer beside the base's own, to compare")
    model.add_argument("--lora-rank", type=count, default=8, help="of the additions to its matrices (%(default)s)")
    model.add_argument("--vocab-size", type=count, default=3584, help="tokens of our own decoder (%(default)s)")
    model.add_argument("--hidden-size", type=count, default=256, help="width of its vectors (%(default)s)")
    model.add_argument("--num-layers", type=count, default=4, help="its blocks (%(default)s)")
    training = parser.add_argument_group(f"training (defaults: {'; '.join(DEFAULTS)})")
    for name, kind, words in (("batch_size", count, "replies in a step"), ("learning_rate", positive, "at its highest"),
                              ("num_epochs", count, "times through the replies"), ("dropout", number(SHARE), "share dropped")):
        values = "; ".join(f"{defaults[name]:g}" for defaults in DEFAULTS.values())
        training.add_argument("--" + name.replace("_", "-"), type=kind, help=f"{words} ({values})")
    training.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
                          help="of the arithmetic: auto is bfloat16 where the hardware has it")
    training.add_argument("--seed", type=number(RULES["seed"]), default=0, help="of weights, letters and order (%(default)s)")
    running = parser.add_argument_group("running")
    running.add_argument("--output", type=some_path, metavar="FOLDER", help="(runs/replies-<time>)")
    running.add_argument("--eval-every", type=count, metavar="STEPS", help="(a tenth of the training)")
    running.add_argument("--save-every", type=count, default=200, metavar="STEPS", help="(%(default)s)")
    running.add_argument("--resume", action="store_true", help="go on with the training in --output, or with the last one")
    args = parser.parse_args(argv)
    if args.resume:
        return args.output or unfinished(RUNS, NAMES), None
    check_flags(args.base or OWN, args.failures, {name: getattr(args, name) for name in (
        "control", "tune", "heads", "pooling", "refinement", "own_head")})
    args.base = args.base or (str(SHIPPED) if args.failures else OWN)
    args.tune = args.tune or ("full" if args.base == OWN else "lora")
    kind = "failures" if args.failures else OWN if args.base == OWN else args.tune
    for name, value in {"control": "token", "heads": "joint", "pooling": "last", **DEFAULTS[kind]}.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    output = args.output or RUNS / f"replies-{datetime.now():%Y%m%d-%H%M%S}"
    return output, Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})


def check_flags(base: str, failures: str | None, flags: dict[str, str | bool | None]) -> None:
    """Raises InputError for flags that mean nothing together."""
    given = [name for name, value in flags.items() if value]
    if failures and given:
        raise InputError(f"--failures goes on with a model as it is: leave --{given[0].replace('_', '-')} out")
    if flags["tune"] and base == OWN:
        raise InputError("--tune is for a pretrained --base; our own decoder is trained from nothing, all of it")
    if flags["tune"] == "frozen" and flags["control"] == "none" and flags["heads"] == "off" and \
            not (flags["refinement"] or flags["own_head"]):
        raise InputError("a frozen base without control, heads or correction has nothing to learn: choose one of them")


# -------------------------------------------------------------------------------------------------------------- data


def gather(s: Settings, place: Path) -> dict:
    """Read or write the replies, and keep those to learn from and to validate on in the file `place`; returns what meta.json
    says of them. Raises InputError where a part is empty."""
    replies = citizen_replies(math.ceil(s.num_replies * LETTERS), s.seed) if s.text is None else read_replies(Path(s.text))
    parts = {part: [reply for reply in replies if reply.part == part] for part in ("train", "validation")}
    for part, members in parts.items():
        if not members:
            raise InputError(f"of {len(replies):,} replies none is for {part}: take more")
    facts = {"text": Path(s.text).name if s.text else None, "labels": values_of(replies), "counts": counted(replies),
             "sha256": hashlib.sha256(Path(s.text).read_bytes()).hexdigest() if s.text else None}
    print(f"{len(replies):,} replies {'read' if s.text else 'written'}: " + ", ".join(
        f"{count:,} {part}" for part, count in facts["counts"]["part"].items()))
    train = chosen(parts["train"], s.num_replies, s.seed)
    if s.failures:
        failures = read_failures(Path(s.failures))
        hits = lessons(Replier.load(s.base), failures, s.seed)
        facts["failures"] = {"failures": len(failures), "candidates": CANDIDATES * len(failures), "learned": len(hits)}
        print(", ".join(f"{count:,} {name}" for name, count in facts["failures"].items()))
        train = hits + train[:MIXED * len(hits)]
    most = VALIDATION if s.base == OWN or s.failures else VALIDATION_PRETRAINED
    write_rows(place, weighted(train), chosen(parts["validation"], most, s.seed))
    return facts


# ------------------------------------------------------------------------------------------------------------- model


def new_model(s: Settings, labels: Labels, dtype: torch.dtype, tokenizer_place: Path) -> tuple[Controlled, Base]:
    """A model to begin with: our decoder with random weights, or a pretrained one; untrained control and heads beside it."""
    if s.base == OWN:
        tokenizer = open_tokenizer(tokenizer_place)
        config = TransformerConfig(
            vocab_size=len(tokenizer), hidden_size=s.hidden_size, intermediate_size=intermediate_size(s.hidden_size),
            num_hidden_layers=s.num_layers, max_position_embeddings=CONTEXT, eos_token_id=reply_end(tokenizer), **ATTENTION)
        base = Base(GeneratorTransformer(config, tokenizer.backend_tokenizer, s.dropout), tokenizer, None, None)
    else:
        base = pretrained(s.base, s.tune, s.lora_rank, dtype)
    model = Controlled(base.network, labels, s.control, s.pooling, s.refinement, s.own_head, s.heads != "off")
    if s.freeze:
        freeze(model.base, s.freeze)
    return model, base


def pretrained(name: str, tune: str, rank: int, dtype: torch.dtype) -> Base:
    """A pretrained base, of which all weights, low-rank additions or none are trained. Weights that are not are in `dtype`."""
    network, tokenizer = open_base(name, torch.float32 if tune == "full" else dtype)
    known = HUB_NAMES.get(name, name)
    whole = FineTuned(network, known, tokenizer, rank if tune == "lora" else None)
    if tune == "frozen":
        whole.base.requires_grad_(False)
        return Base(whole.base, tokenizer, None, known)
    return Base(whole.base, tokenizer, whole, None)


def trained_model(folder: Path, dropout: float, frozen: str | None) -> tuple[Controlled, Base]:
    """The model of a folder that this script wrote, to go on with what was trained of it. Raises InputError as
    `models.control_folder` does."""
    name = control_folder.read_settings(folder)["base"]
    if (folder / "adapter_config.json").exists():
        base = pretrained(adapter_base(folder), "lora", adapter_settings(folder)["r"], torch.float32)
        base.whole.model.load_adapter(str(folder), "default", is_trainable=True)
    elif name:
        base = pretrained(name, "frozen", 0, torch.float32)
    elif (tokenizer := open_tokenizer(folder)).chat_template == REPLY_TEMPLATE:
        base = Base(GeneratorTransformer.load_from_checkpoint(folder, dropout), tokenizer, None, None)
    else:
        base = pretrained(str(folder), "full", 0, torch.float32)
    model = control_folder.with_control(base.network, folder)
    if frozen:
        freeze(model.base, frozen)
    return model, base


# ---------------------------------------------------------------------------------------------------------- training


def train(output: Path, settings: Settings | None) -> None:
    """Begin a training, or without settings resume the one in `output`, and take it to its end.

    Raises InputError where that is impossible, and KeyboardInterrupt at Ctrl-C, once the step under way is saved.
    """
    accelerator, work, resumed = Accelerator(cpu=not torch.cuda.is_available()), output / WORK, settings is None
    if accelerator.num_processes > 1:
        raise InputError("this training runs in one process: start it with python, not with accelerate launch")
    if not resumed:
        check_free(output)
    with contextlib.nullcontext() if resumed else all_or_nothing(output):
        if resumed:
            s, facts = read_settings(work, Settings)
        else:
            make_folder(work)
            s, facts = settings, gather(settings, work / ROWS)
        learned, held_out = read_rows(work / ROWS)
        dtype = computing_dtype(s.dtype, accelerator.device)
        if s.base == OWN and not resumed:
            learn_tokenizer(learned, s.vocab_size).save_pretrained(work / "tokenizer")
        torch.manual_seed(s.seed)  # of new weights, of what is dropped and cut
        if s.failures:
            model, base = trained_model(Path(s.base), s.dropout, s.freeze)
        else:
            labels = Labels({name: tuple(values) for name, values in facts["labels"].items()})
            model, base = new_model(s, labels, dtype, work / "tokenizer")
        dataset = ReplyDataset(model, base.tokenizer, learned, s.max_tokens)
        validation = ReplyDataset(model, base.tokenizer, held_out, s.max_tokens, without_request=0, heads_every=1)
        own = isinstance(base.network, GeneratorTransformer)
        replies = Trainer(model, dataset, validation, s.learning_rate, s.batch_size, heads=s.heads, dtype=dtype, seed=s.seed,
                          optimizers=make_optimizers(model, dtype, BETA2) if own else [adamw(model)], accelerator=accelerator,
                          sample=partial(sample, model, base.tokenizer, held_out[0]))
        trainer = replies.steps(s.num_epochs, work / STATE)
        if resumed:
            trainer.load()
        else:
            facts["command"] = shlex.join(["python", *map(without_folder, sys.argv)])
            write_text(work / SETTINGS, json.dumps({"settings": asdict(s), "facts": facts}, indent=2))
            trainer.save()
    named = {name: without_folder(value) for name in ("text", "base", "failures") if (value := getattr(s, name))}
    facts |= {"settings": asdict(s) | named, "replies": len(dataset), "too_long": dataset.too_long,
              "tokens": int(dataset.lengths.sum()), "parameters": num_parameters(model),
              "trained_parameters": num_parameters(model, trained=True)}
    print(described(facts, base, len(validation)))
    print(f"{trainer.num_steps:,} steps of at most {s.batch_size} replies, {s.num_epochs} epochs, "
          f"{str(dtype).removeprefix('torch.')} on {accelerator.device}, {torch.get_num_threads()} threads")

    def keep_best() -> None:
        figures = {name: value for name, value in replies.evaluate.figures.items() if name != "sample"}
        meta = {**facts, "step": trainer.step, "seconds": round(trainer.seconds), "figures": figures}
        write_text(output / "meta.json", json.dumps(meta, indent=2, ensure_ascii=False) + "\n")
        base.save(output, dtype)
        control_folder.save_control(model, output, torch.bfloat16, base.name)

    metrics, eval_every = Metrics(output, trainer.step), s.eval_every or math.ceil(trainer.num_steps / EVALUATIONS)
    try:
        trainer.run(replies.evaluate, keep_best, metrics, eval_every, s.save_every)
    except Diverged as error:
        if not any(output.glob("*.safetensors")):
            metrics.path.unlink()
            discard(output)
        raise InputError(f"{error} at step {trainer.step}: try a lower --learning-rate") from error
    trainer.state_path.unlink()  # first: a kill must not leave it without its data
    shutil.rmtree(work)
    asked = [part for name, value in held_out[0].labels.items() for part in (f"--{name}", value)]
    print(f"done: {output} is the model; {metrics.path.name} and {metrics.picture.name} in it show how the training went. "
          f"Try it: {command('reply.py', held_out[0].request or 'Hello', *asked, '--model', output)}")


def described(facts: dict, base: Base, num_validation: int) -> str:
    """The model and what it learns from in words."""
    cut = f" ({facts['too_long']:,} more do not fit)" if facts["too_long"] else ""
    return (f"training {facts['trained_parameters']:,} of {facts['parameters']:,} parameters, vocabulary "
            f"{len(base.tokenizer):,}, on {facts['replies']:,} replies of {facts['tokens']:,} tokens{cut}; validating on "
            f"{num_validation:,}")


def sample(model: Controlled, tokenizer: "PreTrainedTokenizerBase", reply: Reply) -> str:
    """What the model replies, greedily, to a request with the labels of its real reply."""
    ids, end = model.prompt_ids(asked_ids(tokenizer, reply.request), reply.labels), reply_end(tokenizer)
    written = continue_ids(model, torch.tensor([ids]), frozenset([end]), temperature=0, max_new_tokens=SAMPLE_TOKENS,
                           cache=model.new_cache([reply.labels]))
    text = tokenizer.decode([token for token in written if token != end])
    return f"{', '.join(reply.labels.values())}: {reply.request} | {text}"


def main() -> None:
    with one_line_errors():
        output, settings = parse_arguments()
        with stopped_in_words("train_replies.py", output):
            train(output, settings)


if __name__ == "__main__":
    main()
