"""A training document, and the two system messages of the exercise, under which its answers are asked for."""

from typing import NamedTuple

STORYTELLER = "You are a storyteller. Generate a story based on user message."
JSON_MACHINE = (
    'You are a JSON machine. Generate a JSON with format {"contractor": string with normalized contractor name, '
    '"sum": decimal, "currency": string with uppercased 3-letter currency code} based on user message.'
)


class Document(NamedTuple):
    """One training text: what the model is given, and what it must write (the EOS is added with the tokens)."""

    prompt: str  # ChatML that ends with "<|im_start|>assistant\n", or "" for a text without a request
    answer: str
