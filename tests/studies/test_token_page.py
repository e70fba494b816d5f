"""The token page: figures against plain forward passes, characters put together, and no text that becomes markup."""

from support.errors import InputError

import json
import re
import sys
from html.parser import HTMLParser

from decoding.no_repeat_ngram import ban_repeats
from models.loading import Loaded, load_model, open_tokenizer
from models.places import CHECKPOINT
from studies import token_page
from studies.token_page import TokenBytes, logits_along, text_figures, token_figures, whole_characters
from task4_nucleus import nucleus
from tests.helpers import PROMPT, Letters, random_model

import pytest
import torch

NASTY = '</script><img src=x onerror=alert(1)> <b>"\'&amp;\\ @DATA@ \x12\r\n\t\u2028\u202e Привет, 🦔!'
CONTEXT = 12


def run_of(token_ids, prompt="<|im_start|>x", **parameters):
    return {"text": "", "prompt": prompt, "parameters": parameters, "sample": 1, "token_ids": token_ids,
            "new_tokens": len(token_ids), "stop": "eos", "log_prob": -1.5, "tokens_per_second": 10.0}  # fmt: skip


@pytest.fixture(params=[0, 1, 2], ids=["qwen2", "llama", "gpt2"])
def loaded(request):
    return Loaded(random_model(request.param, vocab=26, context=CONTEXT), Letters(), frozenset([0]), {"name": "tiny"})


@pytest.mark.parametrize("parameters", [{}, {"temperature": 0.5}, {"temperature": 10.0, "top_p": 0.6},
                                        {"temperature": 0.7, "top_p": 0.01}, {"num_beams": 4, "length_penalty": 1.0},
                                        {"no_repeat_ngram_size": 1}])
def test_figures_within_the_context_and_beyond_it(loaded, parameters, monkeypatch):
    """Oracle: for every token one forward pass over the tokens in sight, and a softmax. A piece ends within the text.

    By hand: the logits ln 1, ln 2, ln 3 at T = 0.5 have the probabilities 1/14, 4/14, 9/14 = 0.0714, 0.286, 0.643. A top_p
    of 0.93 keeps 0.643 + 0.286 = 0.929 and drops the third.
    """
    by_hand = token_figures(torch.tensor([[1.0, 2.0, 3.0]]).log(), [1], {"temperature": 0.5, "top_p": 0.93})
    assert by_hand == [[1, 0.286, 2, [[2, 0.643, 0], [1, 0.286, 0], [0, 0.0714, 1]]]]
    monkeypatch.setattr(token_page, "PIECE", 6)
    ids = [5, 7, 2, 1, 9, 20, 25, 3, 3, 8, 11, 4, 6, 0]
    spans = text_figures(loaded, run_of(ids, **parameters), TokenBytes(loaded.tokenizer))
    assert [text for text, _ in spans] == [*Letters().decode(ids[:-1]), None]
    for i, (_, [[token, probability, kept, alternatives]]) in enumerate(spans):
        with torch.no_grad():
            logits = loaded.model(torch.tensor([[*PROMPT, *ids[:i]][-CONTEXT:]])).logits[0, -1]
        logits = ban_repeats(logits[None], torch.tensor([[*PROMPT, *ids[:i]]]), parameters.get("no_repeat_ngram_size", 0))[0]
        expected = (logits / parameters.get("temperature", 1.0)).softmax(-1)
        assert token == ids[i]
        assert probability == pytest.approx(expected[token].item(), rel=6e-3)
        assert [i for i, _, _ in alternatives] == expected.topk(6).indices.tolist()
        assert [p for _, p, _ in alternatives] == pytest.approx(expected.topk(6).values.tolist(), rel=6e-3)
        inside = nucleus(expected.log()[None], torch.tensor([[parameters.get("top_p", 1.0)]]).double())[0].isfinite()
        assert kept == (inside.sum() if "top_p" in parameters else None)
        assert [bool(dropped) for _, _, dropped in alternatives] == [not inside[i] for i, _, _ in alternatives]


def test_a_text_of_one_token_and_a_prompt_that_fills_the_context():
    for context in (len(PROMPT), 64):
        model = random_model(0, vocab=26, context=context)
        for ids in ([5], [5, 6]):
            logits = torch.cat(list(logits_along(model, torch.tensor([PROMPT]), ids)))
            assert logits.shape == (len(ids), 26)


@pytest.mark.parametrize("weight", [torch.nan, torch.inf])
def test_logits_that_are_not_numbers_are_refused(weight):
    """JSON has no NaN: the page would stay empty. Bug: +inf went on into the figures."""
    model = random_model(0, vocab=26)
    model.lm_head.weight.data.fill_(weight)
    with pytest.raises(InputError, match="not numbers"):
        list(logits_along(model, torch.tensor([PROMPT]), [5, 6]))


def test_what_has_no_probability_is_no_alternative():
    """Near temperature 0 all probabilities but one underflow to 0; the chosen token is shown all the same."""
    [[token, probability, kept, alternatives]] = token_figures(
        torch.tensor([[0.0, 5.0, 1.0]]), [2], {"temperature": 0.001, "top_p": 0.9})
    assert (token, probability, kept, alternatives) == (2, 0.0, 1, [[1, 1.0, 0]])


@pytest.mark.parametrize("text", [NASTY, "Ёж 🦔👨‍👩‍👧 é\u0301 \ufffd", ""])
def test_characters_split_over_tokens_are_put_together(text):
    """The shipped tokenizer has no token for a Cyrillic letter or an emoji: each is several bytes."""
    tokenizer = open_tokenizer(CHECKPOINT)
    names, ids = TokenBytes(tokenizer), tokenizer.encode(text, add_special_tokens=False)
    spans = whole_characters([names[i] for i in ids])
    assert "".join(part for part, _ in spans) == text
    assert sum(count for _, count in spans) == len(ids)
    assert all("\ufffd" not in part or "\ufffd" in text for part, _ in spans)


def test_bytes_that_are_no_character_stay_bytes():
    parts = [b"\xd0", b"\x81", b"\xf0", b"\x9f", b"a", b"", b"\xa6 b\xd0", b"\xb6"]
    assert whole_characters(parts) == [("Ё", 2), ("\udcf0", 1), ("\udc9f", 1), ("a", 1), ("", 1), ("\udca6 bж", 2)]


def test_bytes_by_their_number_and_a_dropped_first_space():
    """Tokenizers made with SentencePiece name bytes <0x..> and begin no text with a space."""
    class Pieces:
        words = ["a", "▁hedgehog", "<0xD0>"]

        def encode(self, text, **settings):
            return [0]

        def decode(self, ids, **settings):
            return "".join(self.words[i] for i in ids).replace("▁", " ").replace("<0xD0>", "\ufffd").removeprefix(" ")

        def convert_ids_to_tokens(self, token):
            return self.words[token]

    names = TokenBytes(Pieces())
    assert (names[1], names[2]) == (b" hedgehog", b"\xd0")


# ---------------------------------------------------------------------------------------------------- the whole page


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.found, self.data = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.found and self.found[-1][1].get("id") == "data":
            self.data += data


@pytest.fixture
def results(model_folder, tmp_path):
    """A folder with a greedy text that would be markup, a nucleus text, and a beam's candidates."""
    loaded = load_model(str(model_folder))
    ids = [*loaded.tokenizer.encode(NASTY, add_special_tokens=False), *loaded.eos_ids]
    beam = {**run_of(ids[:3], num_beams=1, length_penalty=1.0), "candidates": [
        {"text": NASTY, "log_prob": -1.5, "length": 3, "score": -0.5, "stop": "limit"}]}  # fmt: skip
    folder = tmp_path / "results" / "tiny"
    folder.mkdir(parents=True)
    for name, runs in {"task1_greedy": [run_of(ids, prompt=f"<|im_start|>{NASTY}")],
                       "task4_nucleus": [run_of(ids, temperature=1.0, top_p=p) for p in (0.9, 0.15)],
                       "task5_beam": [beam]}.items():  # fmt: skip
        content = {"model": loaded.identity, "command": f"python {name}.py", "runs": runs}
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return folder


@pytest.fixture
def run_page(model_folder, tmp_path, monkeypatch, capsys):
    def run():
        flags = ["--model", str(model_folder), "--results", str(tmp_path / "results")]
        monkeypatch.setattr(sys, "argv", ["studies/token_page.py", *flags])
        code = 0
        try:
            token_page.main()
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err
    return run


def test_no_text_becomes_markup(results, run_page):
    assert run_page()[0] == 0
    html = (results / "texts.html").read_text("utf-8")
    template = token_page.TEMPLATE.read_text("utf-8")
    assert html.count("</script>") == template.count("</script>")
    assert "<img" not in html and "<b>" not in html and "\u2028" not in html
    page = Tags(html)
    assert [tag for tag, _ in page.found] == [tag for tag, _ in Tags(template).found]
    assert not any({"src", "href"} & attributes.keys() for _, attributes in page.found)  # one file, no network
    assert not re.search(r"https?:|url\(|@import|innerHTML", html)

    data = json.loads(page.data)
    greedy, nucleus, beam = data["tasks"]
    ids = json.loads((results / "task1_greedy.json").read_text("utf-8"))["runs"][0]["token_ids"]
    for run in (*greedy["runs"], *nucleus["runs"]):
        assert "".join(text for text, _ in run["spans"] if text is not None) == NASTY
        assert [token[0] for _, tokens in run["spans"] for token in tokens] == ids
        assert run["spans"][-1][0] is None  # the end mark
        assert run["figures"].startswith(f"{len(ids)} tokens")
    shown = {str(i) for _, tokens in greedy["runs"][0]["spans"] for token in tokens for i in (token[0], token[3][0][0])}
    assert shown <= data["tokens"].keys()
    assert data["tokens"]["0"] == "<|im_end|>"
    assert [run["setting"] for run in nucleus["runs"]] == [f"temperature 1, top_p {p}, sample 1" for p in (0.15, 0.9)]
    assert [greedy["title"], beam["title"]] == ["Task 1: greedy", "Task 5: beam"]
    assert beam["runs"][0]["candidates"][0].startswith("score -0.5000 = -1.5000 over 3 tokens (cut off): </script>")
    assert beam["runs"][0]["spans"][-1][0] is not None  # cut off: no end mark


@pytest.mark.slow
def test_a_second_page_is_the_same(results, run_page):
    run_page()
    first = (results / "texts.html").read_bytes()
    run_page()
    assert (results / "texts.html").read_bytes() == first
    assert sorted(path.name for path in results.iterdir()) == [
        "task1_greedy.json", "task4_nucleus.json", "task5_beam.json", "texts.html"]


def test_no_results_and_those_of_other_weights_are_errors_of_one_line(results, run_page):
    content = json.loads((results / "task5_beam.json").read_text("utf-8"))
    (results / "task5_beam.json").write_text(json.dumps({**content, "model": {"name": "other"}}), "utf-8")
    code, error = run_page()
    assert code == 2 and "other weights" in error and error.count("\n") == 1
    assert not (results / "texts.html").exists()
    for path in results.iterdir():
        path.unlink()
    code, error = run_page()
    assert code == 2 and error.startswith("error: there are no texts in") and error.count("\n") == 1


def test_a_page_that_cannot_be_written_is_an_error_of_one_line(results, run_page):
    (results / "texts.html").mkdir()
    code, error = run_page()
    assert code == 2 and "cannot write" in error and error.count("\n") == 1
