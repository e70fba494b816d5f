"""GeneratorTransformer.generate: the context, the exercise's own bugs, the strategies behind it, what it refuses."""

from support.errors import InputError

import inspect

from generator import GeneratorTransformer
from strategies import continue_ids
from task2_sampling import sample
from tests.helpers import logits, randomise, shape, tokens

import pytest
import torch


def brute_force(model, ids, context, limit, temperature, seed=0, eos=2):
    """Each prediction recomputed from the last `context` tokens, with no cache."""
    ids, numbers, start = list(ids), torch.Generator().manual_seed(seed), len(ids)
    while len(ids) - start < limit:
        last = logits(model, torch.tensor([ids[-context:]]))[:, -1]
        if temperature == 0:
            ids.append(int(last.argmax()))
        else:
            ids.append(int(sample((last.double() / temperature), [numbers])))
        if ids[-1] == eos:
            break
    return ids[start:]


@pytest.mark.parametrize("context", [1, 2, 6, 40, None])
@pytest.mark.parametrize("temperature", [0, 0.7])
def test_past_the_context_every_step_equals_a_recomputation(decoder, context, temperature):
    """The context shifts: each prediction sees exactly the last tokens, as if nothing came before them.

    By hand, with a prompt of 30 tokens and a context of 40: predictions 1 to 11 see 30 to 40 tokens, the twelfth the last 40
    of 41.
    """
    prompt = tokens(30).tolist()[0]
    got = list(continue_ids(decoder, torch.tensor([prompt]), [2], temperature=temperature, seed=4, max_new_tokens=25,
                            context_len=context))  # fmt: skip
    assert got == brute_force(decoder, prompt, context or 40, 25, temperature, seed=4)
    assert len(got) > 12, "a text that ended before the limit of 40 proves nothing"


def test_a_token_joins_the_text_whatever_its_length(decoder):
    """Bug 1 of the exercise's listing: a 1-D token concatenated to a 2-D tensor fails at the second token."""
    assert len(list(continue_ids(decoder, tokens(1), [], max_new_tokens=5, seed=0))) == 5
    assert decoder.generate("Once", max_out_tokens=5, seed=0)


def test_context_len_is_not_ignored(decoder):
    """Bug 2 of the exercise's listing: the context_len argument ignored. Here only the last tokens matter."""
    one, other = "tiny hedgehog time", "upon a there hedgehog time"
    settings = {"temperature": 0, "max_out_tokens": 12}
    assert decoder.generate(one, context_len=1, **settings) == decoder.generate(other, context_len=1, **settings)
    assert decoder.generate(one, **settings) != decoder.generate(one, context_len=1, **settings)


def test_every_documented_argument_of_generate_exists(decoder):
    """Bug 3 of the exercise's listing: chat() passes an argument that does not exist. Unknown ones are TypeErrors."""
    names = list(inspect.signature(decoder.generate).parameters)
    assert names == ["prompt", "context_len", "temperature", "max_out_tokens", "top_k", "top_p", "num_beams",
                     "length_penalty", "seed", "no_repeat_ngram_size"]  # fmt: skip
    common = {"context_len": 20, "max_out_tokens": 4, "length_penalty": 0.5, "seed": 1, "no_repeat_ngram_size": 3}
    assert isinstance(decoder.generate("Once", temperature=0.5, top_k=5, top_p=0.9, num_beams=1, **common), str)
    assert isinstance(decoder.generate("Once", temperature=1.0, num_beams=3, **common), str)
    with pytest.raises(TypeError):
        decoder.generate("Once", max_new_tokens=4)


@pytest.mark.parametrize("settings", [
    {}, {"temperature": 0}, {"temperature": 0.6, "top_k": 20}, {"top_p": 0.8}, {"num_beams": 3, "length_penalty": 2.0},
    {"temperature": 0, "no_repeat_ngram_size": 1}, {"num_beams": 3, "no_repeat_ngram_size": 1},
])  # fmt: skip
def test_generate_is_the_task_files_own_decoding(decoder, settings):
    """generate adds the BOS and the decoding of ids, and is no second copy of the strategies."""
    ids = [0, *decoder.tokenizer.encode("Once upon").ids]
    expected = continue_ids(decoder, torch.tensor([ids]), [2], seed=9, max_new_tokens=15, context_len=30, **settings)
    text = decoder.generate("Once upon", seed=9, max_out_tokens=15, context_len=30, **settings)
    assert text == decoder.tokenizer.decode(list(expected))


def test_greedy_is_what_temperature_0_top_k_1_and_one_beam_say(decoder):
    """Three ways to ask for the most likely token.

    By hand: of the logits (1, 3, 2) each takes token 1: the largest, the only one that top_k 1 leaves, the best of one beam.
    """
    greedy = decoder.generate("Once", temperature=0, max_out_tokens=12)
    assert greedy == decoder.tokenizer.decode(brute_force(decoder, [0, *decoder.tokenizer.encode("Once").ids], 40, 12, 0))
    assert greedy == decoder.generate("Once", temperature=0, num_beams=1, max_out_tokens=12)
    assert greedy == decoder.generate("Once", top_k=1, seed=5, max_out_tokens=12)


def test_a_seed_repeats_the_text(decoder):
    """And no seed, or another, does not."""
    texts = [decoder.generate("Once", seed=seed, max_out_tokens=20) for seed in (1, 1, 2, None, None)]
    assert texts[0] == texts[1] and len(set(texts)) == 4


def test_generate_stops_at_eos_or_at_the_limit(decoder, bpe):
    """EOS ends the text and is not part of it."""
    ender = randomise(GeneratorTransformer(shape(), bpe), 0)
    with torch.no_grad():
        ender.model.norm.weight.fill_(0)  # logits all alike, so that greedy takes the first token, 0
    ender.config.eos_token_id = 0
    assert list(continue_ids(ender, tokens(3), [0], temperature=0, max_new_tokens=9)) == [0]
    assert ender.generate("Once", temperature=0, max_out_tokens=9) == ""
    for limit in (1, 7):
        assert len(list(continue_ids(decoder, tokens(3), [], max_new_tokens=limit))) == limit


@pytest.mark.parametrize("settings", [
    {"temperature": -1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}, {"num_beams": 0},
    {"num_beams": 1000}, {"max_out_tokens": 0}, {"context_len": 0}, {"context_len": -3}, {"seed": -1},
    {"num_beams": 2, "top_k": 3},
])  # fmt: skip
def test_a_setting_that_cannot_be_is_a_one_line_value_error(decoder, settings):
    """Refused, not silently mended."""
    with pytest.raises(InputError) as error:
        decoder.generate("Once", **settings)
    assert "\n" not in str(error.value)


def test_a_token_beyond_the_model_is_a_one_line_value_error(bpe):
    """A tokenizer may know more tokens than the model; only a text that needs one of them is refused.

    By hand: the model has rows for the first 280 ids, and the tokenizer's last merges are words of the text it was trained on.
    """
    model = randomise(GeneratorTransformer(shape(vocab_size=280), bpe), 3)
    assert isinstance(model.generate("xyz", max_out_tokens=2, seed=1), str)
    with pytest.raises(InputError, match="weights for 280 tokens only") as error:
        model.generate("Once upon a time there was a tiny hedgehog.")
    assert "\n" not in str(error.value)
