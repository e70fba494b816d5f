"""The training loop: any model, any batches, any loss.

    trainer = Trainer(model, optimizers, loss, batches, num_steps, learning_rate=1e-3, state_path=path, ...)
    trainer.run(evaluate, keep_best, metrics, eval_every=500, save_every=250)

A training can be stopped at any moment, by Ctrl-C or a kill, and resumes from its last saved step: bit for bit the one that
was never stopped. Several processes share each batch, and take the same steps as one.
"""

from support.errors import KILLS, InputError

import math
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from support.files import reason, write_aside
from support.streams import visible
from training.metrics import Metrics
from training.precision import autocast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

Batch = tuple[Tensor, ...]  # the first holds the inputs, one element for each token
WARMUP, DECAY = 0.02, 0.5  # shares of a training: the learning rate rises, stays, and falls to zero
PROGRESS = ("step", "best", "seconds", "losses")


class Diverged(InputError):
    """A loss or a gradient is not finite."""


class Interrupt:
    """Notes Ctrl-C, SIGTERM and SIGHUP, so that the step under way can finish; a second one ends at once.

    Its handlers stay installed after the training has ended: `accelerate launch` may pass a signal on late. What is ignored
    stays ignored: SIGHUP under nohup.
    """

    ECHO = 1.0  # seconds within which a second signal is the first one, passed on by `accelerate launch`

    def __init__(self) -> None:
        self.noted, self.first, self.cause = False, math.inf, ""
        self.wanted = False  # whether any process noted one: what all agree on at a step's end
        for number in (signal.SIGINT, *(kill for kill in KILLS if signal.getsignal(kill) is not signal.SIG_IGN)):
            signal.signal(number, self.note)

    def note(self, number: int, frame: FrameType | None) -> None:
        self.noted, self.first = True, min(self.first, time.monotonic())
        if time.monotonic() - self.first > self.ECHO:
            raise KeyboardInterrupt


class Told:
    """A stream whose failure counts as Ctrl-C: its reader has left (`| head -1`), or the disk under the log is full."""

    def __init__(self, stream: TextIO, interrupt: Interrupt) -> None:
        self.stream, self.interrupt = stream, interrupt

    def write(self, text: str) -> None:
        """Write the text and flush it, or note why that is impossible."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError as error:
            self.interrupt.noted, self.interrupt.cause = True, f"the output cannot be written: {reason(error)}"

    def flush(self) -> None:
        """`write` has done it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Trainer:
    """A model with its optimizers, its place in the data and its random state: all that a resumed training needs."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: list[Optimizer],
        loss: Callable[[Batch], tuple[Tensor, int]],
        batches: Callable[[int], Iterable[Batch]],
        num_steps: int,
        learning_rate: float,
        state_path: Path,
        accelerator: Accelerator,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """loss: of this process's share of a batch, summed over its targets, and their number. It calls the model as
            `accelerator.prepare` returned it, which averages the gradients of several processes.
        batches: this process's shares of all batches from a step on, counted from 0.
        learning_rate: the highest one. state_path: the file that `save` writes. dtype: what the loss is computed in.
        """
        self.model, self.optimizers, self.loss, self.batches = model, optimizers, loss, batches
        self.num_steps, self.highest_rate, self.state_path = num_steps, learning_rate, state_path
        self.accelerator, self.device, self.dtype = accelerator, accelerator.device, dtype
        self.step, self.best, self.seconds = 0, math.inf, 0.0
        self.losses = []  # (sum, targets) of each step since the last evaluation

    def save(self) -> None:
        """Write one file with everything that training changes, so that no kill can leave halves of two states.

        Raises InputError where that fails.
        """
        frozen = self.frozen()
        state = {
            "model": {name: weight for name, weight in self.model.state_dict().items() if name not in frozen},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "random": torch.get_rng_state(),
            "progress": {name: getattr(self, name) for name in PROGRESS},
        }
        write_aside(self.state_path, lambda path: torch.save(state, path))

    def load(self) -> None:
        """Go back to the saved step. Raises InputError for a state that is damaged, or another training's."""
        try:
            state = torch.load(self.state_path, map_location="cpu", weights_only=True)
            missing, unknown = self.model.load_state_dict(state["model"], strict=False)
            if unknown or set(missing) - self.frozen():
                raise KeyError("weights")
            for optimizer, content in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(content)
            torch.set_rng_state(state["random"])
            for name in PROGRESS:
                setattr(self, name, state["progress"][name])
            self.losses = [loss for loss in self.losses if isinstance(loss, tuple)]  # an earlier version kept their means
        except Exception as error:  # a damaged file fails in many ways, and torch describes each in many lines
            raise InputError(f"{self.state_path} cannot be read, is it another training's? ({type(error).__name__})") from error

    def frozen(self) -> set[str]:
        """The names of the weights that are not trained, which no state need hold."""
        return {name for name, weight in self.model.named_parameters(remove_duplicate=False) if not weight.requires_grad}

    def run(
        self,
        evaluate: Callable[[], dict],
        keep_best: Callable[[], None],
        metrics: Metrics | None,
        eval_every: int,
        save_every: int,
        max_loss_gap: float = math.inf,
    ) -> None:
        """Train to the last step, or until validation minus training loss exceeds `max_loss_gap`.

        evaluate: measures the model, in eval mode and without gradients; "validation_loss" is one of its figures.
        keep_best: called whenever that is lower than ever before. metrics: None in all processes but the main one.
        Raises KeyboardInterrupt at Ctrl-C, or when the output cannot be written any more, once the step under way is finished
        and saved, and Diverged.
        """
        interrupt = Interrupt()
        self.model.train()
        bar = {"desc": "training", "unit": " steps", "file": Told(sys.stderr, interrupt), "dynamic_ncols": True}
        with tqdm(total=self.num_steps, initial=self.step, disable=not metrics, **bar) as progress:
            def show(text: str) -> None:
                progress.clear()
                print(visible(text), file=Told(sys.stdout, interrupt))
            for batch in self.batches(self.step):
                started = time.perf_counter()
                loss = self.take_step(batch, interrupt)
                seconds = time.perf_counter() - started
                self.seconds += seconds
                tokens = batch[0].numel() * self.accelerator.num_processes
                progress.set_postfix_str(f"loss {loss:.3f}, {tokens / seconds:.0f} tokens/s", refresh=False)
                progress.update()
                if metrics:
                    metrics.add({"step": self.step, "loss": loss})
                finished = self.step == self.num_steps
                if finished or self.step % eval_every == 0:
                    gap = self.check(evaluate, keep_best, metrics, show) if metrics else -math.inf
                    self.losses = []
                    if gap > max_loss_gap:
                        show(f"stopped: the loss gap exceeds {max_loss_gap}")
                    finished |= self.any_process(gap > max_loss_gap)
                if finished:  # not saved: a training resumed from its last step would have no step left to end with
                    return
                if metrics and (self.step % save_every == 0 or interrupt.wanted):
                    self.save()
                if interrupt.wanted:
                    raise KeyboardInterrupt(interrupt.cause)

    def take_step(self, batch: Batch, interrupt: Interrupt) -> float:
        """Update the weights once; returns the batch's mean loss over all targets and processes.

        Raises Diverged for a loss or a gradient that is not finite; then the weights are those of the step before.
        """
        with autocast(self.device, self.dtype):
            loss, targets = self.loss(tuple(tensor.to(self.device) for tensor in batch))
        mine = torch.tensor([loss.item(), targets, interrupt.noted], dtype=torch.float64, device=self.device)
        total, targets, interrupted = self.accelerator.reduce(mine, "sum").tolist()
        interrupt.wanted = interrupted > 0
        if not math.isfinite(total):
            raise Diverged(f"the loss is {total}")
        # Gradients are averaged over processes, and the loss is a sum: this makes it the mean over all targets.
        (loss * self.accelerator.num_processes / targets).backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0).item()
        if not math.isfinite(norm):
            raise Diverged(f"the gradient is {norm}")
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.highest_rate, self.step, self.num_steps)
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.losses.append((total, targets))
        return total / targets

    def check(self, evaluate: Callable[[], dict], keep_best: Callable[[], None], metrics: Metrics,
              show: Callable[[str], None]) -> float:  # fmt: skip
        """Evaluate the model, record and show the figures, keep it if it is the best; returns the loss gap.

        Raises Diverged for a validation loss that is not finite.
        """
        started = time.perf_counter()
        sums, targets = zip(*self.losses, strict=True)
        train_loss = sum(sums) / sum(targets)
        self.model.eval()
        with torch.no_grad():
            figures = evaluate()
        self.model.train()
        validation_loss = figures["validation_loss"]
        if not math.isfinite(validation_loss):
            raise Diverged(f"the validation loss is {validation_loss}")
        if validation_loss < self.best:
            self.best = validation_loss
            keep_best()
        self.seconds += time.perf_counter() - started
        row = {"step": self.step, "train_loss": train_loss, **figures, "seconds": round(self.seconds)}
        metrics.add(row)
        metrics.draw()
        show(metrics.words(row))
        return validation_loss - train_loss

    def any_process(self, says: bool) -> bool:
        """Whether `says` is true in any process; every process must call this."""
        return self.accelerator.reduce(torch.tensor(float(says), device=self.device), "sum").item() > 0


def learning_rate(highest: float, step: int, num_steps: int) -> float:
    """The rate of a step, counted from 0: a linear rise, the highest, and from the DECAY share before the end a linear fall
    that reaches 0 behind the last step."""
    rise = min(1.0, (step + 1) / (WARMUP * num_steps))
    return highest * rise * min(1.0, (1 - step / num_steps) / DECAY)
