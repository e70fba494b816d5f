"""How surprised models are by replies: by real ones under right, wrong and no labels, and by written ones.

A reply that was read costs so many nats; a perplexity is e to their mean over tokens, the token that ends a reply among them.
Perplexities of two models compare only where both have one vocabulary, those of two rows under a third model always.
"""

from collections.abc import Mapping, Sequence

from data.encoding import encode_all, plain_tokenizer
from data.replies import Reply
from models.control import Controlled, Labels, asked_ids, reply_end
from models.control_folder import SETTINGS, load_controlled
from models.limits import context_of
from models.loading import Loaded, load_model
from models.places import find_model
from studies.completion_figures import drawn, interval

import numpy as np
import torch

LABELS = ("right", "wrong", "none")


class Reader:
    """A model that reads replies."""

    def __init__(self, loaded: Loaded, most: int) -> None:
        """loaded: a Controlled model and its tokenizer. most: how many tokens of a reply are read."""
        self.loaded, self.most, self.plain = loaded, most, plain_tokenizer(loaded.tokenizer)

    @torch.inference_mode()
    def surprise(self, request: str, reply: str, labels: Mapping[str, str], ended: bool = True) -> tuple[float, int]:
        """The nats of a reply behind its request, and of how many tokens; `ended`: its end is one of them, if it is reached.

        Of a text longer than the model's context its last tokens are read. Labels that the model has not are left out.
        """
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        known = {name: value for name, value in labels.items() if name in model.labels.values}
        prompt = model.prompt_ids(asked_ids(tokenizer, request), known)
        [text] = encode_all(self.plain, [reply])
        ids = [*text.ids, *([reply_end(tokenizer)] if ended else [])][: self.most]
        if not ids:  # nothing was written, and it was not ended
            return 0.0, 0
        whole, targets = [*prompt, *ids], [-100] * len(prompt) + ids
        length, device = context_of(model), next(model.parameters()).device
        read, targets = (torch.tensor([row[-length:]], device=device) for row in (whole[:-1], targets[1:]))
        loss = model(read, targets=targets, labels=model.labels.ids(known)[None].to(device)).loss
        return loss.item(), int((targets != -100).sum())

    def real(self, replies: Sequence[Reply], tones: Sequence[str]) -> list[dict]:
        """What each real reply costs with its own labels, with a wrong tone among them, and with none: by LABELS, each
        [nats, tokens]."""
        found = []
        for reply in replies:
            wrong = tones[(tones.index(reply.labels["tone"]) + 1) % len(tones)]
            labels = (reply.labels, reply.labels | {"tone": wrong}, {})
            found.append({name: self.surprise(reply.request, reply.reply, asked)
                          for name, asked in zip(LABELS, labels, strict=True)})
        return found


def open_reader(name: str, most: int, device: str = "cpu", dtype: str = "float32") -> Reader:
    """A model that reads what others wrote: a folder with control, whose labels are all dropped, or any causal model.

    Raises InputError as `load_controlled` and `load_model` do.
    """
    folder = find_model(name)
    if (folder / SETTINGS).is_file():
        return Reader(load_controlled(folder, device, dtype), most)
    loaded = load_model(name, device, dtype)
    return Reader(loaded._replace(model=Controlled(loaded.model, Labels({"tone": ("none",)}), "none").to(device)), most)


def perplexity(records: Sequence[tuple[float, int]], clusters: Sequence[str]) -> dict[str, float] | None:
    """e to the nats of all records over their tokens, {"value", "low", "high"}, drawn by clusters; None over nothing."""
    places = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    parts = np.zeros((len(places), 2))
    for record, cluster in zip(records, clusters, strict=True):
        parts[places[cluster]] += record
    if not parts[:, 1].sum():
        return None
    with np.errstate(invalid="ignore"):
        nats, tokens = (drawn(len(parts)) @ parts).T
        return interval(float(np.exp(np.divide(*parts.sum(0)))), np.exp(nats / tokens))
