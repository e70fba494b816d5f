"""What the heads of models that write replies can tell, by the token that they read, and by how many tokens stand before it.

    python -m studies.reply_heads --models last=runs/token first=runs/first refined=runs/refined own-head=runs/own
    python -m studies.reply_heads --models token=runs/token --text replies.csv --name bitext

Of each model: how often its own heads are right on real replies of the test part, whole and after a few tokens; how often new
heads are, learned here on its hidden states as they are, from a reply's last token or from the first, at which a causal model
has seen nothing yet; how often the category is read from the request; and the perplexity of the replies, by which the ablations
that change the output, refinement and own head, are compared. Writes results/replies/heads.json.
"""

from support.errors import InputError, one_line_errors

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.encoding import encode_all
from data.replies import Reply, citizen_replies, read_replies, values_of
from models.control import REQUEST, TOLD, asked_ids
from models.control_folder import read_settings
from models.folders import is_there
from models.limits import context_of
from replier import Replier
from studies.measures import share
from studies.reply_cases import held_out
from studies.reply_surprises import LABELS, Reader, perplexity
from support.files import check_writable
from support.flags import COUNT, Parser, add_results_flag, number, some_name, some_path
from support.results import read_json, run_facts, write_json

import numpy as np
import torch

READ = (8, 16, 32, 64)  # tokens, beside the whole reply
LEARNED = 2000  # replies that new heads learn from
LETTERS = 15_000  # of the built-in writer
ROWS = 32  # replies that are read at once
SETTINGS = ("kind", "pooling", "refinement", "own_head")  # of a model's control


def measure(replier: Replier, train: Sequence[Reply], tests: Sequence[Reply], most: int) -> dict:
    """Everything about one model, of replies cut at `most` tokens: "read", "new" and "majority" by attribute, "request", and
    "perplexity" by LABELS."""
    ids = {name: reply_ids(replier, replies, most) for name, replies in (("train", train), ("test", tests))}
    states = {name: hidden_states(replier, rows) for name, rows in ids.items()}
    reader, found = Reader(replier.loaded, most), {"read": {}, "new": {}, "majority": {}}
    for attribute in (name for name in values_of(tests) if name in replier.labels.values):
        labels = [[reply.labels.get(attribute, "") for reply in replies] for replies in (train, tests)]
        found["new"][attribute] = {pooling: new_head(states["train"][pooling], labels[0], states["test"][pooling], labels[1])
                                   for pooling in ("last", "first")}
        [(common, _)] = Counter(labels[0]).most_common(1)
        found["majority"][attribute] = share(label == common for label in labels[1])
        if attribute in replier.model.heads:
            found["read"][attribute] = {
                str(length): own_head(replier, attribute, [row[:length] for row in ids["test"]], labels[1])
                for length in (*READ, most) if length <= most}  # fmt: skip
    records = reader.real(tests, values_of([*train, *tests])["tone"])
    clusters = [reply.request or str(place) for place, reply in enumerate(tests)]
    return {**found, "request": request_head(replier, tests),
            "perplexity": {name: perplexity([record[name] for record in records], clusters) for name in LABELS}}  # fmt: skip


def reply_ids(replier: Replier, replies: Sequence[Reply], most: int) -> list[list[int]]:
    """The ids of replies, each cut at `most` tokens, and to the model's context."""
    most = min(most, context_of(replier.model) - len(opening(replier)))
    return [found.ids[:most] for found in encode_all(replier.plain, [reply.reply for reply in replies])]


def opening(replier: Replier) -> list[int]:
    """What stands before a reply that is judged: no request, and no label."""
    return replier.model.prompt_ids(asked_ids(replier.tokenizer, ""), {})


@torch.inference_mode()
def hidden_states(replier: Replier, replies: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """The last hidden states (replies, hidden) of replies given as ids, at their "last" token and at the "first" of the row."""
    found, model = {"last": [], "first": []}, replier.model
    for start in range(0, len(replies), ROWS):
        rows = [torch.tensor([*opening(replier), *ids]) for ids in replies[start:start + ROWS]]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(replier.device)
        hidden = model.hidden(ids, ids.new_zeros(len(rows), len(model.labels.values)))
        found["last"].append(hidden[range(len(rows)), [len(row) - 1 for row in rows]].float().cpu())
        found["first"].append(hidden[:, 0].float().cpu())
    return {pooling: torch.cat(parts).numpy() for pooling, parts in found.items()}


def new_head(train: np.ndarray, labels: Sequence[str], test: np.ndarray, wanted: Sequence[str]) -> dict[str, float]:
    """How often a linear head that learned from states (replies, hidden) is right on others."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=10, max_iter=1000).fit(train, labels)
    return share((model.predict(test) == np.array(wanted)).tolist())


def own_head(replier: Replier, attribute: str, replies: Sequence[Sequence[int]], wanted: Sequence[str]) -> dict[str, float]:
    """How often the model's own head is right on replies given as ids."""
    got = replier.judge_ids(replies)[attribute].argmax(-1).tolist()
    return share(replier.labels.values[attribute][value] == label for value, label in zip(got, wanted, strict=True))


def request_head(replier: Replier, tests: Sequence[Reply]) -> dict[str, float] | None:
    """How often the category is read from the request; None where there is no such head, or no request."""
    asked = [reply for reply in tests if reply.request and TOLD in reply.labels]
    if REQUEST not in replier.model.heads or not asked:
        return None
    return share(replier.category_of(reply.request)[0] == reply.labels[TOLD] for reply in asked)


def training_of(folder: Path) -> dict:
    """What train_replies.py left beside a model of its settings and time; empty where it did not."""
    meta = read_json(folder / "meta.json") if is_there(folder / "meta.json") else {}
    settings = meta.get("settings", {})
    return {"seconds": meta.get("seconds"), **{name: settings.get(name) for name in ("tune", "freeze", "heads")}}


def named_folder(text: str) -> tuple[str, Path]:
    """An argparse type: NAME=FOLDER."""
    name, _, folder = text.partition("=")
    if not name.strip() or not folder.strip():
        raise argparse.ArgumentTypeError(f"must be NAME=FOLDER, as first=runs/first, not {text!r}")
    return name, Path(folder)


def main() -> None:
    with one_line_errors():
        parser = Parser(__doc__)
        parser.add_argument("--models", type=named_folder, nargs="+", required=True, metavar="NAME=FOLDER",
                            help="models that train_replies.py wrote")
        parser.add_argument("--text", type=some_path, metavar="FILE", help="as in evaluate_replies.py")
        parser.add_argument("--num-replies", type=number(COUNT), default=400, metavar="N",
                            help="real replies of the test part to read (default: %(default)s)")
        parser.add_argument("--max-tokens", type=number(COUNT), default=96, metavar="N",
                            help="where a reply is cut (default: %(default)s)")
        parser.add_argument("--name", type=some_name, default="replies", metavar="NAME",
                            help="the folder in --results (default: %(default)s)")
        add_results_flag(parser)
        args = parser.parse_args()
        path = args.results / args.name / "heads.json"
        check_writable(path.parent)
        if len(dict(args.models)) < len(args.models):
            raise InputError("two models have one name")
        settings = {name: read_settings(folder) for name, folder in args.models}
        replies = citizen_replies(LETTERS) if args.text is None else read_replies(args.text)
        train, tests = [reply for reply in replies if reply.part == "train"][:LEARNED], held_out(replies)[: args.num_replies]
        rows = {}
        for name, folder in args.models:
            replier = Replier.load(folder)
            control = {setting: settings[name][setting] for setting in SETTINGS}
            rows[name] = {"model": replier.loaded.identity, "control": control, "training": training_of(folder),
                          **measure(replier, train, tests, args.max_tokens)}
            facts = {**run_facts("cpu", "float32"), "replies": len(tests), "max_tokens": args.max_tokens}
            write_json(path, {**facts, "rows": rows})
            print(f"{name}: " + "; ".join(in_words(attribute, rows[name]) for attribute in rows[name]["new"]))
        print(f"the figures are in {path}")


def in_words(attribute: str, row: dict) -> str:
    """The accuracies of one attribute as they are told on the terminal."""
    new = ", ".join(f"new head, {pooling} token {figure['value']:.1%}" for pooling, figure in row["new"][attribute].items())
    own = ", ".join(f"{length} tokens {figure['value']:.1%}" for length, figure in row["read"].get(attribute, {}).items())
    return f"{attribute}: {f'own head after {own}; ' if own else ''}{new}, majority {row['majority'][attribute]['value']:.1%}"


if __name__ == "__main__":
    main()
