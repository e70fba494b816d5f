"""What the tests of evaluations of replies share: letters, a small model with random weights, and the same as files."""

import csv

from data.replies import citizen_replies, values_of
from generator import GeneratorTransformer
from models.control import REPLY_TEMPLATE, REPLY_TOKENS, Controlled, Labels
from models.control_folder import save_control
from tests.helpers import randomise, shape

import torch

LETTERS = citizen_replies(300, seed=5)


def save_model(folder, bpe, kind="token", values=None, **options):
    """A random decoder of the project's own with control of a kind, as train_replies.py leaves it; labels as in LETTERS."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(bpe.to_str())
    tokenizer.add_special_tokens(list(REPLY_TOKENS))
    torch.manual_seed(0)
    base = GeneratorTransformer(shape(vocab_size=tokenizer.get_vocab_size(), eos_token_id=tokenizer.token_to_id("<end>"),
                                      max_position_embeddings=1500), tokenizer)  # fmt: skip
    model = randomise(Controlled(base, Labels(values or values_of(LETTERS)), kind, **options), 1)
    base.save_checkpoint(folder, torch.float32, REPLY_TEMPLATE)
    save_control(model, folder)
    return folder


def write_csv(path, replies=None):
    """Letters as a file of requests and replies."""
    columns = ("request", "reply", "tone", "category", "decision", "intent", "default_reply", "split")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for reply in replies or LETTERS:
            labels = [reply.labels[name] for name in ("tone", "category", "decision")]
            writer.writerow([reply.request, reply.reply, *labels, reply.intent, reply.default, reply.part])
    return path
