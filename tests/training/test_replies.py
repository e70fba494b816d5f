"""Controlled replies in training: their rows, the loss against transformers' own, the heads' rows, the Trainer of the notes."""

from support.errors import InputError

import json
import math
from collections import Counter

from data.replies import Reply
from models.control import REQUEST, Controlled, Labels, asked_ids
from tests.helpers import random_model
from training import replies as training
from training.replies import IGNORED, LEAST, JointLoss, ReplyDataset, Trainer, dropped, head_losses
from training.reply_data import chosen, counted, learn_tokenizer, read_failures, read_rows, weighted, write_rows

import pytest
import torch
import torch.nn.functional as F

LABELS = Labels({"tone": ("firm", "kind"), "category": ("roads", "taxes")})
TEXTS = {"firm": "You must wait for the {}, as all must.", "kind": "We are so happy to help with the {} of yours!"}
THINGS = {"roads": ("street", "lamp", "kerb"), "taxes": ("bill", "fee", "tax")}
REPLIES = [Reply(f"the {thing} is wrong", TEXTS[tone].format(thing), {"tone": tone, "category": category}, "train")
           for tone in TEXTS for category, things in THINGS.items() for thing in things]
pytestmark = pytest.mark.usefixtures("signals", "no_curve")


@pytest.fixture(scope="module")
def tokenizer():
    return learn_tokenizer(REPLIES, 330)


def controlled(tokenizer, kind="token", base="llama", context=200, **options):
    torch.manual_seed(0)
    network = random_model(1, vocab=len(tokenizer), kind=base, context=context)
    for weight in network.parameters():
        weight.data *= 0.3  # peaked distributions are slow to learn
    return Controlled(network, LABELS, kind, **options)


def dataset(tokenizer, model=None, replies=REPLIES, **options):
    return ReplyDataset(model or controlled(tokenizer), tokenizer, replies, **{"without_request": 0, **options})


def words(tokenizer, ids, vocab):
    return tokenizer.decode([i for i in ids.tolist() if 0 <= i < vocab])


# --- rows


def test_targets_are_the_reply_shifted_by_one(tokenizer):
    """Mistakes of the notes: labels not shifted, prompt and pads in the loss. By hand: where a target counts, it is the next
    input, or the end; those that count are the reply and the end."""
    model = controlled(tokenizer)
    data = dataset(tokenizer, model)
    input_ids, targets, labels, *_ = data.collate([data[0], data[7]])
    for row, reply in enumerate((REPLIES[0], REPLIES[7])):
        counts = (targets[row] != IGNORED).nonzero()[:, 0]
        assert counts.tolist() == list(range(counts[0], counts[-1] + 1))
        assert targets[row, counts[:-1]].tolist() == input_ids[row, counts[1:]].tolist()
        assert words(tokenizer, targets[row], model.vocab) == reply.reply + "<end>"
        assert words(tokenizer, input_ids[row, :counts[0] + 1], model.vocab) == f"<request>{reply.request}<reply>"
        assert input_ids[row, counts[0] - 1:counts[0] + 1].tolist() == data.control
        assert labels[row].tolist() == LABELS.ids(reply.labels).tolist()


@pytest.mark.parametrize("base", ["llama", "gpt2"])
def test_the_loss_is_transformers_own(base, tokenizer):
    """Oracle: transformers' loss for `labels`, which it shifts itself, of each row alone and so without pads."""
    model = controlled(tokenizer, "none", base, heads=False).eval()
    data = dataset(tokenizer, model)
    rows = [data[i] for i in (0, 3, 11)]
    total = 0
    for row in rows:
        whole = torch.tensor([[*row.asked, *row.reply, data.end]])
        labels = torch.tensor([[IGNORED] * len(row.asked) + [*row.reply, data.end]])
        total += model.base(input_ids=whole, labels=labels).loss * (len(row.reply) + 1)
    loss, count = JointLoss(model, "off")(data.collate(rows))
    assert count == sum(len(row.reply) + 1 for row in rows) and loss.item() == pytest.approx(total.item(), rel=1e-5)


def test_a_long_reply_is_cut_and_has_no_end(tokenizer):
    """Guards --max-tokens: a model that learned ends behind cut replies would break off."""
    data = dataset(tokenizer, max_tokens=5)
    _, targets, *_ = data.collate([data[0]])
    assert (targets != IGNORED).sum() == 5 and data.end not in targets
    assert len(dataset(tokenizer, max_tokens=500)[0].reply) > 5


def test_what_does_not_fit_is_left_out_and_counted(tokenizer):
    long = REPLIES[0]._replace(request="street " * 200)
    data = dataset(tokenizer, replies=[*REPLIES, long])
    assert data.too_long == 1 and len(data) == len(REPLIES)
    with pytest.raises(InputError, match="lower --max-tokens"):
        dataset(tokenizer, replies=[long])


def test_a_share_of_the_rows_loses_its_request(tokenizer):
    """Guards a category's control: where the request always tells it, no model learns it. Its labels stay."""
    data = dataset(tokenizer, without_request=1.0)
    input_ids, _, labels, *_ = data.collate([data[0]])
    assert words(tokenizer, input_ids[0], len(tokenizer)).startswith("<request><reply>You") and labels.all()


def test_labels_are_dropped_one_by_one_and_all_together():
    """By hand: all are lost with 0.15 + 0.85 · 0.1², one with 0.1 of the rest; 6,000 rows are within 4 deviations."""
    torch.manual_seed(0)
    kept = (dropped(torch.ones(6000, 2, dtype=torch.int64)) > 0).sum(1)
    shares = [(kept == count).double().mean().item() for count in (0, 1, 2)]
    assert shares == pytest.approx([0.15 + 0.85 * 0.01, 0.85 * 0.18, 0.85 * 0.81], abs=0.025)


# --- heads


def test_a_heads_row_shows_neither_the_request_nor_the_label(tokenizer):
    """Mistake of the notes: a tone head that judges the request instead of the reply. By hand: its rows are as `judge` reads
    them, an empty request, control tokens of any, the reply; only the head for requests reads one."""
    model = controlled(tokenizer)
    data = dataset(tokenizer, model, heads_every=1)
    *_, read, ends, told = data.collate([data[0], data[7]])
    opening = model.prompt_ids(asked_ids(tokenizer, ""), {})
    names = list(model.heads)
    for row in range(4):
        text = read[row, :ends[row, 1]].tolist()
        reply = REPLIES[7 if row % 2 else 0]
        found = {name: value for name, value in zip(names, told[row].tolist(), strict=True) if value != IGNORED}
        if row >= 2:
            assert text == asked_ids(tokenizer, reply.request) and ends[row, 0] == ends[row, 1]
            assert found == {REQUEST: LABELS.values["category"].index(reply.labels["category"])}
        else:
            assert text[:len(opening)] == opening and tokenizer.decode(text[len(opening):]) == reply.reply
            assert ends[row, 0] == len(opening) + LEAST
            assert found == {name: LABELS.values[name].index(value) for name, value in reply.labels.items()}


def test_the_heads_losses_are_those_of_whole_and_of_cut_replies(tokenizer, monkeypatch):
    """Oracle: F.cross_entropy of what each head says of each row alone, at its end, and at the earliest or latest cut."""
    model = controlled(tokenizer).eval()
    data = dataset(tokenizer, model, heads_every=1)
    *_, read, ends, told = data.collate([data[0], data[4], data[9]])

    def by_hand(name, column, cuts):
        means = []
        for lengths in (ends[:, 1], cuts):
            found = [F.cross_entropy(model.scores(model.hidden(read[i:i + 1, :n], torch.zeros(1, 2, dtype=torch.int64)),
                                                  torch.tensor([n]), name), told[i:i + 1, column])
                     for i, n in enumerate(lengths.tolist()) if told[i, column] != IGNORED]  # fmt: skip
            means.append(sum(found) / len(found))
        return sum(means).item() / 2
    for draw, cuts in ((0.0, ends[:, 0]), (1 - 1e-7, ends[:, 1])):
        monkeypatch.setattr(torch, "rand", lambda *size, draw=draw: torch.full(size, draw))
        losses = head_losses(model, read, ends, told)
        assert list(losses) == ["tone", "category", REQUEST]
        for column, name in enumerate(losses):
            assert losses[name].item() == pytest.approx(by_hand(name, column, cuts), rel=1e-4)


def test_a_set_without_categories_has_no_head_for_requests(tokenizer):
    """Guards sentences without a request, in two forms: they are all told the tone, and nothing else."""
    torch.manual_seed(0)
    labels = Labels({"tone": ("firm", "kind")})
    model = Controlled(random_model(1, vocab=len(tokenizer), kind="llama"), labels, "token")
    data = dataset(tokenizer, model, [Reply("", "Wait there.", {"tone": "firm"}, "train")], heads_every=1)
    *_, read, ends, told = data.collate([data[0]])
    assert told.tolist() == [[0]] and list(head_losses(model, read, ends, told)) == ["tone"]


@pytest.mark.parametrize("heads", ["joint", "separate"])
def test_separate_heads_leave_the_model_as_it_is(heads, tokenizer):
    """Oracle: the gradient of the language model alone. Joint, the losses are added, and so are their gradients."""
    model = controlled(tokenizer, "embedding")
    data = dataset(tokenizer, model)
    batch = data.collate([data[i] for i in range(6)])

    def gradient(loss):
        torch.manual_seed(0)
        model.zero_grad()
        loss(batch)[0].backward()
        return model.base.model.layers[0].mlp.up_proj.weight.grad.clone(), model.heads["tone"].weight.grad
    alone, none = gradient(lambda batch: JointLoss(model, "off")((*batch[:3], *(tensor[:0] for tensor in batch[3:]))))
    found, told = gradient(JointLoss(model, heads))
    assert none is None and told.any() and torch.allclose(alone, found, atol=1e-6) == (heads == "separate")


def train(model, tokenizer, epochs, lr=0.05, **options):
    trainer = Trainer(model, dataset(tokenizer, model), dataset(tokenizer, model, heads_every=1), lr, 6, **options)
    before = trainer.validate()
    return before, trainer.train(epochs)


def test_the_trainer_of_the_notes(tokenizer, capsys):
    """Guards `Trainer(model, train, valid, lr, batch_size).train(epochs)` and `.validate()`: every part of the loss falls, and
    each is printed apart; validating leaves the model in its mode, and twice it says the same."""
    model = controlled(tokenizer).train()
    trainer = Trainer(model, dataset(tokenizer, model), dataset(tokenizer, model, heads_every=1), lr=0.02, batch_size=6)
    before = trainer.validate()
    assert model.training and before == trainer.validate()
    after = trainer.train(epochs=40)
    assert after["perplexity"] < before["perplexity"] / 4 and after["perplexity"] == pytest.approx(
        math.exp(after["language_model"]))
    for name, head in after["heads"].items():
        assert head["loss"] < before["heads"][name]["loss"] and head["right"] == 1
    assert after["validation_loss"] == pytest.approx(after["language_model"] + training.HEAD_WEIGHT * sum(
        head["loss"] for head in after["heads"].values()))
    out = capsys.readouterr().out
    assert "perplexity" in out and ", tone 0." in out and "(100.0% right)" in out


def test_heads_at_the_first_token_tell_the_majority(tokenizer):
    """Mistake of the notes: heads that read the first token of a causal model. By hand: all rows begin alike, so that one of
    two equally frequent tones is right in half of them, however long it is trained; at the last token all are."""
    _, after = train(controlled(tokenizer, pooling="first"), tokenizer, 10)
    assert after["heads"]["tone"]["right"] == after["heads"]["category"]["right"] == 0.5


@pytest.mark.parametrize(("kind", "changes"), [("none", False), ("token", True)])
def test_a_frozen_base_changes_what_it_writes_by_control_alone(kind, changes, tokenizer):
    """Mistake of the notes: a frozen base, trained with heads for its texts, writes what it has always written."""
    model = controlled(tokenizer, kind)
    model.base.requires_grad_(False)
    before, after = train(model, tokenizer, 10)
    change = before["perplexity"] - after["perplexity"]
    assert change > 5 if changes else change == pytest.approx(0, abs=1e-3)
    assert after["heads"]["tone"]["loss"] < before["heads"]["tone"]["loss"]


# --- which replies


def many(tone, count):
    return [Reply(str(i), f"{tone} {i}", {"tone": tone}, "train") for i in range(count)]


def test_of_few_replies_no_tone_is_rare():
    """By hand: of 90 firm and 10 kind ones, 12 are 6 and 6; fewer are the beginning of more; all are all of them."""
    replies = many("firm", 90) + many("kind", 10)
    few = chosen(replies, 12, 3)
    assert Counter(reply.labels["tone"] for reply in few) == {"firm": 6, "kind": 6}
    assert few[:5] == chosen(replies, 5, 3) != chosen(replies, 5, 4)
    assert sorted(chosen(replies, 1000, 3)) == sorted(replies)


def test_rare_tones_are_weighted():
    """By hand: beside 40 firm ones, 20 kind ones count once, 10 warm ones twice, and one alone REPEATS times."""
    replies = many("firm", 40) + many("kind", 20) + many("warm", 10) + many("sad", 1)
    counts = Counter(reply.labels["tone"] for reply in weighted(replies))
    assert counts == {"firm": 40, "kind": 20, "warm": 20, "sad": 4}
    assert counted(many("firm", 2)) == {"part": {"train": 2}, "tone": {"firm": 2}}


def test_replies_are_kept_for_resume(tmp_path):
    learned, held_out = [REPLIES[0], REPLIES[0]], [REPLIES[3]._replace(part="judge", reply="»я\u2028b")]
    write_rows(tmp_path / "rows", learned, held_out)
    assert read_rows(tmp_path / "rows") == (learned, [held_out[0]._replace(part="validation")])
    (tmp_path / "rows").write_text("{}\n[]")
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(tmp_path / "rows")


def test_names_are_copied_by_their_pieces(tokenizer):
    """Guards names that no reply has shown: by hand, Linden stands within a sentence in every reply, and is no token."""
    replies = [Reply("my lamp", f"We mend the lamp of Linden Road, {word} there.", {}, "") for word in ("near", "far")] * 20
    known = learn_tokenizer(replies, 400).get_vocab()
    assert "Linden" not in known and "Road" not in known and "We" in known and "Ġlamp" in known


def test_failures_are_read_once(tmp_path):
    path = tmp_path / "failures.jsonl"
    rows = [{"request": "a", "asked": {"tone": "firm"}, "text": text, "judged": {}} for text in ("x", "y")]
    path.write_text("\n".join(map(json.dumps, [*rows, {"request": "b", "asked": {}}])), "utf-8")
    assert read_failures(path) == [("a", {"tone": "firm"}), ("b", {})]


@pytest.mark.parametrize(("content", "says"), [
    (None, "there is no file"), (b"", "holds no failures"),
    (b'{"request": "a", "asked": {}}\n{"request": "a"}', "line 2 is no"), (b"[]", "line 1"),
    (b"\xff\xfe", "line 1"), (b'{"request": "a", "asked": "firm"}', "line 1")])  # fmt: skip
def test_a_file_of_something_else_is_one_line(tmp_path, content, says):
    if content is not None:
        (tmp_path / "failures").write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        read_failures(tmp_path / "failures")
    assert "\n" not in str(error.value)
