"""Train a model that completes short messages: an LSTM, our own decoder, or a pretrained language model, fine-tuned.

    python train_autocomplete.py --text tweets.csv.zip                      # an LSTM, on Sentiment140 as it is downloaded
    python train_autocomplete.py --text tweets.txt --keep-case              # a message a line; punctuation and capitals stay
    python train_autocomplete.py --model generator --text tweets.txt        # our decoder, with as many parameters
    python train_autocomplete.py --model smollm2 --text tweets.txt --num-messages 20000     # LoRA on a pretrained model
    python train_autocomplete.py --resume                                   # go on with the last one after Ctrl-C or a crash

Without --text it learns sentences of the built-in writer. The output folder, runs/lstm_lm-<time> unless --output names
another, is a model folder: try it with `python task1_greedy.py --model runs/lstm_lm-<time> --prompt "i am so"`.
"""

from support.errors import InputError, first_line, one_line_errors, report

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
from typing import TYPE_CHECKING

from data.batches import Epochs
from data.messages import (
    MAX_CHARACTERS,
    NextTokenDataset,
    by_part,
    collate_batch,
    encode,
    ends_of,
    learn_tokenizer,
    next_tokens,
    read_messages,
    split_messages,
    split_x_target_by_words,
    story_sentences,
)
from generator import GeneratorTransformer
from lstm import LSTMLM
from models.chatml import PLAIN_TEMPLATE
from models.limits import check_known, context_of
from models.loading import open_tokenizer
from models.lstm import LSTMConfig
from models.transformer import Transformer, TransformerConfig
from strategies import continue_ids
from support.files import make_folder, write_text
from support.flags import COUNT, POSITIVE, RULES, SHARE, Parser, command, number, some_path, some_text
from training.finetuning import adamw, open_pretrained
from training.messages import MessageEvaluator, message_loss
from training.metrics import Metrics
from training.optimizer import make_optimizers
from training.precision import computing_dtype
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
from training.trainer import Diverged, Trainer

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

RUNS, NAMES = Path("runs"), "*_lm-*"
DEFAULTS = {  # for each kind of model; "pretrained" is all others
    "lstm": {"batch_size": 128, "learning_rate": 4e-3, "num_epochs": 6, "dropout": 0.25},
    "generator": {"batch_size": 64, "learning_rate": 2e-3, "num_epochs": 6, "dropout": 0.1},
    "pretrained": {"batch_size": 16, "learning_rate": 1e-3, "num_epochs": 1, "dropout": 0.0},
}
GENERATOR = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
CONTEXT = 4 * MAX_CHARACTERS + 2  # tokens: a character has at most four bytes
BETA2 = 0.99  # most tokens are rare, and 0.95 forgets how large their gradients are
BATCH_TOKENS = 1 << 30  # no limit but the batch size: messages are short
SENTENCES = 20_000  # of the built-in writer
VALIDATION = 1000  # messages at most for a pretrained model, which takes minutes for all
SAMPLES, SAMPLE_TOKENS = 3, 20
EVALUATIONS = 10  # in a training
CLEANED = "messages.txt"


@dataclass(frozen=True)
class Settings:
    """What a training is begun with; saved with its state, so that --resume needs no other flag."""

    model: str
    text: str | None
    keep_case: bool
    num_messages: int | None
    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_layers: int
    loss_on: str
    full: bool
    lora_rank: int
    dropout: float
    batch_size: int
    learning_rate: float
    num_epochs: int
    dtype: str
    seed: int
    eval_every: int | None
    save_every: int


def kind_of(model: str) -> str:
    """What --model names: "lstm", "generator", or "pretrained"."""
    return model if model in DEFAULTS else "pretrained"


def parse_arguments(argv: list[str] | None = None) -> tuple[Path, Settings | None]:
    """The output folder, and the settings of a new training; None is --resume. Raises InputError, which names the flag."""
    count, positive = number(COUNT), number(POSITIVE)
    parser = Parser(__doc__)
    parser.add_argument("--model", type=some_text, default="lstm", metavar="NAME",
                        help="lstm (default), generator (our own decoder, from nothing), or a pretrained model to fine-tune: "
                             "a folder, a .gguf file, smollm2, qwen or any name on the Hugging Face hub")
    data = parser.add_argument_group("data")
    data.add_argument("--text", type=some_text, metavar="FILE",
                      help="a Sentiment140 .csv or the .zip that holds it, or a text with one message a line")
    data.add_argument("--keep-case", action="store_true", help="keep capitals, punctuation and every alphabet")
    data.add_argument("--num-messages", type=count, metavar="N", help="learn from this many of the training part only")
    data.add_argument("--loss-on", choices=("all", "rest"), default="all",
                      help="which tokens count: all and the end, or the last quarter of the words and the end (%(default)s)")
    model = parser.add_argument_group("a model from nothing (the generator gets as many parameters as the LSTM)")
    model.add_argument("--vocab-size", type=count, default=8192, help="tokens (%(default)s)")
    model.add_argument("--embedding-size", type=count, default=256, help="of the LSTM's embedding and head (%(default)s)")
    model.add_argument("--hidden-size", type=count, default=512, help="of the LSTM's cell (%(default)s)")
    model.add_argument("--num-layers", type=count, default=1, help="of the LSTM (%(default)s)")
    pretrained = parser.add_argument_group("a pretrained model")
    pretrained.add_argument("--lora-rank", type=count, default=8, help="of the additions to its matrices (%(default)s)")
    pretrained.add_argument("--full", action="store_true", help="train all its weights instead")
    training = parser.add_argument_group("training (defaults: lstm; generator; pretrained)")
    for name, kind, words in (("batch_size", count, "messages in a step"), ("learning_rate", positive, "at its highest"),
                              ("num_epochs", count, "times through the messages"), ("dropout", number(SHARE), "share dropped")):
        values = "; ".join(f"{defaults[name]:g}" for defaults in DEFAULTS.values())
        training.add_argument("--" + name.replace("_", "-"), type=kind, help=f"{words} ({values})")
    training.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
                          help="of the arithmetic: auto is bfloat16 where the hardware has it")
    training.add_argument("--seed", type=number(RULES["seed"]), default=0, help="of weights and order (%(default)s)")
    running = parser.add_argument_group("running")
    running.add_argument("--output", type=some_path, metavar="FOLDER", help="(runs/<model>_lm-<time>)")
    running.add_argument("--eval-every", type=count, metavar="STEPS", help="(a tenth of the training)")
    running.add_argument("--save-every", type=count, default=500, metavar="STEPS", help="(%(default)s)")
    running.add_argument("--resume", action="store_true", help="go on with the training in --output, or with the last one")
    args = parser.parse_args(argv)
    if args.resume:
        return args.output or unfinished(RUNS, NAMES), None
    kind = kind_of(args.model)
    if args.full and kind != "pretrained":
        raise InputError(f"--full is for a pretrained model; {args.model} is trained from nothing, all of it")
    for name, value in DEFAULTS[kind].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    output = args.output or RUNS / f"{kind}_lm-{datetime.now():%Y%m%d-%H%M%S}"
    return output, Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})


def clean(text: str | None, keep_case: bool, seed: int, cleaned: Path) -> dict:
    """Clean the messages of a file, or the built-in writer's, into the file `cleaned`, and print what was dropped; returns what
    meta.json says of them."""
    raw = list(story_sentences(SENTENCES, seed)) if text is None else read_messages(Path(text))
    messages = split_messages(raw, keep_case)
    write_text(cleaned, "".join(f"{message}\n" for part in messages[:3] for message in part))
    counts = messages.counts
    print(f"{counts['read']:,} messages read, {counts['kept']:,} kept in {cleaned}: " + ", ".join(
        f"{count:,} {step.replace('_', ' ')}" for step, count in counts.items() if step not in ("read", "kept")))
    if counts["empty"] > counts["kept"] and not keep_case:
        report("note: most messages have no Latin letter; --keep-case keeps every alphabet")
    return {"text": Path(text).name if text else None, "counts": counts,
            "sha256": hashlib.sha256(Path(text).read_bytes()).hexdigest() if text else None}


def read_cleaned(cleaned: Path) -> dict[str, list[str]]:
    """The messages that `clean` wrote, by part. Raises InputError where they are gone."""
    try:
        return by_part(cleaned.read_text("utf-8").split("\n")[:-1])
    except (OSError, ValueError) as error:
        raise InputError(f"{cleaned} cannot be read: {first_line(error)}") from error


def shuffled(messages: list[str], count: int | None, seed: int) -> list[str]:
    """Some messages, or all, in an order drawn from the seed: a file may be sorted."""
    return [messages[i] for i in np.random.default_rng(seed).permutation(len(messages))[:count]]


def new_model(kind: str, shape: tuple[int, int, int], tokenizer: "PreTrainedTokenizerFast",
              dropout: float) -> LSTMLM | GeneratorTransformer:  # fmt: skip
    """An LSTM whose shape is (embedding, hidden, layers), or our own decoder with as many parameters; random weights."""
    config = LSTMConfig(len(tokenizer), *shape, *ends_of(tokenizer))
    if kind == "lstm":
        return LSTMLM(config, tokenizer, dropout)
    return GeneratorTransformer(equal_decoder(config), tokenizer.backend_tokenizer, dropout)


def equal_decoder(config: LSTMConfig) -> TransformerConfig:
    """The shape of a decoder with as many parameters as an LSTM, as nearly as its feed-forward width allows.

    Raises InputError where the LSTM has fewer than the decoder's embedding and attention alone.
    """
    def shape(width: int) -> TransformerConfig:
        return TransformerConfig(vocab_size=config.vocab_size, bos_token_id=config.bos_token_id, intermediate_size=width,
                                 eos_token_id=config.eos_token_id, max_position_embeddings=CONTEXT, **GENERATOR)

    with torch.device("meta"):
        wanted, one, two = map(num_parameters, (LSTMLM(config), Transformer(shape(1)), Transformer(shape(2))))
    width = 1 + round((wanted - one) / (two - one))
    if width < 1:
        raise InputError(f"an LSTM of {wanted:,} parameters is smaller than any decoder of {GENERATOR['num_hidden_layers']} "
                         f"layers of {GENERATOR['hidden_size']}: raise --hidden-size")
    return shape(width)


def completions(model: nn.Module, tokenizer: "PreTrainedTokenizerBase", contexts: list[str]) -> str:
    """Contexts, each with what the model writes behind it greedily."""
    bos_id, eos_id = ends_of(tokenizer)
    texts = []
    for context, ids in zip(contexts, encode(tokenizer, contexts), strict=True):
        written = continue_ids(model, torch.tensor([[bos_id, *ids]]), frozenset([eos_id]), temperature=0,
                               max_new_tokens=SAMPLE_TOKENS)
        texts.append(f"{context} |{tokenizer.decode([token for token in written if token != eos_id])}")
    return " / ".join(texts)


def train(output: Path, settings: Settings | None) -> None:
    """Begin a training, or without settings resume the one in `output`, and take it to its end.

    Raises InputError where that is impossible, and KeyboardInterrupt at Ctrl-C, once the step under way is saved.
    """
    accelerator, work, resumed = Accelerator(cpu=not torch.cuda.is_available()), output / WORK, settings is None
    if accelerator.num_processes > 1:
        raise InputError("this training runs in one process: start it with python, not with accelerate launch")
    if not resumed:
        check_free(output, CLEANED)
    with contextlib.nullcontext() if resumed else all_or_nothing(output, CLEANED):
        if resumed:
            s, facts = read_settings(work, Settings)
        else:
            make_folder(work)
            s, facts = settings, clean(settings.text, settings.keep_case, settings.seed, output / CLEANED)
        kind, parts, dtype = kind_of(s.model), read_cleaned(output / CLEANED), computing_dtype(s.dtype, accelerator.device)
        messages = shuffled(parts["train"], s.num_messages, s.seed)
        held_out = shuffled(parts["validation"], VALIDATION if kind == "pretrained" else None, s.seed)
        torch.manual_seed(s.seed)  # of new weights, and of dropout
        if kind == "pretrained":
            model = open_pretrained(s.model, None if s.full else s.lora_rank, dtype)
            tokenizer = model.tokenizer
        else:
            if not resumed:
                learn_tokenizer(messages, s.vocab_size).save_pretrained(work / "tokenizer")
            tokenizer = open_tokenizer(work / "tokenizer")
            model = new_model(kind, (s.embedding_size, s.hidden_size, s.num_layers), tokenizer, s.dropout)
        model = model.to(accelerator.device)
        dataset, validation = (next_tokens(tokenizer, part, s.loss_on == "rest") for part in (messages, held_out))
        for part in (dataset, validation):
            check_fit(model, tokenizer, part)
        cut = [split_x_target_by_words(message) for message in held_out]
        characters = sum(map(len, held_out if s.loss_on == "all" else (rest for _, rest in cut)))
        if not characters:
            raise InputError("no message for validation has two words: there are no last quarters to learn from")
        batches = Epochs(dataset, s.batch_size, BATCH_TOKENS, s.seed, s.num_epochs, collate=collate_batch)
        optimizers = [adamw(model)] if kind == "pretrained" else make_optimizers(model, dtype, BETA2)
        trainer = Trainer(model, optimizers, partial(message_loss, model), batches.from_step, len(batches), s.learning_rate,
                          work / STATE, accelerator, dtype)
        if resumed:
            trainer.load()
        else:
            facts["command"] = shlex.join(["python", *map(without_folder, sys.argv)])
            write_text(work / SETTINGS, json.dumps({"settings": asdict(s), "facts": facts}, indent=2))
            trainer.save()
    facts |= {"settings": {**asdict(s), "text": facts["text"], "model": without_folder(s.model)}, "messages": len(messages),
              "tokens": int(dataset.lengths.sum()), "parameters": num_parameters(model),
              "trained_parameters": num_parameters(model, trained=True)}
    print(f"training {facts['trained_parameters']:,} of {facts['parameters']:,} parameters, vocabulary {len(tokenizer):,}, on "
          f"{len(messages):,} messages of {facts['tokens']:,} tokens; validating on {len(held_out):,}")
    print(f"{len(batches):,} steps of at most {s.batch_size} messages, {s.num_epochs} epochs, "
          f"{str(dtype).removeprefix('torch.')} on {accelerator.device}, {torch.get_num_threads()} threads")
    contexts = [context for context, rest in cut if rest][:SAMPLES]
    evaluator = MessageEvaluator(model, validation, characters, s.batch_size, dtype,
                                 partial(completions, model, tokenizer, contexts))

    def keep_best() -> None:
        figures = {name: value for name, value in evaluator.figures.items() if name != "sample"}
        meta = {**facts, "step": trainer.step, "seconds": round(trainer.seconds), "figures": figures}
        write_text(output / "meta.json", json.dumps(meta, indent=2) + "\n")
        model.save_checkpoint(output, dtype, *([PLAIN_TEMPLATE] if kind == "generator" else []))

    metrics = Metrics(output, trainer.step)
    try:
        trainer.run(evaluator, keep_best, metrics, s.eval_every or math.ceil(len(batches) / EVALUATIONS), s.save_every)
    except Diverged as error:
        if not any(output.glob("*.safetensors")):
            metrics.path.unlink()
            discard(output, CLEANED)
        raise InputError(f"{error} at step {trainer.step}: try a lower --learning-rate") from error
    trainer.state_path.unlink()  # first: a kill must not leave it without its data
    shutil.rmtree(work)
    flag = "--adapter" if kind == "pretrained" and not s.full else "--model"
    print(f"done: {output} is the model; {metrics.path.name} and {metrics.picture.name} in it show how the training went. "
          f"Try it: {command('task1_greedy.py', flag, output, '--prompt', (contexts or held_out)[0])}")


def check_fit(model: nn.Module, tokenizer: "PreTrainedTokenizerBase", dataset: NextTokenDataset) -> None:
    """Raises InputError where a message is longer than the model's context, or holds a token that it has no weights for."""
    longest, context = int(dataset.lengths.max()), context_of(model)
    if longest > context:
        raise InputError(f"a message has {longest} tokens, more than the model's context of {context}")
    check_known([int(dataset.ids.max()), dataset.bos_id, dataset.eos_id], model, tokenizer.convert_ids_to_tokens)


def main() -> None:
    with one_line_errors():
        output, settings = parse_arguments()
        with stopped_in_words("train_autocomplete.py", output):
            train(output, settings)


if __name__ == "__main__":
    main()
