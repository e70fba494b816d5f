"""How much a model remembers: what is counted, by hand; which messages are compared."""

from support.errors import InputError

from data.messages import part_of
from studies.remembered import reproduced, unique_messages

import pytest


def test_last_quarters_that_come_word_for_word():
    """By hand: of "a b c d" the last quarter is "d", of eight words two. A text may go on behind it, but not fall short."""
    answers = {"a b c": "d and more", "a b c x": "f g", "a b c d e f": "g h", "k l m n o p": "q"}
    messages = ["a b c d", "a b c x e", "a b c d e f g h", "k l m n o p q r"]
    assert reproduced(answers.__getitem__, messages[:1]) == {
        "1": {"messages": 1, "exact": 1}, "2": {"messages": 0, "exact": 0}, "3": {"messages": 0, "exact": 0}}  # fmt: skip
    found = reproduced(lambda context: answers.get(context, ""), messages)
    assert found["2"] == {"messages": 3, "exact": 1}


def test_messages_that_stand_in_the_file_more_than_once_do_not_count(tmp_path):
    """Else what everybody writes, "good night everyone sleep well", would look remembered."""
    lines = [f"message number {n} of many" for n in range(100)]
    (tmp_path / "m.txt").write_text("\n".join([*lines, lines[0], "Message number 1 of many!", "too short"]), "utf-8")
    parts = unique_messages(tmp_path / "m.txt", False, 1000)
    assert {*parts["train"], *parts["test"]} == {line for line in lines[2:] if part_of(line) in parts}
    assert all(part_of(message) == part for part, messages in parts.items() for message in messages)
    (tmp_path / "few.txt").write_text("one line of words\n", "utf-8")
    with pytest.raises(InputError, match="take more"):
        unique_messages(tmp_path / "few.txt", False, 10)
