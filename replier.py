"""Replier: replies with a wanted tone and category, written by a controlled model and chosen by its heads.

    replier = Replier.load("checkpoint_replies")
    best, = replier.write("My street has had no light for a week", {"tone": "apologetic"}, candidates=8, guidance=2)
    print(best.text, best.judged, best.probs)

The network is models/control.py, guidance is decoding/guidance.py; here they meet the strategies.
"""

from support.errors import InputError

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from common import answer, decode
from data.encoding import encode_all, plain_tokenizer
from data.replies import Reply
from decoding.guidance import Guided
from models.control import ANY, REQUEST, TOLD, Labels, asked_ids
from models.control_folder import load_controlled
from models.limits import check_known, context_of
from models.loading import Loaded
from strategies import choose
from support.flags import check_settings
from task5_beam import beam_search, check_beams, rank

import torch
from torch import Tensor, nn

CANDIDATES, KEPT = 16, 4  # replies to a logged failure: written, and learned at most
ROWS = 64  # texts at most that are written, or judged, together
Asked = tuple[str, Mapping[str, str]]  # a request and the labels that its reply is to have


class Written(NamedTuple):
    """A reply: its text, its ids with the end, the labels asked for, and what the heads say of it, with their probabilities.

    Without heads nothing is judged.
    """

    text: str
    token_ids: list[int]
    asked: dict[str, str]
    judged: dict[str, str]
    probs: dict[str, float]


class Replier:
    """A controlled model, ready to write."""

    def __init__(self, loaded: Loaded) -> None:
        """loaded: a Controlled model with its tokenizer and what ends a reply."""
        self.loaded, self.model, self.tokenizer = loaded, loaded.model, loaded.tokenizer
        self.plain = plain_tokenizer(loaded.tokenizer)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu", dtype: str = "float32", base: str | None = None) -> Self:
        """The model of a folder that train_replies.py wrote; base: where its base is now, if it is not in the folder.

        Raises InputError as `load_controlled` does.
        """
        return cls(load_controlled(Path(folder), device, dtype, base))

    @property
    def labels(self) -> Labels:
        """Which labels there are."""
        return self.model.labels

    # ------------------------------------------------------------------------------------------------------- judging

    def category_of(self, request: str) -> tuple[str, float]:
        """What the reply to a request is about, as the head that reads requests says, and its probability.

        ("", 0.0) where the model has no such head. Raises InputError for a request that does not fit, or cannot be read.
        """
        if REQUEST not in self.model.heads:
            return "", 0.0
        ids = torch.tensor([self.asked(request)], device=self.device)
        log_probs = self.model.judge(ids, torch.tensor([ids.shape[1]], device=self.device), REQUEST)[0]
        return self.labels.values[TOLD][int(log_probs.argmax())], log_probs.max().exp().item()

    def judge(self, text: str) -> dict[str, tuple[str, float]]:
        """Of each attribute the value that its head reads from a reply, whole or its beginning, and its probability."""
        log_probs = self.judge_ids([encode_all(self.plain, [text])[0].ids])
        return {attribute: self.verdict(attribute, rows[0]) for attribute, rows in log_probs.items()}

    @torch.inference_mode()
    def judge_ids(self, replies: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Of each attribute the log-probabilities (replies, values) of its head, on the CPU, after replies given as ids."""
        found, opening = defaultdict(list), self.model.prompt_ids(asked_ids(self.tokenizer, ""), {})
        for start in range(0, len(replies), ROWS):
            rows = [torch.tensor([*opening, *ids]) for ids in replies[start:start + ROWS]]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[:, :context_of(self.model)].to(self.device)
            lengths = torch.tensor([len(row) for row in rows], device=self.device).clamp(max=ids.shape[1])
            hidden = self.model.hidden(ids, ids.new_zeros(len(rows), len(self.labels.values)))
            for attribute in self.model.heads.keys() - {REQUEST}:
                found[attribute].append(self.model.scores(hidden, lengths, attribute).float().log_softmax(-1).cpu())
        return {attribute: torch.cat(found[attribute]) for attribute in self.labels.values if attribute in found}

    def verdict(self, attribute: str, log_probs: Tensor) -> tuple[str, float]:
        """The likeliest value of one reply's log-probabilities (values,), and its probability."""
        return self.labels.values[attribute][int(log_probs.argmax())], log_probs.max().exp().item()

    # ------------------------------------------------------------------------------------------------------- writing

    def write(self, request: str, labels: Mapping[str, str], *, num: int = 1, candidates: int = 1, **settings) -> list[Written]:
        """`num` replies to one request, the best first, of max(num, candidates) that are written.

        The best are those of which the heads find the asked labels likeliest. settings: as those of `write_many`. Where nothing
        is drawn (temperature 0), there is one reply; a beam search has at most as many as it finishes.
        Raises InputError as `write_many` does.
        """
        return self.write_best([(request, labels)], num, candidates, **settings)[0]

    def write_many(self, requests: Sequence[Asked], *, candidates: int = 1, **settings) -> list[Written]:
        """The best reply to each of several requests, in their order; those of one length are written together.

        settings: guidance (1: the model as its labels make it; 0: as without; more: over-guided), seed, temperature, top_k,
        top_p, num_beams, length_penalty, max_new_tokens and no_repeat_ngram_size, as everywhere. What is drawn for a candidate
        depends on the seed, the request, the labels and its number alone; without a seed other numbers are drawn at each call.
        More than one beam is a beam search, which draws nothing and reads no temperature, top_k or top_p.
        Raises InputError, a ValueError, for an unknown label, a setting out of its range, a request that does not fit, and for
        several candidates where there are no heads to choose among them.
        """
        return [best[0] for best in self.write_best(requests, 1, candidates, **settings)]

    def write_best(self, requests: Sequence[Asked], num: int, candidates: int, *, guidance: float = 1.0,
                   seed: int | None = None, temperature: float = 0.7, top_k: int = 0, top_p: float = 0.95, num_beams: int = 1,
                   length_penalty: float = 1.0, max_new_tokens: int = 160,
                   no_repeat_ngram_size: int = 0) -> list[list[Written]]:  # fmt: skip
        """The `num` best replies to each request: see `write` and `write_many`."""
        check_settings(guidance=guidance, candidates=candidates, temperature=temperature, top_k=top_k, top_p=top_p,
                       num_beams=num_beams, length_penalty=length_penalty, max_new_tokens=max_new_tokens,
                       no_repeat_ngram_size=no_repeat_ngram_size, **({} if seed is None else {"seed": seed}))
        check_beams(self.model, num_beams)
        if candidates > 1 and not self.model.heads:
            raise InputError("this model has no heads that could choose among candidates: ask for one")
        model = self.model if guidance == 1 else Guided(self.model, guidance)
        most = max(num, candidates)
        if num_beams > 1:
            rows, write = ROWS, partial(self.searched, model, most, num_beams, length_penalty, no_repeat_ngram_size)
        else:
            rows = 1 if temperature == 0 else most
            strategy = partial(choose, temperature=temperature, top_k=top_k, top_p=top_p)
            write = partial(self.drawn, model, rows, strategy, seed, no_repeat_ngram_size)
        prompts, texts = [self.model.prompt_ids(self.asked(request), labels) for request, labels in requests], {}
        for part in alike(prompts, max(1, ROWS // rows)):
            ids = torch.tensor([prompts[i] for i in part])
            limit = min(max_new_tokens, context_of(self.model) - ids.shape[1])
            texts |= zip(part, write([requests[i] for i in part], ids, limit), strict=True)
        return self.ranked([(labels, texts[i]) for i, (_, labels) in enumerate(requests)], num)

    def drawn(self, model: nn.Module, rows: int, strategy: Callable[..., Tensor], seed: int | None, no_repeat: int,
              requests: list[Asked], ids: Tensor, limit: int) -> list[list[list[int]]]:  # fmt: skip
        """Of each request, whose prompt is a row of ids, the ids of `rows` texts that a strategy writes."""
        generators = [row_generator(seed, asked, number) for asked in requests for number in range(rows)]
        written, cache = [[] for _ in generators], model.new_cache([labels for _, labels in requests])
        for row, token, _ in decode(model, ids, strategy, {"generators": generators}, self.loaded.eos_ids, limit, rows,
                                    cache=cache, no_repeat_ngram_size=no_repeat):  # fmt: skip
            written[row].append(token)
        return [written[start:start + rows] for start in range(0, len(written), rows)]

    def searched(self, model: nn.Module, most: int, num_beams: int, length_penalty: float, no_repeat: int,
                 requests: list[Asked], ids: Tensor, limit: int) -> list[list[list[int]]]:  # fmt: skip
        """The same by one beam search for each request: at most `most` of the texts that it finishes, the best first."""
        found = (beam_search(model, prompt[None], num_beams, self.loaded.eos_ids, limit, cache=model.new_cache([labels]),
                             no_repeat_ngram_size=no_repeat) for prompt, (_, labels) in zip(ids, requests, strict=True))
        return [[candidate.ids for _, candidate in rank(finished, length_penalty)[:most]] for finished in found]

    def ranked(self, written: list[tuple[Mapping[str, str], list[list[int]]]], num: int) -> list[list[Written]]:
        """Of each request's texts, given as ids, the `num` best for the labels it was asked with."""
        flat = [ids for _, texts in written for ids in texts]
        log_probs = self.judge_ids([[token for token in ids if token not in self.loaded.eos_ids] for ids in flat])
        best, start = [], 0
        for labels, texts in written:
            asked = {attribute: value for attribute, value in labels.items() if value != ANY}
            scores = torch.zeros(len(texts))
            for attribute, found in log_probs.items():
                if attribute in asked:
                    scores += found[start:start + len(texts), self.labels.id(attribute, asked[attribute]) - 1]
            order = scores.argsort(descending=True, stable=True)[:num].tolist()
            best.append([self.told(texts[i], asked, log_probs, start + i) for i in order])
            start += len(texts)
        return best

    def told(self, ids: list[int], asked: dict[str, str], log_probs: dict[str, Tensor], row: int) -> Written:
        """A text with what the heads say of it in this row of their log-probabilities."""
        verdicts = {attribute: self.verdict(attribute, found[row]) for attribute, found in log_probs.items()}
        return Written(answer(self.loaded, ids), ids, asked, {name: value for name, (value, _) in verdicts.items()},
                       {name: prob for name, (_, prob) in verdicts.items()})

    @property
    def device(self) -> torch.device:
        return self.model.starts.device

    def asked(self, request: str) -> list[int]:
        """The ids of a request. Raises InputError where it leaves the reply no room, or the model does not know a token."""
        ids, context = asked_ids(self.tokenizer, request), context_of(self.model)
        check_known(ids, self.model.base, self.tokenizer.convert_ids_to_tokens)
        if len(self.model.prompt_ids(ids, {})) >= context:
            raise InputError(f"the request has {len(ids)} tokens, which leave no room for a reply in the model's context of "
                             f"{context}: shorten it")
        return ids


def lessons(replier: Replier, failures: Iterable[Asked], seed: int) -> list[Reply]:
    """Replies for a model to learn from, which it has written itself where it once missed.

    To each request CANDIDATES are written; of those that end and that the heads find to be as asked, the best KEPT are taken.
    Raises InputError where there are none.
    """
    hits = []
    for request, asked in failures:
        found = replier.write(request, asked, num=CANDIDATES, candidates=CANDIDATES, seed=seed, temperature=1.0)
        right = [one for one in found
                 if one.asked.items() <= one.judged.items() and one.token_ids[-1] in replier.loaded.eos_ids]
        hits += [Reply(request, text, dict(asked), "train") for text in list(dict.fromkeys(one.text for one in right))[:KEPT]]
    if not hits:
        raise InputError("no candidate hit what was asked, so there is nothing to learn: train on replies with these labels")
    return hits


def alike(prompts: list[list[int]], most: int) -> Iterator[list[int]]:
    """The numbers of prompts of one length, at most so many together."""
    members = defaultdict(list)
    for i, prompt in enumerate(prompts):
        members[len(prompt)].append(i)
    for same in members.values():
        yield from (same[start:start + most] for start in range(0, len(same), most))


def row_generator(seed: int | None, asked: Asked, number: int) -> torch.Generator:
    """The random numbers of a candidate, by the seed, its request and labels and its number; without a seed, new ones."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
        return generator
    identity = json.dumps([seed, asked[0], sorted(asked[1].items()), number])
    return generator.manual_seed(int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big"))
