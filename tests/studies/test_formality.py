"""The forms of вы and ты: sentences of our own, each of whose forms are counted by hand."""

from studies.formality import count_forms, formality

import pytest


@pytest.mark.parametrize(("formal", "informal"), [
    ("Скажите, пожалуйста, где ваша квитанция?", "Скажи, пожалуйста, где твоя квитанция?"),
    ("Мы рады, что вы написали.", "Мы рады, что ты написал."),
    ("Не беспокойтесь, мастер придёт.", "Не беспокойся, мастер придёт."),
    ("Вернётесь через неделю — позвоните.", "Вернёшься через неделю — позвони."),
    ("ПОЗВОЛЬТЕ УТОЧНИТЬ АДРЕС", "ПОЗВОЛЬ УТОЧНИТЬ АДРЕС"),
    ("Как по-вашему, это дорого?", "Как по-твоему, это дорого?"),
    ("С вами говорит дежурный.", "С тобой говорит дежурный."),
    ("Сделайте снимок и пришлите нам.", "Сделай снимок, а мы его посмотрим."),
])  # fmt: skip
def test_the_same_sentence_said_twice(formal, informal):
    assert (formality(formal), formality(informal)) == ("formal", "informal")


@pytest.mark.parametrize(("text", "forms"), [
    ("Вы знаете, где ваш билет?", (3, 0)),
    ("Ты знаешь, где твой билет? Скажи!", (0, 4)),
    ("Ух ты, какой трамвай!", (0, 0)),
    ("В пакете лежит лишь билет, он на сайте и в интернете.", (0, 0)),
    ("Они пришли и сказали об этом.", (0, 0)),
    ("Случай в новом сарае, мой свет.", (0, 0)),
    ("", (0, 0)),
])  # fmt: skip
def test_forms_are_counted(text, forms):
    assert count_forms(text) == forms


@pytest.mark.parametrize("text", ["Заявка принята.", "Ты и вы.", "You are welcome."])
def test_neither_is_none(text):
    assert formality(text) is None
