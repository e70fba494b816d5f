"""Train a GeneratorTransformer from nothing: on the built-in corpus, or on books of your own.

    python train_generator.py                                     # the default decoder, on stories and transfers
    python train_generator.py --text my_books/ --batch-size 1 --max-length 128 --learning-rate 1e-4 --num-epochs 2
    python train_generator.py --init checkpoint --text tale.txt --output runs/tale    # start from a trained model
    python train_generator.py --output runs/tale --resume         # go on after Ctrl-C or a crash
    accelerate launch --multi_gpu --num_processes 2 train_generator.py    # on several GPUs, or CPU processes

The output folder is a Hugging Face model folder: try it with `python task1_greedy.py --model runs/decoder`.
"""

from support.errors import FAILED, INTERRUPTED, InputError, first_line, one_line_errors, report, undisturbed

import contextlib
import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

from data.batches import Epochs
from data.blocks import TokenBlocks, write_blocks
from data.corpus import held_out_documents, training_documents
from data.corpus.names import without_names
from data.texts import read_texts, text_files
from data.tokenizer import UNKNOWN, id_count, make_tokenizer, read_tokenizer
from generator import GeneratorTransformer
from models.chatml import CHAT_TEMPLATE, CONTROL_TOKENS, END_OF_TEXT, IM_END, PLAIN_TEMPLATE, own_template
from models.limits import check_known
from models.loading import open_tokenizer
from models.transformer import TransformerConfig, intermediate_size
from support.files import make_folder, write_aside, write_text
from support.flags import COUNT, POSITIVE, RULES, SHARE, Parser, command, number, some_path, some_text
from support.streams import CONTROL_CHARACTERS
from training.evaluator import SHOWN, Evaluator, next_token_loss
from training.metrics import Metrics
from training.optimizer import make_optimizers
from training.precision import computing_dtype
from training.trainer import Diverged, Trainer

import torch
from accelerate import Accelerator
from tokenizers import Tokenizer
from tqdm import tqdm

BUILT_IN = {"max_length": 512, "batch_size": 32, "batch_tokens": 4096, "learning_rate": 2e-3, "num_epochs": 1}
BOOKS = {"max_length": 192, "batch_size": 8, "batch_tokens": 1_000_000, "learning_rate": 1e-3, "num_epochs": 4}
TOKENIZER_CHARACTERS = 50_000_000  # a tokenizer learns nothing new from more
HELD_OUT_TRANSFERS, HELD_OUT_STORIES = 500, 100
EXACT_TRANSFERS = "transfer_accuracy"  # in metrics.jsonl: the share of the held-out transfers that are exact
VALIDATION_WINDOWS = 2500  # at most: a tenth of a large text would take longer to evaluate on than to train on
WORK = "training_state"  # in the output folder, and deleted at the end: not a name that a folder of the user's may have
STATE, SETTINGS, SHAPE = "state.pt", "arguments.json", "model.json"  # in WORK
COPIES = "copies"  # in WORK: of pipes, until their tokens are written
EARLIER = {"batch_tokens": 1_000_000}  # settings that an earlier version did not save, with what it did: no limit
SAMPLE = {"temperature": 0.8, "top_p": 0.95, "max_out_tokens": 60, "seed": 0}
FLAGS = {"hidden_size": "--hidden-size", "num_attention_heads": "--num-heads", "num_key_value_heads": "--num-kv-heads"}


@dataclass(frozen=True)
class Settings:
    """What a training is begun with; saved with its state, so that --resume needs no other flag."""

    text: list[str] | None
    num_documents: int
    tokenizer: str
    vocab_size: int
    max_length: int
    init: str | None
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    dropout: float
    batch_size: int
    batch_tokens: int
    learning_rate: float
    num_epochs: int
    max_loss_gap: float
    dtype: str
    seed: int
    eval_every: int
    save_every: int


def parse_arguments(argv: list[str] | None = None) -> tuple[Path, Settings | None]:
    """The output folder, and the settings of a new training; None is --resume. Raises InputError, which names the flag."""
    count, positive = number(COUNT), number(POSITIVE)
    parser = Parser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument("--text", type=some_text, nargs="+", metavar="PATH",
                      help="books instead of the built-in corpus: files, folders, URLs, pipes; .gz too")
    data.add_argument("--num-documents", type=count, default=120_000, help="size of the built-in corpus (%(default)s)")
    data.add_argument("--tokenizer", type=some_text, default="bpe",
                      help="bpe (default), char, word, or the path of a tokenizer.json")
    data.add_argument("--vocab-size", type=count, default=2048, help="tokens in a vocabulary trained here (%(default)s)")
    data.add_argument("--max-length", type=count, help="tokens in a training window (512; with --text 192)")
    model = parser.add_argument_group("model")
    model.add_argument("--init", type=some_text, metavar="FOLDER",
                       help="start from this checkpoint: its weights, shape and tokenizer")
    model.add_argument("--hidden-size", type=count, default=256, help="width of the vectors (%(default)s)")
    model.add_argument("--num-layers", type=count, default=4, help="blocks (%(default)s)")
    model.add_argument("--num-heads", type=count, default=4, help="query heads (%(default)s)")
    model.add_argument("--num-kv-heads", type=count, default=2, help="key and value heads (%(default)s)")
    model.add_argument("--dropout", type=number(SHARE), default=0.0, help="share of each block's output dropped (%(default)s)")
    training = parser.add_argument_group("training")
    training.add_argument("--batch-size", type=count, help="windows in a step, over all processes (32; with --text 8)")
    training.add_argument("--batch-tokens", type=count, metavar="TOKENS",
                          help="at most in a step: fewer windows where they are long (4096; with --text 1000000)")
    training.add_argument("--learning-rate", type=positive, help="at its highest (2e-3; with --text 1e-3)")
    training.add_argument("--num-epochs", type=count, help="times through the data (1; with --text 4)")
    training.add_argument("--max-loss-gap", type=positive, default=math.inf, metavar="NATS",
                          help="stop when validation minus training loss exceeds this")
    training.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
                          help="of the arithmetic: auto is bfloat16 where the hardware has it")
    training.add_argument("--seed", type=number(RULES["seed"]), default=0, help="of weights, corpus and order (%(default)s)")
    running = parser.add_argument_group("running")
    running.add_argument("--output", type=some_path, default=Path("runs/decoder"), metavar="FOLDER", help="(%(default)s)")
    running.add_argument("--eval-every", type=count, default=500, metavar="STEPS", help="(%(default)s)")
    running.add_argument("--save-every", type=count, default=250, metavar="STEPS", help="(%(default)s)")
    running.add_argument("--resume", action="store_true", help="go on with the training in --output, by its own settings")
    args = parser.parse_args(argv)
    if args.resume:
        return args.output, None
    for name, value in (BOOKS if args.text else BUILT_IN).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args.output, Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})


def read_settings(work: Path) -> Settings:
    """The settings of the training that was stopped. Raises InputError where there is none, or the file is damaged."""
    if not (work / STATE).exists():
        raise InputError(f"{work.parent} holds no unfinished training to resume")
    try:
        saved = {**EARLIER, **json.loads((work / SETTINGS).read_text("utf-8"))}  # once with --output and --resume
        return Settings(**{field.name: saved[field.name] for field in fields(Settings)})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{work / SETTINGS} cannot be read: {first_line(error)}") from error


def first_characters(documents: Iterable[tuple[str | None, str]], limit: int) -> Iterator[str]:
    """Prompts and texts of the first documents, until the texts have `limit` characters."""
    for prompt, text in documents:
        yield from (part for part in (prompt, text) if part)
        limit -= len(text)
        if limit < 0:
            return


def make_documents(files: list[Path] | None, num_documents: int, seed: int,
                   purpose: str) -> Iterator[tuple[str | None, str]]:  # fmt: skip
    """The (prompt, text) pairs to train on, from the first at every call; the progress bar names the purpose."""
    if files:
        return read_texts(files)
    corpus = training_documents(seed)
    return (next(corpus) for _ in tqdm(range(num_documents), desc=f"corpus for the {purpose}", unit=" documents"))


def learn_tokenizer(kind: str, vocab_size: int, documents: Iterable[tuple[str | None, str]], names: bool) -> Tokenizer:
    """The tokenizer that `kind` names. BPE must not learn the built-in corpus's names whole: then `names` is False."""
    texts = first_characters(documents, TOKENIZER_CHARACTERS)
    return make_tokenizer(kind, texts if names or kind != "bpe" else without_names(texts), vocab_size)


def prepare(work: Path, tokenizer: Tokenizer, documents: Iterable[tuple[str | None, str]], max_length: int,
            held_out: Iterable[tuple[str, str]] | None) -> None:
    """Write to `work` what training needs: the tokenizer, the blocks to train on, and those of the held-out documents.

    Without these, the end of the blocks to train on is for validation. Raises InputError where there is too little.
    """
    write_aside(work / "tokenizer.json", lambda path: tokenizer.save(str(path)))
    ids = {"bos_id": tokenizer.token_to_id(END_OF_TEXT), "eos_id": tokenizer.token_to_id(IM_END)}
    blocks = write_blocks(work / "train", documents, tokenizer, max_length, **ids)
    if held_out is None:
        blocks.split()  # raises now, rather than after another model was loaded
    else:
        write_blocks(work / "validation", held_out, tokenizer, max_length, **ids)


def prepared_blocks(work: Path, split: bool) -> tuple[TokenBlocks, TokenBlocks]:
    """The blocks to train and to validate on, as `prepare` wrote them; `split` where it was given no held-out documents."""
    blocks = TokenBlocks.load(work / "train")
    train, validation = blocks.split() if split else (blocks, TokenBlocks.load(work / "validation"))
    return train, TokenBlocks(validation.tokens, validation.index[:VALIDATION_WINDOWS])


def load_initial(folder: str, max_length: int, dropout: float) -> GeneratorTransformer:
    """The model of a checkpoint. Raises InputError where it cannot be trained on windows of `max_length` tokens."""
    model = GeneratorTransformer.load_from_checkpoint(folder, dropout)
    if max_length > model.config.max_position_embeddings:
        raise InputError(f"--max-length {max_length} is more than the {model.config.max_position_embeddings} tokens "
                         f"of {folder}")
    for token in CONTROL_TOKENS:
        if model.tokenizer.token_to_id(token) is None:
            raise InputError(f"the tokenizer of {folder} has no {token}")
    return model


def make_config(hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, max_length: int) -> TransformerConfig:
    """The shape of a new model, its vocabulary still unknown. Raises InputError, which names the flags, for a wrong one."""
    try:
        return TransformerConfig(
            hidden_size=hidden_size, intermediate_size=intermediate_size(hidden_size), num_hidden_layers=num_layers,
            num_attention_heads=num_heads, num_key_value_heads=num_kv_heads, max_position_embeddings=max_length)
    except InputError as error:
        message = str(error)
        for field, flag in FLAGS.items():
            message = message.replace(field, flag)
        raise InputError(message) from error


def make_model(config: TransformerConfig, tokenizer: Tokenizer, dropout: float) -> GeneratorTransformer:
    """A new model, with random weights, for the tokenizer's vocabulary."""
    ids = {"bos_token_id": tokenizer.token_to_id(END_OF_TEXT), "eos_token_id": tokenizer.token_to_id(IM_END)}
    return GeneratorTransformer(replace(config, vocab_size=id_count(tokenizer), **ids), tokenizer, dropout)


def chat_template_for(text: list[str] | None, init: str | None) -> str | None:
    """The chat template of the trained model: the built-in corpus is ChatML; texts teach no conversation, but a checkpoint to
    start from may know one."""
    if text and init:
        return own_template(open_tokenizer(Path(init)))
    return PLAIN_TEMPLATE if text else CHAT_TEMPLATE


def saved_model(work: Path, s: Settings) -> tuple[GeneratorTransformer, str | None]:
    """A model of the shape of the one whose training was stopped, and its chat template.

    Raises InputError where the file is damaged, or an earlier version wrote none and the checkpoint of --init is gone.
    """
    tokenizer = read_tokenizer(str(work / "tokenizer.json"))
    if (work / SHAPE).exists():
        try:
            saved = json.loads((work / SHAPE).read_text("utf-8"))
            return GeneratorTransformer(TransformerConfig(**saved["config"]), tokenizer, s.dropout), saved["chat_template"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{work / SHAPE} cannot be read: {first_line(error)}") from error
    if not s.init:
        config = make_config(s.hidden_size, s.num_layers, s.num_heads, s.num_kv_heads, s.max_length)
        return make_model(config, tokenizer, s.dropout), chat_template_for(s.text, None)
    try:
        return load_initial(s.init, s.max_length, s.dropout), chat_template_for(s.text, s.init)
    except InputError as error:
        raise InputError(f"{error}; an earlier version began this training, and it needs the folder of its --init") from error


def discard(work: Path) -> None:
    """Remove a training that cannot go on, and its output folder if that holds nothing else."""
    shutil.rmtree(work, ignore_errors=True)
    with contextlib.suppress(OSError):
        work.parent.rmdir()


@contextlib.contextmanager
def all_or_nothing(work: Path) -> Iterator[None]:
    """Leave nothing of a training that fails, or is interrupted, before its first state is saved."""
    try:
        yield
    except BaseException:
        with undisturbed():
            discard(work)
        raise


def train(output: Path, settings: Settings | None) -> None:
    """Begin a training, or without settings resume the one in `output`, and take it to its end.

    Raises InputError where that is impossible, and KeyboardInterrupt at Ctrl-C, once the step under way is saved.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    is_main, device, work = accelerator.is_main_process, accelerator.device, output / WORK
    resumed = settings is None
    if not resumed and ((output / "model.safetensors").exists() or (work / STATE).exists()):
        way = "go on with --resume" if (work / STATE).exists() else "it is finished"
        raise InputError(f"{output} holds a training already: {way}, or choose another --output")
    s, begins = settings or read_settings(work), is_main and not resumed
    with all_or_nothing(work) if begins else contextlib.nullcontext():
        torch.manual_seed(s.seed)  # of new weights, and of dropout
        if resumed:
            model, chat_template = saved_model(work, s)
        else:
            initial = load_initial(s.init, s.max_length, s.dropout) if s.init else None
            chat_template = chat_template_for(s.text, s.init)
            config = None if initial else make_config(
                s.hidden_size, s.num_layers, s.num_heads, s.num_kv_heads, s.max_length)
            if begins:
                make_folder(work)
                files = text_files(s.text, Path("runs/downloads"), work / COPIES) if s.text else None
                documents = partial(make_documents, files, s.num_documents, s.seed)
                tokenizer = initial.tokenizer if initial else learn_tokenizer(
                    s.tokenizer, s.vocab_size, documents("tokenizer"), names=bool(s.text))
                held_out = None if s.text else held_out_documents(HELD_OUT_TRANSFERS, HELD_OUT_STORIES)
                prepare(work, tokenizer, documents("training"), s.max_length, held_out)
                shutil.rmtree(work / COPIES, ignore_errors=True)
            accelerator.wait_for_everyone()
            model = initial or make_model(config, read_tokenizer(str(work / "tokenizer.json")), s.dropout)
        model, dtype = model.to(device), computing_dtype(s.dtype, device)
        blocks, validation = prepared_blocks(work, split=bool(s.text))
        for part in (blocks, validation):  # the tokenizer of --init may know more than its model
            check_known([int(part.tokens.max())], model, model.tokenizer.id_to_token)
        batches = Epochs(blocks, s.batch_size, s.batch_tokens, s.seed, s.num_epochs,
                         accelerator.process_index, accelerator.num_processes)
        loss = partial(next_token_loss, model, accelerator.prepare(model))
        trainer = Trainer(model, make_optimizers(model, dtype), loss, batches.from_step, len(batches), s.learning_rate,
                          work / STATE, accelerator, dtype)
        if resumed:
            trainer.load()
        elif begins:
            write_text(work / SETTINGS, json.dumps(asdict(s), indent=2))
            write_text(work / SHAPE, json.dumps({"config": asdict(model.config), "chat_template": chat_template}, indent=2))
            trainer.save()
    metrics = None
    if is_main:
        metrics = Metrics(output, trainer.step, None if s.text else (EXACT_TRANSFERS, "held-out transfers exact"))
        print(described(model, blocks, s.max_length, len(validation)))
        print(f"{len(batches):,} steps of at most {s.batch_size} windows, {s.num_epochs} epochs, "
              f"{str(dtype).removeprefix('torch.')} on {device}, {torch.get_num_threads()} threads")
    evaluator = Evaluator(model, validation, max(1, min(s.batch_size, s.batch_tokens // s.max_length)), dtype,
                          partial(model.generate, **SAMPLE), None if s.text else (EXACT_TRANSFERS, HELD_OUT_TRANSFERS))
    try:
        trainer.run(evaluator, partial(model.save_checkpoint, output, dtype, chat_template), metrics,
                    s.eval_every, s.save_every, s.max_loss_gap)
    except Diverged as error:
        if metrics and not (output / "model.safetensors").exists():
            metrics.path.unlink()
            discard(work)
        raise InputError(f"{error} at step {trainer.step}: try a lower --learning-rate") from error
    accelerator.end_training()  # together: a process whose peer has left already can abort
    if metrics:
        prompt = ["--prompt", beginning(model, validation)] if s.text else []
        trainer.state_path.unlink()  # first: a kill must not leave it without its data
        shutil.rmtree(work)
        print(f"done: {output} is the model; {metrics.path.name} and {metrics.picture.name} in it show how the training went. "
              f"Try it: {command('task1_greedy.py', '--model', output, *prompt)}")


def described(model: GeneratorTransformer, blocks: TokenBlocks, max_length: int, num_validation: int) -> str:
    """The model and its data in words: parameters, windows, tokens, validation windows."""
    return (f"training {sum(weight.numel() for weight in model.parameters()):,} parameters ({model.config.num_hidden_layers} "
            f"layers of {model.config.hidden_size}, vocabulary {model.config.vocab_size:,}) on {len(blocks):,} windows of at "
            f"most {max_length} tokens, {blocks.lengths.sum():,} in all; validating on {num_validation:,}")


def beginning(model: GeneratorTransformer, windows: TokenBlocks) -> str:
    """The first words of a window, for a prompt to try the model with, which knows no other than texts such as its own."""
    ids, _ = windows[0]
    text = model.tokenizer.decode(ids[1 : 1 + min(SHOWN, model.config.max_position_embeddings // 2)].tolist())
    known = max(text.split(UNKNOWN), key=len)
    words = CONTROL_CHARACTERS.sub(" ", known).replace("\ufffd", " ").lstrip("- ").split()
    return " ".join(words[:-1] or words) or "The"  # the last one may be cut


def main() -> None:
    with one_line_errors():
        output, settings = parse_arguments()
        try:
            train(output, settings)
        except (KeyboardInterrupt, OSError) as error:  # OSError: the output cannot be written
            if not (output / WORK / STATE).exists():
                raise
            cause = f": {error}" if str(error) else ""
            report(f"\nstopped{cause}; go on with: {command('train_generator.py', '--output', output, '--resume')}")
            sys.exit(INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED)


if __name__ == "__main__":
    main()
