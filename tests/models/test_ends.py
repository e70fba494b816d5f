"""What ends an answer: every id that a model's files, its chat template or its tokenizer name; never one beyond them."""

import json

from common import answer, decode
from generator import GeneratorTransformer
from models.loading import load_model
from models.places import CHECKPOINT
from task1_greedy import greedy
from task5_beam import beam_search

import pytest
import torch

CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONTROL = ["<eos>", "<end>", "<other>", *CHATML]
WRITTEN = ["?", "H", "i", "!"]  # each is followed by the next, "!" by what ends the answer, and that by "u", for ever
TEMPLATE = "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '<end>\n' }}{% endfor %}"


def write_folder(folder, end, eos_token, template):
    """A Qwen2 that answers "?" with "Hi!" and the token `end`, and whose files name no end yet: its ids by token.

    It looks at the last token alone: an embedding of ones and zeros, attention and feed-forward of zeros, and an output layer
    with a one where a token follows another.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*letters, *CONTROL])}, []))
    tokenizer.add_special_tokens(CONTROL)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos_token, chat_template=template).save_pretrained(folder)
    ids, size = tokenizer.get_vocab(), len(letters) + len(CONTROL)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=size, hidden_size=size + -size % 8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=100, tie_word_embeddings=False))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, :size] = torch.eye(size)
        model.lm_head.weight[ids["u"], :size] = 0.5
        for before, after in zip(WRITTEN, [*WRITTEN[1:], end], strict=True):
            model.lm_head.weight[ids[after], ids[before]] = 1.0
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    return ids


def name_ends(folder, file, value):
    path = folder / file
    content = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**content, "eos_token_id": value}), "utf-8")


CONFIG, GENERATION = "config.json", "generation_config.json"
KINDS = {  # name: (what the model ends with, its tokenizer's EOS, chat template, {file: eos_token_id as tokens}, all ends)
    "config, a number": ("<end>", None, None, {CONFIG: "<end>"}, {"<end>"}),
    "config, a list": ("<end>", "<eos>", None, {CONFIG: ["<eos>", "<end>"]}, {"<eos>", "<end>"}),
    "generation config, a number": ("<end>", None, None, {GENERATION: "<end>"}, {"<end>"}),
    "generation config, a list": ("<end>", "<eos>", None, {CONFIG: "<eos>", GENERATION: ["<eos>", "<end>"]},
                                  {"<eos>", "<end>"}),
    "both, each its own": ("<end>", None, None, {CONFIG: "<end>", GENERATION: "<other>"}, {"<end>", "<other>"}),
    "both are none": ("<end>", "<end>", None, {CONFIG: None, GENERATION: None}, {"<end>"}),
    "the tokenizer's EOS": ("<end>", "<end>", None, {}, {"<end>"}),
    "the template's turn end": ("<end>", "<eos>", TEMPLATE, {CONFIG: "<eos>"}, {"<eos>", "<end>"}),
    "a base model of a chat family": ("<|endoftext|>", "<|endoftext|>", None, {GENERATION: "<|endoftext|>"},
                                      {"<|endoftext|>"}),
    "a chat model beside its base's EOS": ("<|im_end|>", "<|endoftext|>", None, {}, {"<|endoftext|>"}),
}


@pytest.mark.parametrize(("end", "eos_token", "template", "files", "ends"), KINDS.values(), ids=KINDS)
def test_whatever_names_an_end_ends_the_answer(end, eos_token, template, files, ends, tmp_path):
    """Bug: <|im_end|> alone counted, or else the tokenizer's EOS: other models wrote on behind <end_of_turn>, and a base model
    behind its <|endoftext|>, to the limit.

    Oracle: transformers.generate with these ids. By hand: "?" is followed by H, i, ! and the end, then u, u, u.
    """
    from transformers import AutoModelForCausalLM

    ids = write_folder(tmp_path, end, eos_token, template)
    for file, tokens in files.items():
        name_ends(tmp_path, file, [ids[token] for token in tokens] if isinstance(tokens, list) else tokens and ids[tokens])
    loaded, prompt = load_model(str(tmp_path)), torch.tensor([[ids["?"]]])
    assert loaded.eos_ids == {ids[token] for token in ends | {"<|im_end|>"}}  # the prompts are ChatML where it is known

    written = [token for _, token, _ in decode(loaded.model, prompt, greedy, {}, loaded.eos_ids, 9)]
    reference = AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = reference.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=9,
                                  eos_token_id=sorted(loaded.eos_ids), pad_token_id=0)[0, 1:].tolist()
    assert written == expected == [ids[token] for token in (*WRITTEN[1:], end)]
    assert answer(loaded, written) == "Hi!"
    assert beam_search(loaded.model, prompt, 1, loaded.eos_ids, 9)[0].ids == written

    own = GeneratorTransformer.load_from_checkpoint(tmp_path)
    assert own.generate("?", temperature=0, max_out_tokens=9) == "Hi!"
    own.save_checkpoint(tmp_path / "again")  # as train_generator.py --init does
    again = GeneratorTransformer.load_from_checkpoint(tmp_path / "again")
    assert again.config == own.config and load_model(str(tmp_path / "again")).eos_ids == loaded.eos_ids
    assert again.generate("?", temperature=0, max_out_tokens=9) == "Hi!"


def test_ids_beyond_the_vocabulary_are_ignored(tmp_path):
    """Bug that is avoided: beam search and a saved checkpoint look an end up in the vocabulary. -1 stood for "none" once."""
    ids = write_folder(tmp_path, "<end>", None, None)
    name_ends(tmp_path, CONFIG, -1)
    name_ends(tmp_path, GENERATION, [ids["<end>"], len(ids), 10**6])
    assert load_model(str(tmp_path)).eos_ids == {ids["<end>"], ids["<|im_end|>"]}


def write_letters(folder, kind):
    """A random model of the letters a to l that names no end."""
    from tests.helpers import random_model

    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate("abcdefghijkl")}, "a"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # or AutoTokenizer adds the EOS of Qwen2's own tokenizer
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    random_model(1, kind=kind).save_pretrained(folder)
    (folder / GENERATION).unlink()
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    config.pop("eos_token_id")
    (folder / CONFIG).write_text(json.dumps(config), "utf-8")


def test_a_model_that_names_no_end_writes_to_the_limit(tmp_path):
    """Bugs: it was refused, where transformers.generate goes on to the limit; and a checkpoint without BOS or EOS could not be
    saved, a TypeError of the tokenizer."""
    write_letters(tmp_path, "qwen2")
    loaded = load_model(str(tmp_path))
    assert loaded.eos_ids == frozenset()
    assert len(list(decode(loaded.model, torch.tensor([[3]]), greedy, {}, loaded.eos_ids, 7))) == 7
    assert {len(candidate.ids) for candidate in beam_search(loaded.model, torch.tensor([[3]]), 2, loaded.eos_ids, 7)} == {7}
    own = GeneratorTransformer.load_from_checkpoint(tmp_path)
    assert own.config.eos_token_id is None and len(own.generate("d", seed=0, max_out_tokens=7).split()) == 7
    own.save_checkpoint(tmp_path / "again")
    assert load_model(str(tmp_path / "again")).eos_ids == frozenset()


def test_a_default_of_the_models_class_is_no_end(tmp_path):
    """Oracle: transformers.generate reads the files too, and not LlamaConfig, whose default is 2: here the letter c."""
    from transformers import AutoModelForCausalLM

    write_letters(tmp_path, "llama")
    reference = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert reference.config.eos_token_id == 2 and reference.generation_config.eos_token_id is None
    assert load_model(str(tmp_path)).eos_ids == frozenset()


def test_the_shipped_decoder_ends_as_before():
    """Its files, template and tokenizer all name one id, <|im_end|>: the shipped texts cannot change."""
    assert load_model("generator").eos_ids == {2}
    assert GeneratorTransformer.load_from_checkpoint(CHECKPOINT).config.eos_token_id == 2
