"""A decoder as a GGUF file: read back by transformers it is the same model, with the same tokens."""

from support.errors import InputError

import sys
from dataclasses import replace

from common import PROMPTS, context_of, prompt_ids
from models import export_gguf
from models.chatml import CHAT_TEMPLATE
from models.loading import load_model
from tests.helpers import logits, randomise, shape, tokens

import pytest
import torch

TEXTS = [*PROMPTS.values(), "'the fox', she said: it's 1000.50!", "a\n\n\n  b\t ", "Ёж 🦔 СССР е́ é ½ x²", "<|im_end|>"]


@pytest.fixture(scope="module")
def exported(decoder, tmp_path_factory):
    """(the checkpoint's folder, the file), both in float32."""
    folder = tmp_path_factory.mktemp("export") / "small"
    decoder.save_checkpoint(folder)
    path = folder.parent / "Small.gguf"
    export_gguf.export_gguf(folder, path)
    return folder, path


def test_the_file_is_the_model(exported):
    """Oracle: the folder itself. The file says all there is: read by transformers it has the folder's logits, tokens, ends,
    context and chat template. Rows without a token have one of their own, [PAD299] say, that no text contains."""
    folder, path = exported
    ours, theirs = load_model(str(folder)), load_model(str(path))
    ids = tokens(30, rows=2, vocab=290)
    torch.testing.assert_close(logits(theirs.model, ids), logits(ours.model, ids), atol=1e-4, rtol=1e-4)
    for text in TEXTS:
        assert prompt_ids(theirs.tokenizer, text).tolist() == prompt_ids(ours.tokenizer, text).tolist()
        assert theirs.tokenizer.encode(text) == ours.tokenizer.encode(text)
    assert theirs.eos_ids == ours.eos_ids == {2} and theirs.tokenizer.chat_template == CHAT_TEMPLATE
    assert context_of(theirs.model) == context_of(ours.model) == 40
    assert theirs.identity == {**ours.identity, "name": "Small", "quantization": "F32", "revision": theirs.identity["revision"]}
    known = len(ours.tokenizer)
    assert theirs.tokenizer.convert_ids_to_tokens([*range(known), 299]) == [
        *ours.tokenizer.convert_ids_to_tokens(range(known)), "[PAD299]"]


@pytest.mark.parametrize(("dtype", "kind"), [("float16", "F16"), ("bfloat16", "BF16")])
def test_in_16_bits_and_untied(dtype, kind, bpe, tmp_path):
    """The matrices are rounded, norms and biases not. By hand: of 0.1 bfloat16, with 8 bits of fraction, keeps 0.10009766."""
    from generator import GeneratorTransformer

    torch.manual_seed(1)
    model = randomise(GeneratorTransformer(shape(tied=False, eos_token_id=[2, 0]), bpe), 1)
    model.save_checkpoint(tmp_path / "untied")
    export_gguf.export_gguf(tmp_path / "untied", tmp_path / "untied.gguf", dtype)
    loaded = load_model(str(tmp_path / "untied.gguf"))
    assert loaded.identity["quantization"] == kind and not loaded.model.config.tie_word_embeddings
    weights, before = loaded.model.state_dict(), model.state_dict()
    for name, weight in before.items():
        expected = weight.to(getattr(torch, dtype)).float() if weight.ndim == 2 else weight
        torch.testing.assert_close(weights[name], expected, rtol=0, atol=0)


@pytest.mark.parametrize("fields", [{"qkv_bias": False}, {"qkv_bias": False, "head_dim": 8}])
def test_the_shapes_of_the_family(fields, bpe, tmp_path):
    """Oracle: the folder itself. By hand: a Llama's head of four rows, in the order that llama.cpp has them, is 0, 2, 1, 3."""
    from generator import GeneratorTransformer

    assert export_gguf.interleaved(torch.arange(8.0)[:, None], 4).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    torch.manual_seed(2)
    model = randomise(GeneratorTransformer(replace(shape(), **fields), bpe), 2)
    model.save_checkpoint(tmp_path / "kin")
    export_gguf.export_gguf(tmp_path / "kin", tmp_path / "kin.gguf")
    loaded, ids = load_model(str(tmp_path / "kin.gguf")), tokens(20)
    assert loaded.identity["engine"] == "own"
    torch.testing.assert_close(logits(loaded.model, ids), logits(model, ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tokenizer", ["char", "word"])
def test_a_tokenizer_that_the_format_cannot_hold(tokenizer, tmp_path, monkeypatch, capsys):
    from data.tokenizer import make_tokenizer
    from generator import GeneratorTransformer

    model = GeneratorTransformer(shape(), make_tokenizer(tokenizer, ["one two three"], 20))
    model.save_checkpoint(tmp_path / "units")
    assert run(monkeypatch, str(tmp_path / "units"), str(tmp_path / "units.gguf")) == 2
    assert capsys.readouterr().err == ("error: a GGUF file holds byte-level BPE alone, no characters or words: train with "
                                       "--tokenizer bpe\n")
    assert [path.name for path in tmp_path.iterdir()] == ["units"]


def test_heads_that_the_format_cannot_hold(bpe, tmp_path):
    from generator import GeneratorTransformer

    GeneratorTransformer(replace(shape(), head_dim=8), bpe).save_checkpoint(tmp_path / "wide")
    with pytest.raises(InputError, match="heads together are not as wide as the model"):
        export_gguf.export_gguf(tmp_path / "wide", tmp_path / "wide.gguf")


def run(monkeypatch, *flags):
    """The exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["export_gguf.py", *flags])
    try:
        export_gguf.main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_the_command_line(exported, tmp_path, monkeypatch, capsys):
    folder, path = exported
    assert run(monkeypatch, str(folder), str(tmp_path / "new" / "a.gguf")) == 0
    assert (tmp_path / "new" / "a.gguf").stat().st_size == path.stat().st_size
    assert capsys.readouterr().out == f"{tmp_path}/new/a.gguf: {path.stat().st_size:,} bytes\n"
    for place, file, message in ((tmp_path, "a.gguf", "no checkpoint: it holds no config.json"),
                                 (folder, "a.bin", "must end in .gguf"), (folder, "/dev/null/a.gguf", "cannot write")):
        assert run(monkeypatch, str(place), file) == 2
        errors = capsys.readouterr().err
        assert message in errors and errors.count("\n") == 1


def test_a_folder_that_names_no_end(decoder, bpe, tmp_path):
    """Neither a BOS nor an EOS: the file names none either, and what ends an answer is found by its name."""
    from generator import GeneratorTransformer

    model = GeneratorTransformer(shape(bos_token_id=None, eos_token_id=None), bpe)
    model.save_checkpoint(tmp_path / "endless")
    export_gguf.export_gguf(tmp_path / "endless", tmp_path / "endless.gguf")
    loaded = load_model(str(tmp_path / "endless.gguf"))
    assert loaded.eos_ids == {2} and loaded.tokenizer.bos_token is None
    with pytest.raises(InputError):
        export_gguf.export_gguf(tmp_path / "nothing", tmp_path / "b.gguf")
