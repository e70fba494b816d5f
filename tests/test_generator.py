"""The decoder: equal to Qwen2's, its cache, its context, its texts, its checkpoints, and what it refuses."""

import inspect
import json
from dataclasses import asdict

import generator
from generator import GeneratorConfig, GeneratorTransformer
from strategies import continue_ids
from task2_sampling import sample

import pytest
import torch
import torch.nn.functional as F
from tokenizer import make_tokenizer
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.cache_utils import DynamicCache

SHAPES = [  # (heads, kv heads, tied, rope_theta, head_dim, length)
    (2, 2, True, 10_000.0, 8, 1),
    (4, 2, False, 1e6, 4, 7),
    (4, 1, True, 1e6, 6, 13),
    (6, 3, False, 10_000.0, 2, 31),
    (8, 2, True, 10_000.0, 4, 17),
]


def shape(heads=4, kv_heads=2, tied=True, theta=10_000.0, head_dim=4, **others):
    return GeneratorConfig(
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


def theirs(config):
    return Qwen2ForCausalLM(Qwen2Config(**asdict(config), attn_implementation="eager"))


@pytest.fixture(scope="module")
def bpe():
    return make_tokenizer("bpe", ["Once upon a time there was a tiny hedgehog. " * 3], 290)


@pytest.fixture(scope="module")
def model(bpe):
    torch.manual_seed(3)
    return randomise(GeneratorTransformer(shape(), bpe), 3)


@pytest.fixture
def folder(model, tmp_path):
    model.save_checkpoint(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def tokens(length, rows=1, vocab=300, seed=0):
    return torch.randint(3, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model, *args, **kwargs):
    with torch.no_grad():
        return model(*args, **kwargs).logits


# --------------------------------------------------------------------------------------------- the same as Qwen2


@pytest.mark.parametrize(("heads", "kv_heads", "tied", "theta", "head_dim", "length"), SHAPES)
def test_their_weights_in_our_model_give_their_logits(heads, kv_heads, tied, theta, head_dim, length):
    """Every part of the architecture: grouped heads, biases, norms, rotary positions, tied and untied heads."""
    config = shape(heads, kv_heads, tied, theta, head_dim)
    torch.manual_seed(length)
    reference = randomise(theirs(config), length)
    ours = GeneratorTransformer(config).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    ids = tokens(length, rows=3)
    torch.testing.assert_close(logits(ours, ids), logits(reference, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("heads", "kv_heads", "tied", "theta", "head_dim", "length"), SHAPES)
def test_the_gradients_are_theirs(heads, kv_heads, tied, theta, head_dim, length):
    """Of every weight, by autograd of their model: in ours one derivative is written out, and training joins products."""
    config = shape(heads, kv_heads, tied, theta, head_dim)
    torch.manual_seed(length)
    reference = randomise(theirs(config), length)
    ours = GeneratorTransformer(config)
    ours.load_state_dict(reference.state_dict())
    ids, targets = tokens(length, rows=3), tokens(length, rows=3, seed=2)
    F.cross_entropy(reference(ids).logits.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    ours(ids, targets=targets).loss.backward()
    expected = {name: weight.grad for name, weight in reference.named_parameters()}
    for name, weight in ours.named_parameters():
        assert (weight.grad - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-4, name


@pytest.mark.parametrize(("heads", "kv_heads", "tied", "theta", "head_dim", "length"), SHAPES)
def test_our_weights_in_their_model_give_our_logits(heads, kv_heads, tied, theta, head_dim, length):
    """The other way: no weight of ours is without a place in theirs."""
    config = shape(heads, kv_heads, tied, theta, head_dim)
    torch.manual_seed(length)
    ours = randomise(GeneratorTransformer(config), length)
    reference = theirs(config).eval()
    reference.load_state_dict(ours.state_dict(), strict=True)
    ids = tokens(length, rows=2)
    torch.testing.assert_close(logits(ours, ids), logits(reference, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_opens_a_saved_folder_with_nothing_missing(bpe, tmp_path, tied):
    """The folder is a plain Hugging Face folder: no key too few or too many, and the same logits."""
    ours = randomise(GeneratorTransformer(shape(tied=tied, theta=1e6), bpe), 5)
    ours.save_checkpoint(tmp_path)
    reference, info = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert isinstance(reference, Qwen2ForCausalLM)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(logits(ours, tokens(19)), logits(reference, tokens(19)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_that_transformers_wrote_opens(bpe, tmp_path, tied):
    """Transformers 5 keeps rope_theta elsewhere and leaves out tied weights: both must be understood."""
    reference = randomise(theirs(shape(tied=tied, theta=1e6)), 6)
    reference.save_pretrained(tmp_path)
    bpe.save(str(tmp_path / "tokenizer.json"))
    ours = GeneratorTransformer.load_from_checkpoint(tmp_path)
    assert ours.config.rope_theta == 1e6
    torch.testing.assert_close(logits(ours, tokens(19)), logits(reference, tokens(19)), atol=1e-4, rtol=0)


def test_a_folder_without_bos_still_continues_a_plain_text(model_folder):
    """Qwen2Config names no BOS unless told to: then a text begins with itself."""
    ours = GeneratorTransformer.load_from_checkpoint(model_folder)
    assert ours.config.bos_token_id is None
    assert isinstance(ours.generate("Once", max_out_tokens=3, seed=1), str)


def test_a_bfloat16_folder_holds_the_rounded_weights(model, tmp_path):
    """Saved in bfloat16, loaded in float32: rounded once and nothing else lost."""
    model.save_checkpoint(tmp_path, torch.bfloat16)
    ours = GeneratorTransformer.load_from_checkpoint(tmp_path)
    for name, weight in model.state_dict().items():
        assert ours.state_dict()[name].dtype == torch.float32
        assert torch.equal(ours.state_dict()[name], weight.bfloat16().float()), name
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(logits(ours, tokens(9)), logits(reference, tokens(9)), atol=1e-4, rtol=0)


# ----------------------------------------------------------------------------------------- cache, causality, loss


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 7], [7, 1, 1, 3], [1, 11]])
def test_cached_equals_uncached(model, pieces):
    """However the text is fed in pieces, the logits are those of one call without a cache."""
    ids, cache = tokens(12, rows=2), DynamicCache()
    got = torch.cat([logits(model, piece, past_key_values=cache) for piece in ids.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(got, logits(model, ids), atol=1e-5, rtol=1e-5)
    assert cache.get_seq_length() == 12


def test_selected_rows_of_the_cache_go_on_as_their_own_texts(model):
    """Rows that end leave the batch and beams reorder: a cache row must stay with its text."""
    ids, new, rows = tokens(6, rows=3), tokens(1, rows=4, seed=1), [2, 0, 0, 1]
    cache = DynamicCache()
    logits(model, ids, past_key_values=cache)
    cache.batch_select_indices(torch.tensor(rows))
    got = logits(model, new, past_key_values=cache)
    torch.testing.assert_close(got[:, -1], logits(model, torch.cat([ids[rows], new], 1))[:, -1], atol=1e-5, rtol=1e-5)


def test_logits_to_keep_gives_the_last_positions(model):
    """0 means all, as in transformers."""
    ids = tokens(8)
    for kept in (1, 3):
        torch.testing.assert_close(logits(model, ids, logits_to_keep=kept), logits(model, ids)[:, -kept:])
    assert logits(model, ids, logits_to_keep=0).shape == (1, 8, 300)


@pytest.mark.parametrize("t", [0, 1, 5, 9])
def test_a_token_changes_no_logit_before_it(model, t):
    """Causality: position t must not be seen earlier, and must be seen from t on."""
    ids = tokens(10)
    changed = ids.clone()
    changed[0, t] = (ids[0, t] + 1) % 300
    before, after = logits(model, ids), logits(model, changed)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.allclose(before[:, t], after[:, t]) and not torch.allclose(before[:, -1], after[:, -1])


@pytest.mark.parametrize("rows, new", [(3, 9), (44, 12), (36, 36)])
def test_the_loss_is_the_summed_cross_entropy_of_the_targets_that_count(model, rows, new):
    """-100 counts nothing; nothing is shifted a second time; summed, not averaged; whatever the number of its chunks."""
    ids, targets = tokens(new, rows=rows), tokens(new, rows=rows, seed=2)
    targets[0, :4], targets[2] = -100, -100
    out = model(ids, targets=targets)
    expected = F.cross_entropy(logits(model, ids).flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    assert out.logits is None
    torch.testing.assert_close(out.loss, expected)


def test_the_loss_in_16_bits_is_nearly_that_in_32(model):
    """Autocast computes the products, the rotary positions and the logits in bfloat16, of 8 bits."""
    ids, targets = tokens(30, rows=3), tokens(30, rows=3, seed=2)
    losses, gradients = [], []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(model(ids, targets=targets).loss)
        losses[-1].backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad.clone())
        model.zero_grad()
    torch.testing.assert_close(losses[1], losses[0], rtol=3e-3, atol=0.0)
    assert (gradients[1] - gradients[0]).norm() < 0.15 * gradients[0].norm()


def test_the_loss_of_no_target_is_zero(model):
    """A process without a row of the last batch takes its step on nothing."""
    loss = model(tokens(5), targets=torch.full((1, 5), -100)).loss
    loss.backward()
    assert loss == 0 and model.lm_head.weight.grad.eq(0).all()
    model.zero_grad()


# ------------------------------------------------------------------------------------------------------- generate


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
def test_past_the_context_every_step_equals_a_recomputation(model, context, temperature):
    """The context shifts: each prediction sees exactly the last tokens, as if nothing came before them."""
    prompt = tokens(30).tolist()[0]
    got = list(continue_ids(model, torch.tensor([prompt]), [2], temperature=temperature, seed=4, max_new_tokens=25,
                            context_len=context))  # fmt: skip
    assert got == brute_force(model, prompt, context or 40, 25, temperature, seed=4)
    assert len(got) > 12, "a text that ended before the limit of 40 proves nothing"


def test_a_token_joins_the_text_whatever_its_length(model):
    """Bug 1 of the exercise's listing: a 1-D token concatenated to a 2-D tensor fails at the second token."""
    assert len(list(continue_ids(model, tokens(1), [], max_new_tokens=5, seed=0))) == 5
    assert model.generate("Once", max_out_tokens=5, seed=0)


def test_context_len_is_not_ignored(model):
    """Bug 2 of the exercise's listing: the context_len argument ignored. Here only the last tokens matter."""
    one, other = "tiny hedgehog time", "upon a there hedgehog time"
    settings = {"temperature": 0, "max_out_tokens": 12}
    assert model.generate(one, context_len=1, **settings) == model.generate(other, context_len=1, **settings)
    assert model.generate(one, **settings) != model.generate(one, context_len=1, **settings)


def test_every_documented_argument_of_generate_exists(model):
    """Bug 3 of the exercise's listing: chat() passes an argument that does not exist. Unknown ones are TypeErrors."""
    names = list(inspect.signature(model.generate).parameters)
    assert names == ["prompt", "context_len", "temperature", "max_out_tokens", "top_k", "top_p", "num_beams",
                     "length_penalty", "seed"]  # fmt: skip
    common = {"context_len": 20, "max_out_tokens": 4, "length_penalty": 0.5, "seed": 1}
    assert isinstance(model.generate("Once", temperature=0.5, top_k=5, top_p=0.9, num_beams=1, **common), str)
    assert isinstance(model.generate("Once", temperature=1.0, num_beams=3, **common), str)
    with pytest.raises(TypeError):
        model.generate("Once", max_new_tokens=4)


@pytest.mark.parametrize("settings", [
    {}, {"temperature": 0}, {"temperature": 0.6, "top_k": 20}, {"top_p": 0.8}, {"num_beams": 3, "length_penalty": 2.0},
])  # fmt: skip
def test_generate_is_the_task_files_own_decoding(model, settings):
    """generate adds the BOS and the decoding of ids, and is no second copy of the strategies."""
    ids = [0, *model.tokenizer.encode("Once upon").ids]
    expected = continue_ids(model, torch.tensor([ids]), [2], seed=9, max_new_tokens=15, context_len=30, **settings)
    text = model.generate("Once upon", seed=9, max_out_tokens=15, context_len=30, **settings)
    assert text == model.tokenizer.decode(list(expected))


def test_greedy_is_what_temperature_0_top_k_1_and_one_beam_say(model):
    """Three ways to ask for the most likely token."""
    greedy = model.generate("Once", temperature=0, max_out_tokens=12)
    assert greedy == model.tokenizer.decode(brute_force(model, [0, *model.tokenizer.encode("Once").ids], 40, 12, 0))
    assert greedy == model.generate("Once", temperature=0, num_beams=1, max_out_tokens=12)
    assert greedy == model.generate("Once", top_k=1, seed=5, max_out_tokens=12)


def test_a_seed_repeats_the_text(model):
    """And no seed, or another, does not."""
    texts = [model.generate("Once", seed=seed, max_out_tokens=20) for seed in (1, 1, 2, None, None)]
    assert texts[0] == texts[1] and len(set(texts)) == 4


def test_generate_stops_at_eos_or_at_the_limit(model, bpe):
    """EOS ends the text and is not part of it."""
    ender = randomise(GeneratorTransformer(shape(), bpe), 0)
    with torch.no_grad():
        ender.model.norm.weight.fill_(0)  # logits all alike, so that greedy takes the first token, 0
    ender.config.eos_token_id = 0
    assert list(continue_ids(ender, tokens(3), [0], temperature=0, max_new_tokens=9)) == [0]
    assert ender.generate("Once", temperature=0, max_out_tokens=9) == ""
    for limit in (1, 7):
        assert len(list(continue_ids(model, tokens(3), [], max_new_tokens=limit))) == limit


@pytest.mark.parametrize("settings", [
    {"temperature": -1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}, {"num_beams": 0},
    {"num_beams": 1000}, {"max_out_tokens": 0}, {"context_len": 0}, {"context_len": -3}, {"seed": -1},
    {"num_beams": 2, "top_k": 3},
])  # fmt: skip
def test_a_setting_that_cannot_be_is_a_one_line_value_error(model, settings):
    """Refused, not silently mended."""
    with pytest.raises(ValueError) as error:
        model.generate("Once", **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["attention_mask", "use_cache", "labels", "position_ids", "return_dict"])
def test_an_unsupported_argument_of_the_call_is_an_error(model, name):
    """What transformers' models take and ours does not must not be ignored."""
    with pytest.raises(TypeError):
        model(tokens(3), **{name: None})


def test_a_text_longer_than_the_context_is_a_one_line_value_error(model):
    """With and without a cache; not an index error from the rotary table."""
    with pytest.raises(ValueError, match="^41 tokens do not fit the context of 40$"):
        model(tokens(41))
    cache = DynamicCache()
    logits(model, tokens(40), past_key_values=cache)
    with pytest.raises(ValueError, match="^41 tokens do not fit the context of 40$"):
        model(tokens(1), past_key_values=cache)


# ---------------------------------------------------------------------------------------------------- checkpoints


def edit_config(folder, **changes):
    content = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**content, **changes}), "utf-8")


def edit_weights(folder, change):
    weights = generator.load_file(folder / "model.safetensors")
    change(weights)
    generator.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


NORM = "model.norm.weight"
SPOILERS = {
    "no config": lambda folder: (folder / "config.json").unlink(),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "truncated weights": lambda folder: cut(folder / "model.safetensors"),
    "empty weights": lambda folder: cut(folder / "model.safetensors", 0),
    "truncated tokenizer": lambda folder: cut(folder / "tokenizer.json"),
    "truncated config": lambda folder: cut(folder / "config.json"),
    "config is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "wrong shape": lambda folder: edit_weights(folder, lambda w: w.update({NORM: torch.ones(3)})),
    "missing weight": lambda folder: edit_weights(folder, lambda w: w.pop(NORM)),
    "missing tied weight": lambda folder: edit_weights(folder, lambda w: w.pop("model.embed_tokens.weight")),
    "unknown weight": lambda folder: edit_weights(folder, lambda w: w.update({"extra": torch.ones(3)})),
    "vocabulary below the tokenizer": lambda folder: edit_config(folder, vocab_size=200),
    "vocabulary above the weights": lambda folder: edit_config(folder, vocab_size=301),
    "more layers": lambda folder: edit_config(folder, num_hidden_layers=3),
    "fewer layers": lambda folder: edit_config(folder, num_hidden_layers=1),
    "another model": lambda folder: edit_config(folder, model_type="llama"),
    "another activation": lambda folder: edit_config(folder, hidden_act="gelu"),
    "scaled positions": lambda folder: edit_config(folder, rope_scaling={"type": "linear", "factor": 2.0}),
    "sliding window": lambda folder: edit_config(folder, use_sliding_window=True),
    "heads and width": lambda folder: edit_config(folder, num_attention_heads=3, num_key_value_heads=3),
    "kv heads and heads": lambda folder: edit_config(folder, num_key_value_heads=3),
    "no heads": lambda folder: edit_config(folder, num_attention_heads=0),
    "negative width": lambda folder: edit_config(folder, hidden_size=-16),
    "size is text": lambda folder: edit_config(folder, hidden_size="wide"),
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_a_broken_checkpoint_is_a_one_line_value_error(folder, spoil):
    """Never a traceback of a library, never random weights in place of missing ones."""
    spoil(folder)
    with pytest.raises(ValueError) as error:
        GeneratorTransformer.load_from_checkpoint(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_folder_is_a_one_line_value_error(tmp_path):
    """The message names the folder."""
    with pytest.raises(ValueError, match="nowhere is no checkpoint"):
        GeneratorTransformer.load_from_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("sizes", [
    {"hidden_size": 15}, {"hidden_size": 12, "num_attention_heads": 4}, {"num_key_value_heads": 3}, {"vocab_size": 0},
    {"num_hidden_layers": 0}, {"intermediate_size": -1}, {"max_position_embeddings": 0}, {"num_key_value_heads": 0},
])  # fmt: skip
def test_an_impossible_shape_is_a_one_line_value_error(sizes):
    """Widths that heads do not divide (evenly, for the rotary pairs), kv heads, sizes of zero and below."""
    with pytest.raises(ValueError) as error:
        shape(**sizes)
    assert "\n" not in str(error.value)


def test_a_save_that_fails_halfway_leaves_the_old_checkpoint(model, bpe, folder, monkeypatch):
    """A full disk must cost neither the old model nor leave half a file behind."""
    names = sorted(path.name for path in folder.iterdir())

    def full_disk(weights, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(generator, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left") as error:
        randomise(GeneratorTransformer(shape(), bpe), 8).save_checkpoint(folder)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in folder.iterdir()) == names
    loaded = GeneratorTransformer.load_from_checkpoint(folder)
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())


def test_who_may_read_a_checkpoint_may_read_its_weights(folder):
    """safetensors lets nobody but the owner read a file, so a server under another user could not open the folder."""
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_a_checkpoint_gives_back_the_model_and_its_texts(model, folder):
    """Saved and loaded: the same configuration, weights and continuation, and no dropout."""
    loaded = GeneratorTransformer.load_from_checkpoint(folder, dropout=0.5)
    assert loaded.config == model.config and not loaded.training
    assert loaded.generate("Once", seed=1, max_out_tokens=9) == model.generate("Once", seed=1, max_out_tokens=9)
