"""Helpers that several test files share: small random models, a model folder, running a script in this process."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

torch.set_num_threads(1)  # for models this small, more threads only wait for each other
PROMPT = [3, 4, 5, 3]


def random_model(seed, vocab=12, context=64, kind=None):
    """A random Qwen2, Llama or GPT-2 with peaked distributions, float32, that fits into a millisecond."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    kind = kind or ("qwen2", "llama", "gpt2")[seed % 3]
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_embd=16, n_layer=2, n_head=2, n_positions=context,
                                          initializer_range=0.5)).eval()
    config, model = (Qwen2Config, Qwen2ForCausalLM) if kind == "qwen2" else (LlamaConfig, LlamaForCausalLM)
    return model(config(vocab_size=vocab, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context,
                        initializer_range=0.4)).eval()


@pytest.fixture(scope="session")
def prompt():
    return torch.tensor([PROMPT])


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A random Qwen2 with a byte tokenizer that holds the ChatML tokens, saved as a Hugging Face folder."""
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


def neutral_generate(model, ids, max_new_tokens, eos, **settings):
    """transformers.generate without anything a generation config may add: the generated ids alone."""
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens,
                         eos_token_id=eos, pad_token_id=eos, repetition_penalty=1.0, **settings)
    return out[0, ids.shape[1]:].tolist()


def brute_force_beams(model, prompt, num_beams, eos_ids, limit, offered=None):
    """Beam search as the text says it, with lists and sorts, no cache and no batch: (finished, cut off)."""
    live, finished = [([], 0.0)], []
    for _ in range(limit):
        pool = []
        for ids, total in live:
            with torch.no_grad():
                log_probs = model(torch.tensor([prompt + ids])).logits[0, -1].log_softmax(-1).tolist()
            best = sorted(range(len(log_probs)), key=lambda token: -log_probs[token])[:offered or num_beams]
            pool += [(ids + [token], total + log_probs[token]) for token in best]
        pool.sort(key=lambda candidate: -candidate[1])
        finished += [candidate for candidate in pool[:num_beams] if candidate[0][-1] in eos_ids]
        live = [candidate for candidate in pool if candidate[0][-1] not in eos_ids][:num_beams]
        if len(finished) >= num_beams:
            return finished, []
    return finished, live


def continuations(model, prompt, choose, rows, eos_ids=(0,), limit=10, context_len=None):
    """What decode yields, gathered: one list of ids per row."""
    from common import decode

    texts = [[] for _ in rows]
    for row, token, _ in decode(model, prompt, choose, rows, eos_ids, limit, context_len):
        texts[row].append(token)
    return texts


def chi_square_p(draws, probs):
    """The probability of counts at least this far from `probs`, over the outcomes that can occur."""
    from scipy.stats import chisquare

    counts = torch.bincount(draws, minlength=len(probs)).double()
    possible = probs > 0
    assert counts[~possible].sum() == 0, "an impossible token was drawn"
    expected = probs[possible].double()
    return chisquare(counts[possible], expected / expected.sum() * len(draws)).pvalue
