"""Task 1: greedy decoding. The next token is always the most likely one.

    python task1_greedy.py
    python task1_greedy.py --prompt "A story about a brave snail" --max-new-tokens 200
    python task1_greedy.py --model qwen

The loop around it, feed, choose, append, until EOS or 1000 tokens, is `write_one` in common.py.
"""

from common import run_task, token_by_token

from torch import Tensor


def greedy(logits: Tensor) -> Tensor:
    """The most likely token of each row (the lowest id among equals): (rows, vocab) -> (rows,)."""
    return logits.argmax(dim=-1)


if __name__ == "__main__":
    run_task(__doc__, token_by_token(greedy))
