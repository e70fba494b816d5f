"""What several test files share: small random models, transformers' own decoding, a beam search by brute force."""

import io
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from models.transformer import TransformerConfig

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
PROMPT = [3, 4, 5, 3]


def random_model(seed, vocab=12, context=64, kind=None, tied=None, layers=2, width=16):
    """A random Qwen2, Llama or GPT-2 with peaked distributions, float32, that fits into a millisecond; tied: its head."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    kind = kind or ("qwen2", "llama", "gpt2")[seed % 3]
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_embd=width, n_layer=layers, n_head=2, n_positions=context,
                                          initializer_range=0.5)).eval()
    config, model = (Qwen2Config, Qwen2ForCausalLM) if kind == "qwen2" else (LlamaConfig, LlamaForCausalLM)
    return model(config(vocab_size=vocab, hidden_size=width, intermediate_size=24, num_hidden_layers=layers,
                        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context,
                        initializer_range=0.4, tie_word_embeddings=bool(tied))).eval()


def shape(heads=4, kv_heads=2, tied=True, theta=10_000.0, head_dim=4, **others):
    return TransformerConfig(
        **{"vocab_size": 300, "hidden_size": heads * head_dim, "intermediate_size": 24, "num_hidden_layers": 2,
           "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": 40,
           "rope_theta": theta, "tie_word_embeddings": tied, "initializer_range": 0.4, "bos_token_id": 0,
           "eos_token_id": 2, **others}
    )  # fmt: skip


def randomise(model, seed):
    """Biases and norm weights too, which a fresh model has at 0 and 1, where an error in them would not show."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                weight.copy_(torch.randn_like(weight) * 0.5 + ("norm" in name))
    return model.eval()


def tokens(length, rows=1, vocab=300, seed=0):
    return torch.randint(3, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model, *args, **kwargs):
    with torch.no_grad():
        return model(*args, **kwargs).logits


def neutral_generate(model, ids, max_new_tokens, eos, **settings):
    """transformers.generate without anything a generation config may add: the generated ids alone."""
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens,
                         eos_token_id=eos, pad_token_id=eos, repetition_penalty=1.0, **settings)
    return out[0, ids.shape[1]:].tolist()


def brute_force_beams(model, prompt, num_beams, eos_ids, limit, offered=None, process=lambda ids, scores: scores):
    """Beam search as the text says it, with lists and sorts, no cache and no batch: (finished, cut off).

    `process` is one of transformers' processors, and is given log-probabilities, as their beam search does.
    """
    live, finished = [([], 0.0)], []
    for _ in range(limit):
        pool = []
        for ids, total in live:
            with torch.no_grad():
                row = torch.tensor([prompt + ids])
                log_probs = process(row, model(row).logits[:, -1].log_softmax(-1))[0].tolist()
            best = sorted(range(len(log_probs)), key=lambda token: -log_probs[token])[:offered or num_beams]
            pool += [(ids + [token], total + log_probs[token]) for token in best if log_probs[token] > -math.inf]
        pool.sort(key=lambda candidate: -candidate[1])
        finished += [candidate for candidate in pool[:num_beams] if candidate[0][-1] in eos_ids]
        live = [candidate for candidate in pool if candidate[0][-1] not in eos_ids][:num_beams]
        if len(finished) >= num_beams:
            return finished, []
    return finished, live


def continuations(model, prompt: Tensor, choose: Callable, columns: dict[str, Sequence], eos_ids=(0,), limit=10,
                  context_len=None) -> list[list[int]]:
    """What decode yields, gathered: one list of ids per row."""
    from common import decode

    num_rows = max(map(len, columns.values()), default=1)
    texts = [[] for _ in range(num_rows)]
    for row, token, _ in decode(model, prompt, choose, columns, eos_ids, limit, num_rows, context_len):
        texts[row].append(token)
    return texts


class Letters:
    """A tokenizer of one letter per id, whose every prompt is PROMPT."""

    chat_template = None

    def get_added_vocab(self):
        return {"<|im_start|>": 1}

    def convert_ids_to_tokens(self, token):
        return chr(97 + token)

    def encode(self, text, **settings):
        return PROMPT

    def decode(self, ids, **settings):
        return "".join(chr(97 + i) for i in ids)


def chi_square_p(draws, probs):
    """The probability of counts at least this far from `probs`, over the outcomes that can occur."""
    from scipy.stats import chisquare

    counts = torch.bincount(draws, minlength=len(probs)).double()
    possible = probs > 0
    assert counts[~possible].sum() == 0, "an impossible token was drawn"
    expected = probs[possible].double()
    return chisquare(counts[possible], expected / expected.sum() * len(draws)).pvalue


# ------------------------------------------------------------------------------------------- texts, their tokens and blocks

STORY = "The cat sat on the mat. It was warm! The dog came too.\nThey slept.\n\nThen the sun went down, and it was cold.\n\n"
END, IM_START, IM_END = range(3)  # the control tokens' ids in the tokenizer of STORY
QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def story_tokenizer():
    """A byte-level BPE of 400 tokens, cut into words as Qwen2's is, trained on STORY."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_PIECES), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False)
    tokenizer.train_from_iterator([STORY] * 5, trainer)
    return tokenizer


def random_blocks(n_blocks):
    """Blocks of 1 to 38 inputs, each a document of its own, in memory."""
    from data.blocks import TokenBlocks

    import numpy as np

    lengths = np.random.default_rng(0).integers(2, 40, n_blocks)
    ends = lengths.cumsum()
    starts = ends - lengths
    return TokenBlocks(np.arange(ends[-1], dtype=np.uint32), np.stack([starts, starts + 1, ends], axis=1))


def counted(targets):
    """The targets that count in the loss, in their order."""
    return targets[targets != -100].tolist()


# ----------------------------------------------------------------------------------- tokenizers and templates of all kinds

CONTROLS = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<|user|>", "<|assistant|>", "<|end|>", "<think>"]
LEARNED = ["hello there, you are a storyteller. generate a story about a fox! say it\n\nuser system assistant < > | [ ] /"] * 9
TEMPLATES = {
    "trimmed, no system":
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ '<|' + m['role'] + '|>\n' + m['content'] | trim + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "system dropped":
        "{% for m in messages if m['role'] != 'system' %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
    "spaces around":
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' ' + eos_token }}{% else %}"
        "{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}",
    "system last":
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST]' }}{% if loop.last and "
        "messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' }}{% endif %}{{ m['content'] + '[/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
    "no control token":
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
}  # fmt: skip


def small_tokenizer(kind, flags=None, more=(), **settings):
    """A tokenizer of a kind, trained on LEARNED, with CONTROLS as special tokens that have the AddedToken `flags`; `more` are
    added tokens that control nothing."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    family, _, scheme = kind.partition(" ")
    letters = [f"<0x{byte:02X}>" for byte in range(256)]
    spaces = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                decoders.Strip(" ", 1, 0)])
    model, trainer = {
        "bytes": (models.BPE(), trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())),
        "metaspace": (models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True),
                      trainers.BpeTrainer(vocab_size=330, special_tokens=CONTROLS + letters)),
        "legacy": (models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True),
                   trainers.BpeTrainer(vocab_size=330, special_tokens=CONTROLS + letters)),
        "unigram": (models.Unigram(), trainers.UnigramTrainer(vocab_size=60, special_tokens=CONTROLS, unk_token="<unk>")),
        "words": (models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(special_tokens=CONTROLS)),
    }[family]
    tokenizer = Tokenizer(model)
    if family == "bytes":
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    elif family == "words":
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    elif family == "legacy":  # Llama 2's
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = spaces
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=family == "unigram")
        tokenizer.decoder = spaces
    if family == "unigram":
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    trainer.show_progress = False
    tokenizer.train_from_iterator(LEARNED, trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_tokens([AddedToken(token, special=True, **{"normalized": False, **(flags or {})}) for token in CONTROLS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in more])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
                                   clean_up_tokenization_spaces=False, **settings)


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


def type_at_terminal(new_line, read, *steps):
    """What `read(line)` yields of a SuggestingLine at prompt_toolkit's own input pipe, and the exception that ends it or None.

    A step is (ready, keys): what the screen must show, as a function of the line, before these keys are pressed.
    """
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    def press():
        for ready, pressed in steps:
            end = time.monotonic() + 5
            while not ready(line):
                if time.monotonic() > end:
                    failed.append(f"waited in vain before {pressed!r}: {line.buffer.text!r}, {line.words}, {line.grey}")
                    keys.send_text("\x15\x04\x04")
                    return
                time.sleep(0.002)
            keys.send_text(pressed)

    told, error, failed = [], None, []
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        line, thread = new_line(), threading.Thread(target=press)
        thread.start()
        try:
            for text in read(line):
                told.append(text)
        except (Exception, KeyboardInterrupt) as stop:
            error = stop
        thread.join()
    assert not failed, failed
    return told, error


def has(text, grey=None, words=None):
    """For a step: the line holds a text, and, unless None, this grey text and these words are shown with it."""
    def ready(line):
        suggestion = line.buffer.suggestion
        return (line.session.app.is_running and line.buffer.text == text
                and (grey is None or suggestion is not None and suggestion.text == grey)
                and (words is None or line.found == line.number and [word for word, _ in line.words] == words))
    return ready


# ------------------------------------------------------------------------------------------------------ replies with labels


class FakeReplier:
    """A `Replier` that writes what it is given, one after the other, and notes how it was called.

    written: (text, tone, its probability, category "roads", its probability 0.9), from the tone on for heads alone; the last
    one again and again. It reads the category "roads" from a request, or "none" where that has the word "spaghetti".
    """

    def __init__(self, written):
        from models.control import Labels

        self.written, self.calls = list(written), []
        self.labels = Labels({"tone": ("official", "friendly", "apologetic", "firm"), "category": ("roads", "taxes", "none")})

    def category_of(self, request):
        return ("none", 0.7) if "spaghetti" in request else ("roads", 0.98765)

    def write(self, request, labels, *, num=1, **settings):
        from replier import Written

        self.calls.append({"request": request, "labels": labels, "num": num, **settings})
        replies = []
        for _ in range(num):
            text, *told = self.written.pop(0) if len(self.written) > 1 else self.written[0]
            judged, probs = {}, {}
            if told:
                judged["tone"], probs["tone"], judged["category"], probs["category"] = (*told, "roads", 0.9)[:4]
            replies.append(Written(text, [3], labels, judged, probs))
        return replies

    def judge(self, text):
        return {"tone": ("apologetic", 0.75), "category": ("roads", 0.5)}
