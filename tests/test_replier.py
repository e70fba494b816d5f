"""Replier: what it draws, what it keeps, what it judges, and bad input; on random models with a tokenizer of our own."""

from support.errors import InputError

import math
import re
from functools import partial

from common import answer, decode
from data.replies import Reply
from generator import GeneratorTransformer
from models.control import REPLY_TEMPLATE, Controlled, Labels, asked_ids, reply_end
from models.control_folder import save_control
from models.loading import Loaded
from replier import CANDIDATES, KEPT, Replier, alike, lessons, row_generator
from strategies import choose
from task5_beam import beam_search, rank
from tests.helpers import shape
from training.reply_data import learn_tokenizer

import pytest
import torch

LABELS = Labels({"tone": ("firm", "kind"), "category": ("roads", "taxes")})
REQUESTS = ("My street is dark.", "The bill is far too high for us.", "My kerb is damp.")
WANTED = {"tone": "kind", "category": "roads"}
SHORT = {"seed": 3, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def tokenizer():
    return learn_tokenizer([Reply(request, "We are sorry, it is mended.", {}, "") for request in REQUESTS], 320)


def random_replier(tokenizer, kind="token", **options):
    """A model whose base, control and heads are random."""
    torch.manual_seed(5)
    base = GeneratorTransformer(shape(vocab_size=len(tokenizer), eos_token_id=reply_end(tokenizer), max_position_embeddings=80),
                                tokenizer.backend_tokenizer)  # fmt: skip
    model = Controlled(base, LABELS, kind, **options).eval()
    with torch.no_grad():
        model.table.weight.normal_(std=0.5)
        for head in model.heads.values():
            head.weight.normal_(std=2)
    return Replier(Loaded(model, tokenizer, frozenset(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<end>"])), {}))


@pytest.fixture(scope="module")
def replier(tokenizer):
    return random_replier(tokenizer)


def test_best_of_one_is_plain_sampling(replier):
    """Oracle: `decode` itself, with the random numbers of candidate 0."""
    one, = replier.write(REQUESTS[0], WANTED, **SHORT)
    ids = torch.tensor([replier.model.prompt_ids(asked_ids(replier.tokenizer, REQUESTS[0]), WANTED)])
    events = decode(replier.model, ids, partial(choose, temperature=0.7, top_k=0, top_p=0.95),
                    {"generators": [row_generator(3, (REQUESTS[0], WANTED), 0)]}, replier.loaded.eos_ids, 6)
    assert one.token_ids == [token for _, token, _ in events] and one.text == answer(replier.loaded, one.token_ids)
    assert one.asked == WANTED


@pytest.mark.parametrize("guidance", [1, 2.5])
@pytest.mark.parametrize("kind", ["token", "embedding", "hidden", "none"])
def test_a_text_depends_on_nothing_beside_it(kind, guidance, tokenizer):
    """Guards batches: the same texts one by one, several at once, and among other requests, of one length and of others."""
    replier = random_replier(tokenizer, kind)
    asked = [(REQUESTS[0], WANTED), (REQUESTS[1], {"tone": "firm"}), (REQUESTS[2], {}), (REQUESTS[0], {"tone": "firm"})]
    together = replier.write_many(asked, guidance=guidance, **SHORT)
    alone = [replier.write(request, labels, guidance=guidance, **SHORT)[0] for request, labels in asked]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert len({tuple(one.token_ids) for one in together}) > 1 or kind == "none"
    five = replier.write(*asked[0], num=5, guidance=guidance, **SHORT)
    assert alone[0].token_ids in [one.token_ids for one in five] and len({tuple(one.token_ids) for one in five}) > 1


def test_the_best_are_those_that_the_heads_find_likeliest(replier):
    """Oracle: `Controlled.judge` of each text by itself; of five candidates those with the highest sum, the best first."""
    five = replier.write(REQUESTS[0], WANTED, num=5, **SHORT)
    opening = replier.model.prompt_ids(asked_ids(replier.tokenizer, ""), {})

    def scores(one):
        ids = torch.tensor([[*opening, *(token for token in one.token_ids if token not in replier.loaded.eos_ids)]])
        return {name: replier.model.judge(ids, torch.tensor([ids.shape[1]]), name)[0] for name in LABELS.values}
    sums = [sum(scores(one)[name][LABELS.values[name].index(value)].item() for name, value in WANTED.items()) for one in five]
    assert sums == sorted(sums, reverse=True) and sums[0] > sums[-1]
    assert replier.write(REQUESTS[0], WANTED, num=2, candidates=5, **SHORT) == five[:2]
    for name, log_probs in scores(five[0]).items():
        assert five[0].judged[name] == LABELS.values[name][int(log_probs.argmax())]
        assert five[0].probs[name] == pytest.approx(log_probs.max().exp().item(), abs=1e-5)


def test_what_was_not_asked_does_not_choose(replier):
    """Guards any: with nothing asked, all are equal, and the first candidate is kept; any is the same as nothing."""
    first, = replier.write(REQUESTS[0], {}, **SHORT)
    assert replier.write(REQUESTS[0], {}, candidates=4, **SHORT)[0].token_ids == first.token_ids and first.asked == {}
    assert replier.write(REQUESTS[0], {"tone": "any"}, num=1, **SHORT)[0].asked == {}


def test_a_text_is_judged_as_it_was_written(replier):
    """Guards many at once, each as alone, whole or its beginning; and a text that is longer than the context."""
    one, = replier.write(REQUESTS[0], WANTED, temperature=0, max_new_tokens=12)
    told = replier.judge_ids([one.token_ids[:3], one.token_ids, one.token_ids[:7]])
    alone = [replier.judge_ids([ids])["tone"][0] for ids in (one.token_ids[:3], one.token_ids, one.token_ids[:7])]
    assert torch.allclose(told["tone"], torch.stack(alone), atol=1e-5) and set(told) == {"tone", "category"}
    verdicts = replier.judge("We are sorry, it is mended.")
    assert set(verdicts) == {"tone", "category"} and all(0.5 <= prob <= 1 for _, prob in verdicts.values())
    assert replier.judge("We are sorry. " * 200)["tone"][0] in LABELS.values["tone"], "longer than the context"


def test_the_category_of_a_request(replier, tokenizer):
    """Oracle: the softmax of the head at the request's last token. Without such a head there is none."""
    ids = torch.tensor([asked_ids(tokenizer, REQUESTS[1])])
    with torch.no_grad():
        probs = replier.model.scores(replier.model.hidden(ids), torch.tensor([ids.shape[1]]), "request")[0].softmax(-1)
    category, prob = replier.category_of(REQUESTS[1])
    assert category == LABELS.values["category"][int(probs.argmax())] and prob == pytest.approx(probs.max().item(), abs=1e-5)
    assert random_replier(tokenizer, heads=False).category_of(REQUESTS[1]) == ("", 0.0)


def test_a_model_without_heads_judges_nothing(tokenizer):
    replier = random_replier(tokenizer, heads=False)
    one, = replier.write(REQUESTS[0], WANTED, **SHORT)
    assert one.judged == one.probs == {} == replier.judge("We are sorry.")
    with pytest.raises(InputError, match="no heads that could choose"):
        replier.write(REQUESTS[0], WANTED, candidates=2, **SHORT)


@pytest.mark.parametrize("kind", ["token", "embedding"])
def test_beams(kind, tokenizer):
    """Oracle: `beam_search` with the cache of these labels; what the heads prefer comes first, of as many as are asked for."""
    replier = random_replier(tokenizer, kind)
    found = replier.write(REQUESTS[0], WANTED, num=3, num_beams=4, length_penalty=0.5, max_new_tokens=6)
    ids = torch.tensor([replier.model.prompt_ids(asked_ids(tokenizer, REQUESTS[0]), WANTED)])
    texts = beam_search(replier.model, ids, 4, replier.loaded.eos_ids, 6, cache=replier.model.new_cache([WANTED]))
    expected = [candidate.ids for _, candidate in rank(texts, 0.5)[:3]]
    assert sorted(one.token_ids for one in found) == sorted(expected)
    assert replier.write(REQUESTS[0], WANTED, num_beams=4, length_penalty=0.5, max_new_tokens=6)[0].token_ids == expected[0]


def test_greedy_has_one_reply(replier):
    one, = replier.write(REQUESTS[0], WANTED, num=3, candidates=8, temperature=0, max_new_tokens=5)
    assert one == replier.write(REQUESTS[0], WANTED, temperature=0, max_new_tokens=5, seed=9)[0]


def test_without_a_seed_others_are_drawn(replier):
    texts = {replier.write(REQUESTS[0], WANTED, max_new_tokens=12, temperature=2)[0].text for _ in range(4)}
    assert len(texts) > 1


def test_prompts_of_one_length_are_written_together():
    """By hand: three of length 2, two at a time, and one of length 1."""
    assert list(alike([[1, 2], [3], [4, 5], [6, 7]], 2)) == [[0, 2], [3], [1]]


def test_a_reply_ends_with_the_context(replier):
    """Guards control tokens, which a sliding window would lose."""
    prompt = len(replier.model.prompt_ids(asked_ids(replier.tokenizer, REQUESTS[0]), {}))
    one, = replier.write(REQUESTS[0], WANTED, seed=1, max_new_tokens=500)
    assert len(one.token_ids) <= 80 - prompt


@pytest.mark.parametrize(("how", "says"), [
    ({"labels": {"tone": "rude"}}, "there is no tone 'rude': choose from firm, kind, any"),
    ({"labels": {"mood": "firm"}}, "there is no attribute mood: choose from tone, category"),
    ({"request": "damp " * 200}, "leave no room for a reply in the model's context of 80: shorten it"),
    ({"guidance": -1}, "guidance must be"), ({"guidance": math.nan}, "guidance must be"),
    ({"candidates": 0}, "candidates must be"), ({"top_p": 0}, "top_p must be"), ({"seed": -1}, "seed must be"),
    ({"num_beams": 9999}, "num_beams"),
    ({"max_new_tokens": 0}, "max_new_tokens must be")])  # fmt: skip
def test_bad_input_is_one_line(how, says, replier):
    with pytest.raises(InputError, match=re.escape(says)) as error:
        replier.write(**({"request": REQUESTS[0], "labels": {}} | how))
    assert "\n" not in str(error.value)


def test_it_is_loaded_from_its_folder(replier, tmp_path):
    replier.model.base.save_checkpoint(tmp_path, torch.float32, REPLY_TEMPLATE)
    save_control(replier.model, tmp_path)
    loaded = Replier.load(str(tmp_path))
    assert loaded.labels == LABELS
    assert loaded.write(REQUESTS[0], WANTED, **SHORT)[0].token_ids == replier.write(REQUESTS[0], WANTED, **SHORT)[0].token_ids
    with pytest.raises(InputError, match="there is no folder"):
        Replier.load(tmp_path / "nowhere")


def test_lessons_are_hits_that_end(replier, monkeypatch):
    """Guards learning from failures: of 16 candidates to each, the best four that end and that the heads find as asked; a
    random model ends where any of sixty tokens does."""
    ends = frozenset(range(replier.model.vocab - 60, replier.model.vocab))
    ending, asked = Replier(replier.loaded._replace(eos_ids=ends)), {"tone": "firm"}
    hits = lessons(ending, [(REQUESTS[0], asked), (REQUESTS[2], asked)], seed=0)
    found = [one for request in (REQUESTS[0], REQUESTS[2]) for one in ending.write(
        request, asked, num=CANDIDATES, candidates=CANDIDATES, temperature=1.0, seed=0) if one.judged["tone"] == "firm"]
    assert len(found) > len(hits) > KEPT and {hit.reply for hit in hits} <= {one.text for one in found}
    assert all(hit.labels == asked and hit.part == "train" for hit in hits)
    monkeypatch.setattr(Replier, "write", lambda replier, *asked, **settings: [])
    with pytest.raises(InputError, match="no candidate hit what was asked"):
        lessons(replier, [(REQUESTS[0], asked)], seed=0)
