"""evaluate_generator.py: what counts as a kept hero and a repeated sentence, and what follows from the texts."""

import evaluate_generator
from data.corpus.judging import keeps_hero
from data.corpus.stories import Hero
from evaluate_generator import most_repeated, summarize


def test_a_hero_is_kept_only_as_whole_words_at_both_ends():
    """"share" is no hare and "Time" is no Tim: such texts once counted as kept."""
    hero = Hero("Tim", "hare", "shy", "he")
    assert keeps_hero("Tim the hare ran. He ran and ran, all day long. So Tim the hare won.", hero)
    assert not keeps_hero("Time to share, it said. He ran and ran. Time to share.", hero)
    assert not keeps_hero("Tim the hare ran. He ran and ran and ran and ran. Then came Tom.", hero)


def test_repeats_are_counted_by_sentence():
    assert most_repeated('No. "Yes." No. Oh! No.') == 3
    assert most_repeated("") == 0


def test_the_summary_follows_from_the_rows():
    transfers = [{"exact": True}, {"exact": False}]
    story = {"ended": True, "kept": True, "first_sentence": "A.", "most_repeated": 1, "text": "A. B."}
    summary = summarize(transfers, [story, {**story, "kept": False, "first_sentence": "C."}])
    assert (summary["transfers_exact"], summary["stories_keeping_name_and_animal"]) == (0.5, 0.5)
    assert (summary["distinct_first_sentences"], summary["median_words"]) == (2, 2)


def test_an_empty_answer_is_a_row_like_any_other(monkeypatch):
    """A model that ended one text at once once broke the whole evaluation."""
    monkeypatch.setattr(evaluate_generator, "respond", lambda *_, **__: ("", True))
    (story,) = evaluate_generator.evaluate_stories(None, 1)
    assert story["first_sentence"] == "" and not story["kept"]
