"""Fixtures that several test files share: a prompt, a model folder, running a script in this process."""

import os
import runpy
import signal
import sys
from pathlib import Path

import pytest

# Before torch is imported, here and in the scripts that tests start: models this small are slower with more threads. It is
# imported inside the fixtures, so that the process that only hands tests out does not wait for it.
os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def prompt():
    """Ids (1, 4)."""
    import torch

    return torch.tensor([[3, 4, 5, 3]])


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A random Qwen2 with a byte tokenizer that holds the ChatML tokens, saved as a Hugging Face folder."""
    from tests.helpers import random_model

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny"
    specials = ["<|im_end|>", "<|im_start|>", "<|endoftext|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(specials + letters)}, []))
    tokenizer.add_special_tokens(specials)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>").save_pretrained(folder)
    random_model(0, vocab=len(specials + letters), context=2000).save_pretrained(folder)
    return folder


@pytest.fixture
def run_script(model_folder, tmp_path, monkeypatch, capsys):
    """Run a script with the random model: (exit code, what it printed, its errors)."""
    def run(script, *flags):
        monkeypatch.setattr(sys, "argv", [script, "--model", str(model_folder), "--results", str(tmp_path / "results"),
                                          "--max-new-tokens", "8", *flags])
        code = 0
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())
    return run


@pytest.fixture(scope="session")
def bpe():
    from data.tokenizer import make_tokenizer

    return make_tokenizer("bpe", ["Once upon a time there was a tiny hedgehog. " * 3], 290)


@pytest.fixture(scope="module")
def decoder(bpe):
    """A random decoder of the project's own, with a tokenizer."""
    from generator import GeneratorTransformer
    from tests.helpers import randomise, shape

    import torch

    torch.manual_seed(3)
    return randomise(GeneratorTransformer(shape(), bpe), 3)


@pytest.fixture
def folder(decoder, tmp_path):
    """That decoder's checkpoint."""
    decoder.save_checkpoint(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def signals():
    """Restores the test run's handlers of signals, which a training replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def no_curve(monkeypatch):
    """Trainings draw no curve: that would be most of the time of a small one, and has tests of its own."""
    monkeypatch.setattr("training.metrics.Metrics.draw", lambda self: None)
