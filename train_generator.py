"""Train a GeneratorTransformer from nothing: on the built-in corpus, or on books of your own.

    python train_generator.py                                     # the default decoder, on stories and transfers
    python train_generator.py --text my_books/ --batch-size 1 --max-length 128 --learning-rate 1e-4 --num-epochs 2
    python train_generator.py --init checkpoint --text tale.txt --output runs/tale    # go on from a trained one
    python train_generator.py --output runs/tale --resume         # go on after Ctrl-C or a crash
    accelerate launch --multi_gpu --num_processes 2 train_generator.py    # on several GPUs, or CPU processes

The output folder is a Hugging Face model folder: try it with `python task1_greedy.py --model runs/decoder`.
"""

import argparse
import contextlib
import json
import math
import shutil
import signal
import sys
import time
from pathlib import Path

from generator import GeneratorConfig, GeneratorTransformer, write_aside, write_text

import numpy as np
import torch
from accelerate import Accelerator
from corpus import held_out_documents, training_documents
from corpus.names import without_names
from dataset import IGNORED, TokenBlocks, batches, collate, epoch_batches, read_texts, write_blocks
from optimizer import make_optimizers
from tokenizer import CONTROL_TOKENS, END_OF_TEXT, IM_END, id_count, make_tokenizer
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import DynamicCache

BUILT_IN = {"max_length": 512, "batch_size": 32, "batch_tokens": 4096, "learning_rate": 2e-3, "num_epochs": 1}
BOOKS = {"max_length": 192, "batch_size": 8, "batch_tokens": 1_000_000, "learning_rate": 1e-3, "num_epochs": 4}
TOKENIZER_CHARACTERS = 50_000_000  # a tokenizer learns nothing new from more
HELD_OUT_TRANSFERS, HELD_OUT_STORIES = 500, 100
VALIDATION_WINDOWS = 2500  # at most: a tenth of a large text would take longer to evaluate on than to train on
WORK = "training_state"  # in the output folder, and deleted at the end: not a name that a folder of the user's may have
PROGRESS = ("step", "best", "seconds", "losses")
WARMUP, DECAY = 0.02, 0.5  # shares of the training: the learning rate rises, stands, and falls to zero


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--text", nargs="+", metavar="PATH", help="books instead of the built-in corpus: files, folders, URLs")
    data.add_argument("--num-documents", type=positive_int, default=120_000, help="size of the built-in corpus (%(default)s)")
    data.add_argument("--tokenizer", default="bpe", help="bpe (default), char, word, or the path of a tokenizer.json")
    data.add_argument("--vocab-size", type=positive_int, default=2048, help="tokens in a vocabulary trained here (%(default)s)")
    data.add_argument("--max-length", type=positive_int, help="tokens in a training window (512; with --text 192)")
    model = parser.add_argument_group("model")
    model.add_argument("--init", metavar="FOLDER", help="go on from this checkpoint: its shape and its tokenizer")
    model.add_argument("--hidden-size", type=positive_int, default=256, help="width of the vectors (%(default)s)")
    model.add_argument("--num-layers", type=positive_int, default=4, help="blocks (%(default)s)")
    model.add_argument("--num-heads", type=positive_int, default=4, help="query heads (%(default)s)")
    model.add_argument("--num-kv-heads", type=positive_int, default=2, help="key and value heads (%(default)s)")
    model.add_argument("--dropout", type=share, default=0.0, help="share of each block's output dropped (%(default)s)")
    training = parser.add_argument_group("training")
    training.add_argument("--batch-size", type=positive_int, help="windows in a step, over all processes (32; with --text 8)")
    training.add_argument("--batch-tokens", type=positive_int, metavar="TOKENS",
                          help="at most in a step: fewer windows where they are long (4096; with --text 1000000)")  # fmt: skip
    training.add_argument("--learning-rate", type=positive_float, help="at its highest (2e-3; with --text 1e-3)")
    training.add_argument("--num-epochs", type=positive_int, help="times through the data (1; with --text 4)")
    training.add_argument("--max-loss-gap", type=positive_float, default=math.inf, metavar="NATS",
                          help="stop when validation minus training loss exceeds this")  # fmt: skip
    training.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
                          help="of the arithmetic: auto is bfloat16 where the hardware has it")  # fmt: skip
    training.add_argument("--seed", type=int, default=0, help="of weights, corpus and order (%(default)s)")
    running = parser.add_argument_group("running")
    running.add_argument("--output", type=Path, default=Path("runs/decoder"), metavar="FOLDER", help="(%(default)s)")
    running.add_argument("--eval-every", type=positive_int, default=500, metavar="STEPS", help="(%(default)s)")
    running.add_argument("--save-every", type=positive_int, default=250, metavar="STEPS", help="(%(default)s)")
    running.add_argument("--resume", action="store_true", help="go on with the training in --output, by its own settings")
    args = parser.parse_args(argv)
    for name, value in (BOOKS if args.text else BUILT_IN).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def positive_int(text: str) -> int:
    return checked(text, int, lambda value: value >= 1, "a whole number of at least 1")


def positive_float(text: str) -> float:
    return checked(text, float, lambda value: 0 < value < math.inf, "a number above 0 and finite")


def share(text: str) -> float:
    return checked(text, float, lambda value: 0 <= value < 1, "a number of at least 0 and below 1")


def checked(text: str, kind: type, fits, wanted: str):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"must be {wanted}, not {text}")
    return value


class Interrupt:
    """Notes Ctrl-C and a polite kill, so that the step under way can finish; a second one ends at once."""

    ECHO = 1.0  # seconds in which a second signal is the first one, passed on by `accelerate launch`

    def __init__(self):
        self.noted, self.first = False, math.inf
        self.wanted = False  # what all processes agree on at a step's end
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.note)

    def note(self, number, frame):
        self.noted, self.first = True, min(self.first, time.monotonic())
        if time.monotonic() - self.first > self.ECHO:
            raise KeyboardInterrupt


class Metrics:
    """What was measured, a JSON object a line, and the curve drawn from it."""

    def __init__(self, folder: Path, last_step: int):
        """Goes on behind `last_step`, dropping what a killed training wrote after its last saved step."""
        self.path, self.picture = folder / "metrics.jsonl", folder / "loss.png"
        lines = self.path.read_text("utf-8").split("\n")[:-1] if last_step else []  # not a last one that was cut short
        self.rows = [row for row in map(json.loads, lines) if row["step"] <= last_step]
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_text(self.path, text)

    def add(self, **row) -> None:
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def draw(self) -> None:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot as plt

        losses = np.array([(row["step"], row["loss"]) for row in self.rows if "loss" in row])
        checks = [row for row in self.rows if "validation_loss" in row]
        window = min(50, len(losses))
        smooth = np.convolve(losses[:, 1], np.ones(window) / window, "valid")
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        axes.plot(losses[window - 1 :, 0], smooth, color="#0072b2", label=f"training, mean of {window} steps")
        steps = [row["step"] for row in checks]
        axes.plot(steps, [row["validation_loss"] for row in checks], "o-", color="#d55e00", label="validation")
        axes.set(xlabel="step", ylabel="loss (nats per token)", yscale="log")
        if any("transfer_accuracy" in row for row in checks):
            right = axes.twinx()
            right.plot(steps, [100 * row["transfer_accuracy"] for row in checks], "s--", color="#009e73",
                       label="held-out transfers exact (right axis)")  # fmt: skip
            right.set(ylabel="%", ylim=(0, 100))
        figure.legend(loc="outside lower center", ncols=3)
        write_aside(self.picture, lambda path: figure.savefig(path, format="png", dpi=120))
        plt.close(figure)


def computing_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that `--dtype` names; auto: bfloat16 where the hardware computes in it."""
    if name != "auto":
        return getattr(torch, name)
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def first_characters(documents, limit: int):
    """Prompts and texts of the first documents, until the texts have `limit` characters."""
    for prompt, text in documents:
        yield from (part for part in (prompt, text) if part)
        limit -= len(text)
        if limit < 0:
            return


def make_documents(args: argparse.Namespace, purpose: str):
    """The (prompt, text) pairs to train on, from the start at every call, with a progress bar that names the purpose."""
    if args.text:
        return read_texts(args.text, Path("runs/downloads"))
    corpus = training_documents(args.seed)
    return (next(corpus) for _ in tqdm(range(args.num_documents), desc=f"corpus for the {purpose}", unit=" documents"))


def prepare(args: argparse.Namespace, work: Path) -> None:
    """Writes to `work` what training needs: the tokenizer, and the training and validation blocks."""
    work.mkdir(parents=True, exist_ok=True)
    if args.init:
        tokenizer = load_initial(args).tokenizer
    else:
        make_config(args)  # an impossible shape is an error before any text is read
        texts = first_characters(make_documents(args, "tokenizer"), TOKENIZER_CHARACTERS)
        if args.tokenizer == "bpe" and not args.text:
            texts = without_names(texts)
        tokenizer = make_tokenizer(args.tokenizer, texts, args.vocab_size)
    write_aside(work / "tokenizer.json", lambda path: tokenizer.save(str(path)))
    ids = {"bos_id": tokenizer.token_to_id(END_OF_TEXT), "eos_id": tokenizer.token_to_id(IM_END)}
    blocks = write_blocks(work / "train", make_documents(args, "training"), tokenizer, args.max_length, **ids)
    if args.text:
        blocks.split()  # an error here, before anything is trained, if there is too little
    else:
        held_out = held_out_documents(HELD_OUT_TRANSFERS, HELD_OUT_STORIES)
        write_blocks(work / "validation", held_out, tokenizer, args.max_length, **ids)


def discard(work: Path) -> None:
    """Removes a training that cannot go on, and its output folder if that holds nothing else."""
    shutil.rmtree(work, ignore_errors=True)
    with contextlib.suppress(OSError):
        work.parent.rmdir()


@contextlib.contextmanager
def all_or_nothing(work: Path):
    """Leaves nothing of a training that fails, or is interrupted, before its first state is saved."""
    try:
        yield
    except BaseException:
        discard(work)
        raise


class Training:
    """A model with its optimizers and its place in the data: all that a resumed training needs."""

    def __init__(self, args: argparse.Namespace, work: Path, accelerator: Accelerator):
        self.args, self.state_path, self.device = args, work / "state.pt", accelerator.device
        blocks = TokenBlocks.load(work / "train")
        self.train, self.validation = blocks.split() if args.text else (blocks, TokenBlocks.load(work / "validation"))
        self.validation = TokenBlocks(self.validation.tokens, self.validation.index[:VALIDATION_WINDOWS])
        self.model = make_model(args, work / "tokenizer.json").to(self.device)
        self.dtype = computing_dtype(args.dtype, self.device)
        self.optimizers = make_optimizers(self.model, self.dtype)
        self.epoch_ends = np.cumsum([len(self.order(epoch)) for epoch in range(args.num_epochs)])  # in steps
        self.num_steps = int(self.epoch_ends[-1])
        self.step, self.best, self.seconds = 0, math.inf, 0.0
        self.losses = []  # (sum, targets) of the steps since the last evaluation
        self.accelerator, self.parallel = accelerator, accelerator.prepare(self.model)

    def save(self) -> None:
        """One file for everything, so that no kill can leave halves of two states."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "random": torch.get_rng_state(),
            "progress": {name: getattr(self, name) for name in PROGRESS},
        }
        write_aside(self.state_path, lambda path: torch.save(state, path))

    def load(self) -> None:
        """Raises ValueError for a state that is broken, or another training's."""
        try:
            state = torch.load(self.state_path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            for optimizer, content in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(content)
            torch.set_rng_state(state["random"])
            for name in PROGRESS:
                setattr(self, name, state["progress"][name])
        except Exception as error:  # a broken file fails in many ways, and torch tells of each in many lines
            raise ValueError(f"{self.state_path} cannot be read, is it another training's? ({type(error).__name__})") from error

    def learning_rate(self) -> float:
        done = self.step / self.num_steps
        rise = min(1.0, (self.step + 1) / (WARMUP * self.num_steps))
        return self.args.learning_rate * rise * min(1.0, (1 - done) / DECAY)

    def order(self, epoch: int) -> list[np.ndarray]:
        args = self.args
        return epoch_batches(self.train.lengths, args.batch_size, args.batch_tokens, args.seed, epoch)

    def batches(self):
        """(input_ids, targets) of every step still to come: this process's rows of each batch."""
        while self.step < self.num_steps:
            epoch = int(np.searchsorted(self.epoch_ends, self.step, side="right"))
            to_come = self.order(epoch)[self.step - self.epoch_ends[epoch] :]
            yield from batches(self.train, to_come, self.accelerator.process_index, self.accelerator.num_processes)

    def autocast(self):
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def loss(self, input_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The summed loss of a batch. What all its rows begin with, such as a system message, is read once, by one row:
        the other rows attend to the same keys and values, and their gradients meet there."""
        shared = common_prefix(input_ids, targets)
        if not shared:
            return self.parallel(input_ids, targets=targets).loss
        cache = DynamicCache()
        self.model.model(input_ids[:1, :shared], cache)
        cache.batch_repeat_interleave(len(input_ids))
        return self.parallel(input_ids[:, shared:], past_key_values=cache, targets=targets[:, shared:]).loss

    def take_step(self, input_ids: torch.Tensor, targets: torch.Tensor, interrupt: Interrupt) -> float:
        """One update; returns the batch's mean loss, in nats per token, over all processes.

        Raises FloatingPointError for a loss that is not finite; then the weights are those of the step before.
        """
        if not len(input_ids):  # the last batch of an epoch can have fewer rows than there are processes
            input_ids, targets = torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), IGNORED)
        with self.autocast():
            loss = self.loss(input_ids.to(self.device), targets.to(self.device))
        counts = torch.tensor([loss.item(), (targets != IGNORED).sum(), interrupt.noted], dtype=torch.float64)
        total, targets_counted, interrupted = self.accelerator.reduce(counts.to(self.device), "sum").tolist()
        interrupt.wanted = interrupted > 0
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss is {total} at step {self.step}: try a lower --learning-rate")
        # Gradients are averaged over processes, and the loss is a sum: this makes it the mean over all targets.
        (loss * self.accelerator.num_processes / targets_counted).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0).item()
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient is {norm} at step {self.step}: try a lower --learning-rate")
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.losses.append((total, targets_counted))
        return total / targets_counted

    @torch.no_grad()
    def evaluate(self) -> dict:
        """Validation loss (nats per token), perplexity, and what the model continues a validation text with.

        A held-out transfer is exact if every token of its answer is the most likely one: then greedy writes it.
        """
        self.model.eval()
        total, counted, exact = 0.0, 0, []
        batch = max(1, min(self.args.batch_size, self.args.batch_tokens // self.args.max_length))
        for start in range(0, len(self.validation), batch):
            rows = [self.validation[i] for i in range(start, min(start + batch, len(self.validation)))]
            input_ids, targets = (tensor.to(self.device) for tensor in collate(rows))
            row, position = (targets != IGNORED).nonzero(as_tuple=True)  # of each target that counts: (counted,)
            targets = targets[row, position]
            with self.autocast():
                logits = self.model.lm_head(self.model.model(input_ids, None)[row, position]).float()  # (counted, vocab)
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            counted += len(targets)
            wrong = set(row[logits.argmax(-1) != targets].tolist())
            exact += [i not in wrong for i in range(len(rows))]
        if not math.isfinite(total):
            raise FloatingPointError(f"the validation loss is {total} at step {self.step}: try a lower --learning-rate")
        ids, context = self.validation[len(self.validation) - 1]
        prompt = self.model.tokenizer.decode(ids[: max(context, 16)].tolist(), skip_special_tokens=False)
        sample = self.model.generate(prompt, temperature=0.8, top_p=0.95, max_out_tokens=60, seed=0)
        self.model.train()
        result = {"validation_loss": total / counted, "perplexity": math.exp(min(total / counted, 700)), "sample": sample}
        if not self.args.text:
            result["transfer_accuracy"] = sum(exact[:HELD_OUT_TRANSFERS]) / HELD_OUT_TRANSFERS
        return result


def common_prefix(input_ids: torch.Tensor, targets: torch.Tensor) -> int:
    """How many first tokens all rows share, none of which has a target that counts: two tensors (rows, T) -> tokens."""
    differ = (input_ids != input_ids[0]).any(dim=0) | (targets != IGNORED).any(dim=0)  # (T,)
    return int(differ.int().argmax()) if len(input_ids) > 1 else 0


def load_initial(args: argparse.Namespace) -> GeneratorTransformer:
    """The model that --init names. Raises ValueError where it cannot be trained on what --max-length asks for."""
    model = GeneratorTransformer.load_from_checkpoint(args.init, args.dropout).train()
    if args.max_length > model.config.max_position_embeddings:
        raise ValueError(f"--max-length {args.max_length} is more than the {model.config.max_position_embeddings} "
                         f"tokens of {args.init}")  # fmt: skip
    for token in CONTROL_TOKENS:
        if model.tokenizer.token_to_id(token) is None:
            raise ValueError(f"the tokenizer of {args.init} has no {token}")
    return model


def make_config(args: argparse.Namespace, **vocabulary: int) -> GeneratorConfig:
    return GeneratorConfig(
        hidden_size=args.hidden_size,
        intermediate_size=intermediate_size(args.hidden_size),
        num_hidden_layers=args.num_layers,
        num_attention_heads=args.num_heads,
        num_key_value_heads=args.num_kv_heads,
        max_position_embeddings=args.max_length,
        **vocabulary,
    )


def make_model(args: argparse.Namespace, tokenizer_path: Path) -> GeneratorTransformer:
    torch.manual_seed(args.seed)
    if args.init:
        return load_initial(args)
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    config = make_config(
        args,
        vocab_size=id_count(tokenizer),
        bos_token_id=tokenizer.token_to_id(END_OF_TEXT),
        eos_token_id=tokenizer.token_to_id(IM_END),
    )
    return GeneratorTransformer(config, tokenizer, args.dropout)


def intermediate_size(hidden_size: int) -> int:
    """About 8/3 of the width: three such matrices have the weights of the usual two of four times the width."""
    return math.ceil(hidden_size * 8 / 3 / 64) * 64


def run(training: Training, metrics: Metrics | None) -> None:
    """Trains to the end; `metrics` is None in all processes but the main one. Raises KeyboardInterrupt at Ctrl-C,
    when the step under way is finished and saved."""
    args, interrupt = training.args, Interrupt()
    steps = {"total": training.num_steps, "initial": training.step}
    with tqdm(**steps, desc="training", unit=" steps", disable=not metrics) as progress:
        for input_ids, targets in training.batches():
            started = time.perf_counter()
            loss = training.take_step(input_ids, targets, interrupt)
            seconds = time.perf_counter() - started
            training.seconds += seconds
            tokens = input_ids.numel() * training.accelerator.num_processes
            progress.set_postfix_str(f"loss {loss:.3f}, {tokens / seconds:.0f} tokens/s", refresh=False)
            progress.update()
            if metrics:
                metrics.add(step=training.step, loss=loss)
            finished = training.step == training.num_steps
            if finished or training.step % args.eval_every == 0:
                finished |= check(training, metrics, progress)
            if finished:  # and not saved, or a resumed training would train on, or have no step left to finish with
                return
            if metrics and (training.step % args.save_every == 0 or interrupt.wanted):
                training.save()
            if interrupt.wanted:
                raise KeyboardInterrupt


def check(training: Training, metrics: Metrics | None, progress: tqdm) -> bool:
    """Evaluates, shows and notes it, keeps the best model; returns whether the loss gap says to stop."""
    started, stop = time.perf_counter(), False
    if metrics:
        sums, targets = zip(*training.losses, strict=True)
        train_loss = sum(sums) / sum(targets)
        result = training.evaluate()
        training.seconds += time.perf_counter() - started
        metrics.add(step=training.step, train_loss=train_loss, **result, seconds=round(training.seconds))
        metrics.draw()
        accuracy = f", held-out transfers exact {result['transfer_accuracy']:.1%}" if "transfer_accuracy" in result else ""
        progress.write(f"step {training.step}: training loss {train_loss:.4f}, validation loss "
                       f"{result['validation_loss']:.4f}, perplexity {result['perplexity']:.2f}{accuracy}\n"
                       f"    … {' '.join(result['sample'].split())}")  # fmt: skip
        if result["validation_loss"] < training.best:
            training.best = result["validation_loss"]
            training.model.save_checkpoint(training.args.output, training.dtype)
        stop = result["validation_loss"] - train_loss > training.args.max_loss_gap
        if stop:
            progress.write(f"stopped: the loss gap exceeds {training.args.max_loss_gap}")
    training.losses = []
    return training.accelerator.reduce(torch.tensor(float(stop), device=training.device), "sum").item() > 0


def train(args: argparse.Namespace) -> None:
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    work = args.output / WORK
    if args.resume:
        args = resumed_arguments(work)
    elif (args.output / "model.safetensors").exists() or (work / "state.pt").exists():
        raise ValueError(f"{args.output} holds a training already: go on with --resume, or choose another --output")
    elif accelerator.is_main_process:
        with all_or_nothing(work):
            prepare(args, work)
    accelerator.wait_for_everyone()
    begins = accelerator.is_main_process and not args.resume
    with all_or_nothing(work) if begins else contextlib.nullcontext():
        training = Training(args, work, accelerator)
        if args.resume:
            training.load()
        if begins:
            settings = {**vars(args), "output": str(args.output)}
            write_text(work / "arguments.json", json.dumps(settings, indent=2))
            training.save()
    metrics = None
    if accelerator.is_main_process:
        metrics = Metrics(args.output, training.step)
        print(describe(training))
    try:
        run(training, metrics)
    except FloatingPointError:
        if metrics and not (args.output / "model.safetensors").exists():
            metrics.path.unlink()
            discard(work)
        raise
    accelerator.end_training()  # together: a process whose peer has left already can abort
    if metrics:
        training.state_path.unlink()  # first, for a kill must not leave it without its data
        shutil.rmtree(work)
        print(f"done: {args.output} is the model, {metrics.path.name} and {metrics.picture.name} in it tell how it was "
              f"trained. Try it: python task1_greedy.py --model {args.output}")  # fmt: skip


def resumed_arguments(work: Path) -> argparse.Namespace:
    if not (work / "state.pt").exists():
        raise ValueError(f"{work.parent} holds no unfinished training to resume")
    try:
        settings = json.loads((work / "arguments.json").read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{work / 'arguments.json'} cannot be read: {error}") from None
    return argparse.Namespace(**{**settings, "output": work.parent, "resume": True})


def describe(training: Training) -> str:
    model, config, train, args = training.model, training.model.config, training.train, training.args
    return (
        f"training {sum(weight.numel() for weight in model.parameters()):,} parameters ({config.num_hidden_layers} layers "
        f"of {config.hidden_size}, vocabulary {config.vocab_size:,}) on {len(train):,} windows of at most "
        f"{args.max_length} tokens, {train.lengths.sum():,} in all; validating on {len(training.validation):,}\n"
        f"{training.num_steps:,} steps of at most {args.batch_size} windows, {args.num_epochs} epochs, "
        f"{str(training.dtype).removeprefix('torch.')} on {training.device}, {torch.get_num_threads()} threads"
    )


def main() -> None:
    args = parse_arguments()
    try:
        train(args)
    except KeyboardInterrupt:
        if (args.output / WORK / "state.pt").exists():
            print(f"\nstopped; go on with: python train_generator.py --output {args.output} --resume", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:  # RuntimeError: torch's, for too little memory
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
