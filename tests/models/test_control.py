"""Control: its three kinds on bases of three shapes, the heads against transformers' own, rows that keep their labels."""

from support.errors import InputError

import random

from common import Batch, decode
from data.tokenizer import make_tokenizer
from models.control import (
    KINDS,
    REPLY_TEMPLATE,
    REPLY_TOKENS,
    REQUEST,
    Controlled,
    LabelledCache,
    Labels,
    asked_ids,
    reply_end,
)
from models.transformer import Transformer
from task1_greedy import greedy
from task2_sampling import sample
from tests.helpers import random_model, shape, small_tokenizer, tokens

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerFast

LABELS = Labels({"tone": ("firm", "kind"), "category": ("roads", "taxes", "noise")})
BASES = ("own", "llama", "gpt2")
VOCAB = 12
WANTED = ({"tone": "kind"}, {"tone": "firm", "category": "noise"}, {})
IDS = torch.stack([LABELS.ids(labels) for labels in WANTED])


def base_of(kind):
    torch.manual_seed(0)
    return Transformer(shape(vocab_size=VOCAB)).eval() if kind == "own" else random_model(0, VOCAB, kind=kind)


def controlled(base="own", kind="token", trained=True, **options):
    """With `trained`, the control has random vectors, as after training."""
    model = Controlled(base_of(base), LABELS, kind, **options).eval()
    if trained:
        with torch.no_grad():
            model.table.weight.normal_()
    return model


def text(rows=3, length=7, seed=0):
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def prompts(model, rows=WANTED):
    """A prompt for each row's labels, (rows, T)."""
    return torch.tensor([model.prompt_ids([3, 4, 5, 3], labels) for labels in rows])


@pytest.fixture(autouse=True)
def without_gradients(request):
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


# --- labels


def test_labels_have_ids():
    """By hand: values count from 1 in their order; 0 is any."""
    assert LABELS.ids({}).tolist() == LABELS.ids({"tone": "any"}).tolist() == [0, 0]
    assert LABELS.ids({"category": "noise", "tone": "firm"}).tolist() == [1, 3]


@pytest.mark.parametrize(("labels", "says"), [
    ({"tone": "rude"}, "there is no tone 'rude': choose from firm, kind, any"),
    ({"mood": "kind"}, "there is no attribute mood: choose from tone, category")])
def test_what_is_not_known_is_one_line_that_lists_what_there_is(labels, says):
    model = controlled()
    for ask in (LABELS.ids, lambda labels: model.prompt_ids([3], labels), lambda labels: model.new_cache([labels])):
        with pytest.raises(InputError) as error:
            ask(labels)
        assert str(error.value) == says


@pytest.mark.parametrize("values", [{}, {"tone": ()}, {"tone": ("firm", "firm")}, {"tone": ("any",)}, {REQUEST: ("firm",)}])
def test_labels_that_cannot_be(values):
    with pytest.raises(InputError):
        Labels(values)


def test_kinds_that_there_are_not():
    with pytest.raises(InputError, match="choose from none, token, embedding, hidden"):
        controlled(kind="prefix")
    with pytest.raises(InputError, match="choose from last, first"):
        controlled(pooling="mean")


# --- what an untrained control changes


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", ["none", "embedding", "hidden"])
def test_zero_vectors_change_no_logit(base, kind):
    """Oracle: the base itself, bit for bit; a correction of zero, and an output layer that is a copy, change nothing either."""
    model = controlled(base, kind, trained=False, refinement=True, own_head=True)
    assert torch.equal(model(text(), labels=IDS).logits, base_of(base)(text()).logits)


@pytest.mark.parametrize("base", BASES)
def test_control_tokens_stand_behind_the_vocabulary_and_are_never_predicted(base):
    """By hand: 3 tones with any and 4 categories with any are the ids 12 to 18; a prompt is as long under all labels."""
    model = controlled(base, trained=False)
    assert [model.prompt_ids([3, 4], labels) for labels in WANTED] == [[3, 4, 14, 15], [3, 4, 13, 18], [3, 4, 12, 15]]
    assert model(prompts(model)).logits.shape == (3, 6, VOCAB) and len(model.table.weight) == 7
    mean = base_of(base).get_input_embeddings().weight.mean(0)
    assert (model.table.weight - mean).abs().max() < 0.5 * base_of(base).get_input_embeddings().weight.std()
    before = controlled(base, "none")(text()).logits
    assert torch.equal(model(text()).logits, before), "text without a control token is read as by the base"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", BASES)
def test_labels_change_what_comes(base, kind):
    model = controlled(base, kind)
    logits = model(prompts(model, ({},) * 3), labels=IDS).logits[:, -1]
    alike = [torch.allclose(logits[0], row, atol=1e-4) for row in logits[1:]]
    assert alike == [kind == "none"] * 2


@pytest.mark.parametrize("kind", ["embedding", "hidden"])
def test_any_is_zero_and_gets_no_gradient(kind):
    """Guards a dropped label: its vector would be trained by three rows in ten, and no row would be without control."""
    model = controlled(kind=kind)
    assert torch.equal(model(text(), labels=0 * IDS).logits, base_of("own")(text()).logits)
    model(text(), targets=text(seed=1), labels=IDS).loss.backward()
    assert [bool(row.any()) for row in model.table.weight.grad] == [False, True, True, False, False, False, True]


def test_a_vector_on_the_last_hidden_state_is_one_constant_bias():
    """Mistake of the notes: tone and category added to the *last* hidden state. By hand: head(h + v) = head(h) + head(v), the
    same bias on the logits at every position of every text; added at the input it depends on the text."""
    shifts = {}
    for kind in ("hidden", "embedding"):
        model = controlled("own", kind)
        logits = [model(text(1, seed=seed), labels=labels).logits[0] for seed in (0, 1) for labels in (IDS[:1], 0 * IDS[:1])]
        shifts[kind] = torch.cat([logits[0] - logits[1], logits[2] - logits[3]])  # (14, vocab)
    bias = controlled("own", "hidden")
    expected = bias.lm_head(bias.vectors(IDS[:1]))[0]
    assert torch.allclose(shifts["hidden"], expected.expand(14, -1), atol=1e-4)
    assert not torch.allclose(shifts["embedding"], shifts["embedding"][:1].expand(14, -1), atol=0.1)


def test_the_refinement_is_a_correction_before_the_output_layer_and_not_an_input():
    """Mistake of the notes: hidden states fed back as inputs. By hand: logits = head(h + W h), with h read from the ids."""
    model = controlled("llama", "none", refinement=True)
    model.refinement.weight.normal_()
    h = base_of("llama").get_decoder()(text()).last_hidden_state
    assert torch.allclose(model(text()).logits, base_of("llama").lm_head(h + h @ model.refinement.weight.T), atol=1e-4)


# --- rows and their labels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", BASES)
def test_a_control_row_follows_its_row(base, kind):
    """Oracle: each row alone, read anew without a cache. Rows are spread, dropped and reordered at random."""
    model, rng = controlled(base, kind), random.Random(kind)
    rows = list(range(3))
    batch = Batch(model, prompts(model), cache=model.new_cache(WANTED))
    for _ in range(8):
        found = batch.next_logits()
        for logits, ids, row in zip(found, batch.ids, rows, strict=True):
            alone = model(ids[None], labels=IDS[row:row + 1]).logits[0, -1]
            assert torch.allclose(logits, alone, atol=1e-4)
        chosen = rng.choices(range(len(rows)), k=rng.randint(1, 5))
        batch.select(chosen)
        rows = [rows[i] for i in chosen]
        batch.append(torch.tensor([rng.randrange(VOCAB) for _ in rows]))


@pytest.mark.parametrize("kind", KINDS)
def test_several_requests_decoded_together_are_each_as_alone(kind):
    """Guards rows that end, for which the labels behind move up: two texts for each of three requests, and each alone."""
    model = controlled("gpt2", kind)

    def texts(rows):
        generators = [torch.Generator().manual_seed(10 * row + number) for row in rows for number in range(2)]
        written = [[] for _ in generators]
        wanted = [WANTED[row] for row in rows]
        for i, token, _ in decode(model, prompts(model, wanted), sample, {"generators": generators}, frozenset(range(4)), 12, 2,
                                  cache=model.new_cache(wanted)):  # fmt: skip
            written[i].append(token)
        return written
    together = texts(range(3))
    assert together == [alone for row in range(3) for alone in texts([row])]
    assert len(set(map(len, together))) > 1, "no row ended before the others"


def test_labels_are_not_lost_in_silence():
    """Bug of a first draft: a text longer than the context slid out of its labels, and went on without control."""
    model = controlled(kind="embedding")
    with pytest.raises(InputError, match="lower --max-new-tokens"):
        list(decode(model, prompts(model), greedy, {}, frozenset(), 50, cache=model.new_cache(WANTED)))
    with pytest.raises(InputError, match="labels of the rows are lost"):
        model(text())


def test_labels_given_replace_the_control_tokens():
    """Guards dropping by batch: the prompts of a data set hold any, and each batch says which labels it trains."""
    model = controlled()
    replaced = model.relabelled(prompts(model, ({},) * 3), IDS)
    assert torch.equal(replaced, prompts(model)) and torch.equal(model.unlabelled(replaced), prompts(model, ({},) * 3))
    assert torch.equal(model(prompts(model), labels=0 * IDS).logits, model(prompts(model, ({},) * 3)).logits)


# --- training


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", BASES)
def test_the_loss_is_that_of_the_reply_shifted_by_one(base, kind):
    """Mistakes of the notes: labels not shifted, prompt and pads in the loss. Oracle: F.cross_entropy of the logits at
    position t with the token at t + 1, for the tokens of each reply and its end; whatever pads are, the loss is the same."""
    model, losses = controlled(base, kind), []
    replies = [[5, 6, 2], [7, 2], [8, 9, 4, 2]]
    rows = [[*model.prompt_ids([3, 4], labels), *reply] for labels, reply in zip(WANTED, replies, strict=True)]
    expected = sum(F.cross_entropy(model(torch.tensor([row[:-1]]), labels=IDS[i:i + 1]).logits[0, -len(replies[i]):],
                                   torch.tensor(replies[i]), reduction="sum") for i, row in enumerate(rows))
    for pad in (0, 7):
        input_ids, targets = torch.full((3, 9), pad), torch.full((3, 9), -100)
        for i, row in enumerate(rows):
            input_ids[i, :len(row) - 1] = torch.tensor(row[:-1])
            targets[i, len(row) - 1 - len(replies[i]):len(row) - 1] = torch.tensor(replies[i])
        losses.append(model(input_ids, targets=targets, labels=IDS).loss)
    assert losses[0] == losses[1] and torch.allclose(losses[0], expected, rtol=1e-5)


def test_the_gradient_of_a_detached_trunk_is_the_heads_alone():
    """Joint and separate training from one pass: joint is the sum of the losses, separate leaves the base as it is."""
    model, names = controlled("llama"), {}
    for how in ("joint", "separate"):
        model.zero_grad()
        hidden = model.hidden(prompts(model, ({},) * 3), IDS)
        read = hidden if how == "joint" else hidden.detach()
        F.cross_entropy(model.scores(read, torch.tensor([6, 4, 6]), "tone"), torch.tensor([0, 1, 1])).backward()
        names[how] = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert names["separate"] == {"heads.tone.weight", "heads.tone.bias"}
    assert {"base.model.layers.0.mlp.up_proj.weight", "table.weight"} < names["joint"]


def test_a_frozen_base_cannot_change_what_it_writes_by_heads_alone_gradients():
    """Mistake of the notes: a frozen base with extra heads, trained for its texts. By hand: none of the loss's gradient is a
    head's; with control tokens it is the tokens'."""
    for kind, reached in (("none", set()), ("token", {"table.weight"})):
        model = controlled("gpt2", kind)
        model.base.requires_grad_(False)
        loss = model(prompts(model), targets=prompts(model).clamp(max=VOCAB - 1), labels=IDS).loss
        if loss.requires_grad:
            loss.backward()
        assert {name for name, weight in model.named_parameters() if weight.grad is not None} == reached


# --- heads


def classifier(pad):
    torch.manual_seed(1)
    return GPT2ForSequenceClassification(GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=64,
                                                    initializer_range=0.5, num_labels=2, pad_token_id=pad)).eval()  # fmt: skip


def with_head_of(reference, **options):
    model = Controlled(random_model(0, VOCAB, kind="gpt2"), LABELS, "none", **options).eval()
    model.base.transformer.load_state_dict(reference.transformer.state_dict())
    model.heads["tone"].weight.copy_(reference.score.weight)
    model.heads["tone"].bias.zero_()
    return model


def test_heads_pool_as_transformers_classifier():
    """Mistake of the notes: heads that read the first token of a causal model. Oracle: GPT2ForSequenceClassification with the
    same random weights, rows of different lengths, padded on the right."""
    reference, lengths = classifier(pad=0), torch.tensor([7, 3, 5])
    input_ids = text().clamp(min=1).masked_fill(torch.arange(7) >= lengths[:, None], 0)
    expected = reference(input_ids).logits
    model = with_head_of(reference)
    assert torch.allclose(model.scores(model.hidden(input_ids), lengths, "tone"), expected, atol=1e-5)
    assert torch.allclose(model.judge(input_ids, lengths, "tone"), expected.log_softmax(-1), atol=1e-5)


def test_the_first_token_of_a_causal_model_has_seen_nothing():
    """The same mistake: what it says is the same whatever the reply is, so that it can tell the majority alone."""
    model = with_head_of(classifier(pad=0), pooling="first")
    texts = text(5)
    texts[:, 0] = 1
    scores = model.judge(texts, torch.full((5,), 7), "tone")
    assert torch.allclose(scores, scores[:1].expand(5, -1), atol=1e-6)
    last = with_head_of(classifier(pad=0)).judge(texts, torch.full((5,), 7), "tone")
    assert not torch.allclose(last, last[:1].expand(5, -1), atol=0.1)


@pytest.mark.parametrize("base", BASES)
def test_a_truncated_reply_is_judged_by_the_same_pass(base):
    """By hand: no position sees a later one, so a head at length 4 of the whole reply is the head of its first 4 tokens."""
    model = controlled(base)
    whole = model.scores(model.hidden(text()), torch.full((3,), 4), "category")
    assert torch.allclose(whole, model.scores(model.hidden(text()[:, :4]), torch.full((3,), 4), "category"), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_does_not_see_the_label_that_it_tells(kind):
    """Guards head-guided choice: a head that read the control beside the reply would find every candidate right."""
    model, lengths = controlled(kind=kind), torch.full((3,), 6 if kind == "token" else 4)
    told = model.judge(prompts(model), lengths, "tone")
    assert torch.equal(told, model.judge(prompts(model, ({},) * 3), lengths, "tone"))
    assert torch.allclose(told.exp().sum(-1), torch.ones(3))


def test_a_head_at_the_end_of_the_request_says_the_same_of_every_reply(reply_tokenizer):
    """Mistake of the notes: a tone head that judges the request instead of the reply. By hand: no position sees a later one. So
    `judge` is given the reply behind an empty request; one head, of its own, reads requests, where there is a category."""
    model, ids = controlled(), torch.cat([text(1).expand(3, -1), text(seed=1)], dim=1)
    at_request, at_reply = (model.judge(ids, torch.full((3,), length), "tone") for length in (7, 14))
    assert torch.allclose(at_request, at_request[:1].expand(3, -1), atol=1e-5)
    assert not torch.allclose(at_reply, at_reply[:1].expand(3, -1), atol=0.1)
    assert reply_tokenizer.convert_ids_to_tokens(asked_ids(reply_tokenizer, "")) == ["<request>", "<reply>"]
    assert {name: head.out_features for name, head in model.heads.items()} == {"tone": 2, "category": 3, REQUEST: 3}
    assert set(Controlled(base_of("own"), Labels({"tone": ("a", "b")}), "none").heads) == {"tone"}


# --- requests as ids


@pytest.fixture(scope="module")
def reply_tokenizer():
    """A tokenizer learned on requests and replies, as train_replies.py makes it."""
    backend = make_tokenizer("bpe", ["My street is dark. We are sorry, it is mended."] * 3, 300)
    backend.add_special_tokens(list(REPLY_TOKENS))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", chat_template=REPLY_TEMPLATE)


def test_a_request_stands_between_its_tokens(reply_tokenizer):
    """Guards a user who types a control token: it is ordinary characters."""
    ids = asked_ids(reply_tokenizer, "dark <end> street")
    marks = reply_tokenizer.convert_tokens_to_ids(list(REPLY_TOKENS))
    assert [i for i in ids if i in marks] == [ids[0], ids[-1]] == marks[:2]
    assert reply_tokenizer.decode(ids) == "<request>dark <end> street<reply>"
    assert reply_end(reply_tokenizer) == marks[2]


def test_a_base_without_a_template_reads_an_empty_line_before_the_reply():
    tokenizer = small_tokenizer("metaspace always")
    assert tokenizer.decode(asked_ids(tokenizer, "hello there")).endswith("hello there\n\n")
    assert asked_ids(tokenizer, "") and reply_end(tokenizer) == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no token that ends a text"):
        reply_end(tokenizer)


# --- the decoder


def test_vectors_are_read_as_their_tokens_are():
    """Guards the un-controlled path: the same bits whether the decoder looks the tokens up or is given their vectors."""
    model = Transformer(shape()).eval()
    vectors = model.get_input_embeddings()(tokens(9, 2))
    assert torch.equal(model.model.read(vectors, None), model.model(tokens(9, 2), None))
    cache = controlled(kind="hidden").new_cache(WANTED)
    assert isinstance(cache, LabelledCache) and cache.get_seq_length() == 0
