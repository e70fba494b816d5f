"""The tree of a beam search, against the search, brute force and whole forward passes; its picture as XML."""

import itertools
import sys
import xml.etree.ElementTree as ET

from studies import beam_tree
from studies.beam_tree import PENALTIES, Box, Tree, columns, draw
from studies.drawing import token_name
from task5_beam import beam_search, rank
from tests.helpers import PROMPT, brute_force_beams, random_model

import pytest
import torch

SEARCHES = [(seed, num_beams) for seed in range(4) for num_beams in (1, 2, 4)]
LIMIT = 6


def tree_of(seed, num_beams, limit=LIMIT):
    return Tree(random_model(seed, vocab=8), torch.tensor([PROMPT]), num_beams, {0}, limit)


def ids_of(node):
    return [before.token for before in node.way()[-2::-1]]


def nodes(node):
    return [node, *(below for child in node.children for below in nodes(child))]


def name(node):
    return f"<{node.token}>"


def texts(path):
    return [element.text for element in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(("seed", "num_beams"), SEARCHES)
def test_the_ends_are_the_candidates_of_the_search(seed, num_beams, prompt):
    """By hand, for two beams and EOS 0. The first token is 5 with probability 0.6 or 0 with 0.3: 0 ends at ln 0.3 = -1.204,
    and 5 lives on at ln 0.6 = -0.511. If 0 then follows 5 with probability 0.8, that ends at -0.511 - 0.223 = -0.734. Two
    have ended: the candidates are [0] at -1.204 and [5, 0] at -0.734, in this order, and no penalty of 0 or more lets the
    first one win: at 1 the scores are -1.204 and -0.734 / 2 = -0.367.
    """
    tree, found = tree_of(seed, num_beams), beam_search(random_model(seed, vocab=8), prompt, num_beams, {0}, LIMIT)
    assert [(ids_of(node), node.total, node.fate == "ended") for node in tree.ends] == [tuple(one) for one in found]
    for penalty in PENALTIES:
        winner, = (node for node, wins in tree.winners.items() if penalty in wins)
        assert ids_of(winner) == rank(found, penalty)[0][1].ids


def test_the_comparison_above_sees_both_kinds_of_end():
    trees = [tree_of(*search) for search in SEARCHES]
    assert {tree.cut_off for tree in trees} == {True, False}
    assert {node.fate for tree in trees for node in nodes(tree.root)} == {"lived", "died", "ended", "open"}


@pytest.mark.parametrize(("seed", "num_beams"), SEARCHES)
def test_what_lives_at_each_step_is_what_brute_force_keeps(seed, num_beams):
    """By hand, for two beams that stand at -0.5 and -1.0: the first offers tokens 3 and 0 (EOS) at -0.1 and -0.9, the second
    4 and 6 at -0.2 and -0.3. The pool is 3 at -0.6, 4 at -1.2, 6 at -1.3, 0 at -1.4. The first two live on, so both parents
    have children; had the first beam offered 0 at -0.1, it would have ended there, and 4 and 6 would live on: the beam
    refills from the pool.
    """
    tree, model = tree_of(seed, num_beams), random_model(seed, vocab=8)
    for step in range(1, len(tree.steps)):
        kept = brute_force_beams(model, PROMPT, num_beams, {0}, step)[1]
        if kept:  # else the search stops here
            assert [ids_of(node) for node in tree.steps[step]] == [ids for ids, _ in kept]
        if len(tree.steps[step - 1]) > 1:  # else the pool is small, and what ends leaves a gap
            assert len(tree.steps[step]) == num_beams


@pytest.mark.parametrize(("seed", "num_beams"), SEARCHES[::2])
def test_every_total_is_the_sum_over_one_forward_pass(seed, num_beams):
    """By hand: tokens of probability 0.5 and 0.25 make a total of ln 0.5 + ln 0.25 = -0.693 - 1.386 = -2.079."""
    model = random_model(seed, vocab=8)
    for node in nodes(tree_of(seed, num_beams).root)[1:]:
        ids = ids_of(node)
        with torch.no_grad():
            log_probs = model(torch.tensor([PROMPT + ids])).logits[0, len(PROMPT) - 1:-1].double().log_softmax(-1)
        assert node.total == pytest.approx(log_probs[range(len(ids)), ids].sum().item(), abs=1e-4)


def test_fates_and_the_order_of_children():
    for tree in (tree_of(*search) for search in SEARCHES):
        for node in nodes(tree.root):
            assert (node.fate == "lived") == bool(node.children)
            assert (node.fate == "ended") == (node.token == 0)
            assert (node.fate == "open") == (node in tree.steps[-1])
            totals = [child.total for child in node.children]
            assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize(("seed", "num_beams"), SEARCHES)
def test_no_box_lies_on_another_and_no_line_goes_through_a_box(seed, num_beams):
    tree = tree_of(seed, num_beams, 12)
    root = Box(tree, tree.root, 0, name)
    root.place([0] * len(tree.steps))
    boxes = root.all()
    left = columns(boxes)
    for one, other in itertools.combinations(boxes, 2):
        ends = [left[box.first] + box.width for box in (one, other)]
        assert one.y != other.y or ends[0] < left[other.first] or ends[1] < left[one.first]
    for box in boxes:
        for child in box.children:
            assert child.y >= box.y
            assert not [x for x in boxes if x.first < child.first <= x.last and box.y < x.y < child.y]
    drawn = [text for box in boxes[1:] for text in box.lines if text.startswith("<")]
    assert sorted(" ".join(drawn).split()) == sorted(name(node) for node in nodes(tree.root)[1:])


class Odd:
    """A tokenizer whose tokens are hard to write into a picture."""

    texts = ["$x$", "<&>", "$", "\\frac", "]]>", " a\n", "漢字", "x_1^2"]

    def decode(self, ids):
        return self.texts[ids[0] % len(self.texts)]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_picture_holds_the_tokens_whatever_their_text(num_beams, tmp_path):
    tree, paths = tree_of(1, num_beams), [tmp_path / "new" / "1.svg", tmp_path / "new" / "2.svg"]
    names = {node: token_name(Odd(), i) for i, node in enumerate(nodes(tree.root)[1:])}
    for path in paths:
        draw(tree, lambda node: names.get(node, "prompt"), "a title", path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    words = " ".join(texts(paths[0])).split()
    assert {"$x$", "<&>", "$"} <= set(words)
    assert all(words.count(one) >= list(names.values()).count(one) for one in names.values() if "$" not in one)
    assert [text for text in texts(paths[0]) if text.startswith("★ wins at 0.5")]


def test_the_script(model_folder, tmp_path, monkeypatch, capsys):
    flags = ["studies/beam_tree.py", "--model", str(model_folder), "--results", str(tmp_path)]
    monkeypatch.setattr(beam_tree, "LIMITS", {"json": 4, "hedgehog": 3})
    monkeypatch.setattr(sys, "argv", [*flags, "--num-beams", "2"])
    beam_tree.main()
    for prompt, limit in (("json", 4), ("hedgehog", 3)):
        title = f"Beam search: num_beams 2, prompt {prompt}, at most {limit} tokens"
        assert title in texts(tmp_path / "tiny" / f"beam_{prompt}.svg")
    for wrong in ("0", "100000"):
        monkeypatch.setattr(sys, "argv", [*flags, "--num-beams", wrong])
        with pytest.raises(SystemExit) as stop:
            beam_tree.main()
        assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
