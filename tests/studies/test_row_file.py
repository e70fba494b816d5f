"""The file of a row: what is measured is kept as it comes, and what fits no longer is set aside."""

from studies.row_file import RowFile, hash_of, read_rows

import pytest


def test_what_was_measured_is_not_measured_again(tmp_path):
    asked = []

    def measure(items):
        asked.extend(items)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return [item.upper() for item in items]

    file = RowFile(tmp_path / "row.json", {"model": 1})
    with pytest.raises(KeyboardInterrupt):
        file.fill("letters", "abcd", measure, at_once=2)
    again = RowFile(tmp_path / "row.json", {"model": 1})
    again.fill("letters", "abcd", measure, at_once=2)
    assert again.content["columns"]["letters"] == [*"ABCD"] and asked == [*"abcdcd"]


def test_a_row_of_another_model_is_set_aside(tmp_path, capsys):
    RowFile(tmp_path / "row.json", {"model": 1}).save()
    assert RowFile(tmp_path / "row.json", {"model": 2}, "reply").content == {"model": 2, "columns": {}}
    assert "of another model, of other texts or settings, or broken: kept as row.old1" in capsys.readouterr().err
    assert (tmp_path / "row.old1").exists()


def test_rows_asked_for_come_first_and_half_measured_ones_do_not_come(tmp_path):
    for name, content in (("b", {"of": 1, "last": 1}), ("a", {"of": 1, "last": 1}), ("half", {"of": 1}),
                          ("c", {"of": 2, "last": 1})):  # fmt: skip
        file = RowFile(tmp_path / f"{name}.json", content)
        file.save()
    assert list(read_rows(tmp_path, ["b"], {"of": 1}, "last")) == ["b", "a"]


def test_the_order_of_texts_does_not_tell_them_apart():
    assert hash_of(["a", "b"]) == hash_of(["b", "a"]) != hash_of(["ab"])
