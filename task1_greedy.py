"""Task 1: greedy decoding. The next token is always the most likely one.

    python task1_greedy.py
    python task1_greedy.py --prompt "A story about a brave snail" --max-new-tokens 200
    python task1_greedy.py --model qwen
"""

from common import run_task, token_by_token


def greedy(logits):
    """The most likely token of each row (the lowest id among equals): (rows, vocab) -> (rows,)."""
    return logits.argmax(dim=-1)


def choose(logits, rows):
    """The strategy as the shared loop calls it: (rows, vocab) -> (rows,)."""
    return greedy(logits)


if __name__ == "__main__":
    run_task(__doc__, [{}], token_by_token(choose))
