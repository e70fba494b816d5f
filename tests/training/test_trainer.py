"""The Trainer on a model that is no language model: a line through points, with batches made by hand."""

from support.errors import InputError

import errno
import io
import math
import os
import signal
import sys

from tests.helpers import Terminal
from training.metrics import Metrics
from training.trainer import Diverged, Interrupt, Trainer, learning_rate

import pytest
import torch
from accelerate import Accelerator

STEPS = 12
pytestmark = pytest.mark.usefixtures("signals", "no_curve")


class Line:
    """y = 2 x + 1 at 48 points, learned by one weight and one bias with noise on the inputs, as dropout is."""

    def __init__(self, folder, noise=0.1, rate=0.1):
        torch.manual_seed(0)
        self.x = torch.linspace(-1, 1, 4 * STEPS).view(STEPS, 4)
        self.model, self.noise, self.folder = torch.nn.Linear(1, 1), noise, folder
        optimizer = torch.optim.Adam(self.model.parameters())
        self.trainer = Trainer(self.model, [optimizer], self.loss, self.batches, STEPS, rate, folder / "state",
                               Accelerator(cpu=True))  # fmt: skip
        self.kept, self.modes = [], []

    def batches(self, step):
        return ((x, 2 * x + 1) for x in self.x[step:])

    def loss(self, batch):
        x, y = batch
        x = x + self.noise * torch.randn_like(x)
        return (self.model(x[:, None]).squeeze(1) - y).square().sum(), len(y)

    def evaluate(self):
        self.modes.append((self.model.training, torch.is_grad_enabled()))
        return {"validation_loss": (self.model.weight - 2).square().item(), "perplexity": 1.0}

    def keep(self):
        self.kept.append(self.trainer.step)

    def run(self, eval_every=4, save_every=3, **settings):
        metrics = Metrics(self.folder, self.trainer.step)
        self.trainer.run(self.evaluate, self.keep, metrics, eval_every, save_every, **settings)
        return [{name: value for name, value in row.items() if name != "seconds"} for row in metrics.rows]


def stopped_at(monkeypatch, step):
    """A Ctrl-C while the given step, counted from 1, is computed."""
    take_step = Trainer.take_step

    def signalled(trainer, *args):
        if trainer.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(trainer, *args)
    monkeypatch.setattr(Trainer, "take_step", signalled)


class Unwritable(io.StringIO):
    """A log on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("stream", "step"), [("stdout", 5), ("stderr", 1)])
def test_an_output_that_cannot_be_written_saves_and_stops(tmp_path, monkeypatch, stream, step):
    """Bug: `train_generator.py … | head -1` ended in "Broken pipe", the model that had been evaluated unsaved.

    By hand: stdout is written first at the evaluation after step 4, and the next step is finished; the progress bar on stderr
    is written before the first step.
    """
    monkeypatch.setattr(sys, stream, Unwritable())
    line = Line(tmp_path)
    with pytest.raises(KeyboardInterrupt, match="the output cannot be written: No space left on device"):
        line.run()
    assert line.trainer.step == step and line.kept == [4][: step // 4]
    resumed = Line(tmp_path)
    resumed.trainer.load()
    assert resumed.trainer.step == step


def test_a_sample_sends_a_terminal_no_control_characters(tmp_path, monkeypatch):
    figures = {"validation_loss": 1.0, "perplexity": 1.0, "sample": "red \x1b[31m"}
    monkeypatch.setattr(Line, "evaluate", lambda self: figures)
    monkeypatch.setattr(sys, "stdout", Terminal())
    Line(tmp_path).run()
    assert "… red \ufffd[31m\n" in sys.stdout.getvalue() and "\x1b" not in sys.stdout.getvalue()


def test_nohup_stays_in_force():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Interrupt()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_the_learning_rate_rises_stays_and_falls():
    """Oracle: by hand, for a highest rate of 0.1 and 100 steps. The rise takes 2 % of them: half of it at step 0, all at
    step 1. From step 50 on it falls by a fiftieth of it a step: at step 75 it is 0.1 · 25 / 50 = 0.05, at the last one,
    99, 0.1 / 50 = 0.002."""
    found = [learning_rate(0.1, step, 100) for step in (0, 1, 50, 75, 99)]
    assert found == pytest.approx([0.05, 0.1, 0.1, 0.05, 0.002])


def test_a_step_is_that_of_the_mean_over_targets(tmp_path):
    """Oracle: by hand. One weight w = 1 at x = (1, 0, 0, 0), y = (1.5, 0, 0, 0): the loss (w - 1.5)² summed is 0.25, of four
    targets the mean 0.0625, its derivative 2 · (1 - 1.5) / 4 = -0.25. Step 0 of 2 has the rate 0.8, so w = 1 + 0.8 · 0.25."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    x, y = torch.tensor([1.0, 0, 0, 0]), torch.tensor([1.5, 0, 0, 0])
    trainer = Trainer(model, [torch.optim.SGD(model.parameters())],
                      lambda batch: ((model(batch[0][:, None])[:, 0] - batch[1]).square().sum(), 4),
                      lambda step: iter(()), 2, 0.8, tmp_path / "state", Accelerator(cpu=True))  # fmt: skip
    assert trainer.take_step((x, y), Interrupt()) == 0.0625
    assert model.weight.item() == pytest.approx(1.2)
    assert trainer.step == 1 and trainer.losses == [(0.25, 4.0)]


def test_it_learns_and_keeps_the_best(tmp_path):
    """Kept is whatever was best so far: here each evaluation, as the weight comes nearer to 2; measured in eval mode."""
    line = Line(tmp_path)
    rows = line.run()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 12]
    evaluations = [row for row in rows if "validation_loss" in row]
    assert line.kept == [4, 8, 12] and line.modes == 3 * [(False, False)]
    assert evaluations[-1]["validation_loss"] < evaluations[0]["validation_loss"]
    assert evaluations[1]["train_loss"] == pytest.approx(sum(row["loss"] for row in rows[5:9]) / 4)


def test_a_worse_model_is_not_kept(tmp_path, monkeypatch):
    found = iter([3.0, 2.0, 2.5])
    monkeypatch.setattr(Line, "evaluate", lambda self: {"validation_loss": next(found), "perplexity": 1.0})
    line = Line(tmp_path)
    line.run()
    assert line.kept == [4, 8] and line.trainer.best == 2.0


@pytest.mark.parametrize("step", [1, 4, 5, 11])
def test_resumed_is_uninterrupted(tmp_path, monkeypatch, step):
    """Bit for bit, with random numbers in the loss: stopped before, at and behind an evaluation, and before the end."""
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = Line(tmp_path / "whole")
    rows = whole.run()
    with monkeypatch.context() as patch:
        stopped_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            Line(tmp_path / "stopped").run()
    resumed = Line(tmp_path / "stopped")
    torch.manual_seed(5)  # the saved random state counts
    resumed.trainer.load()
    assert resumed.trainer.step == step
    assert resumed.run() == rows
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_it_saves_every_so_many_steps_but_not_its_end(tmp_path, monkeypatch):
    """Guards --resume: a training saved at its last step would have none left to finish with."""
    saved = []
    monkeypatch.setattr(Trainer, "save", lambda trainer: saved.append(trainer.step))
    Line(tmp_path).run(save_every=3)
    assert saved == [3, 6, 9]


@pytest.mark.parametrize("gap, last", [(0.01, 4), (100.0, STEPS)])
def test_a_loss_gap_stops(tmp_path, monkeypatch, capsys, gap, last):
    """The validation loss of 9 is more than 0.01, and less than 100, above any training loss here."""
    monkeypatch.setattr(Line, "evaluate", lambda self: {"validation_loss": 9.0, "perplexity": 1.0})
    assert Line(tmp_path).run(max_loss_gap=gap)[-1]["step"] == last
    assert ("stopped: the loss gap exceeds 0.01" in capsys.readouterr().out) == (last == 4)


@pytest.mark.parametrize("loss, says", [(math.nan, "the loss is nan"), (math.inf, "the loss is inf")])
def test_a_loss_that_is_not_finite_changes_no_weight(tmp_path, monkeypatch, loss, says):
    line = Line(tmp_path)
    before = [weight.clone() for weight in line.model.parameters()]
    summed = Line.loss
    line.trainer.loss = lambda batch: (summed(line, batch)[0] + loss, 4)
    with pytest.raises(Diverged, match=says):
        line.run()
    assert all(torch.equal(a, b) for a, b in zip(before, line.model.parameters(), strict=True)) and line.trainer.step == 0


def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path):
    """√w at w = 0 is finite, its derivative is not."""
    line = Line(tmp_path)
    torch.nn.init.zeros_(line.model.weight)
    line.trainer.loss = lambda batch: (line.model.weight.sum().sqrt(), 4)
    with pytest.raises(Diverged, match="the gradient is"):
        line.run()
    assert line.model.weight.item() == 0


def test_a_validation_loss_that_is_not_finite_is_not_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(Line, "evaluate", lambda self: {"validation_loss": math.nan, "perplexity": math.nan})
    line = Line(tmp_path)
    with pytest.raises(Diverged, match="the validation loss is nan"):
        line.run()
    assert not line.kept and "validation_loss" not in (tmp_path / "metrics.jsonl").read_text("utf-8")


def test_a_state_of_another_training(tmp_path):
    line = Line(tmp_path)
    line.trainer.save()
    other = Trainer(torch.nn.Linear(2, 2), line.trainer.optimizers, line.loss, line.batches, STEPS, 0.1, tmp_path / "state",
                    Accelerator(cpu=True))  # fmt: skip
    with pytest.raises(InputError, match="state cannot be read, is it another training's"):
        other.load()
