"""Control: a causal language model whose rows have labels, a tone and a category, say, and heads that tell them back.

    labels = Labels({"tone": ("apologetic", "firm"), "category": ("roads", "taxes")})
    model = Controlled(base, labels, "token")          # base: our Transformer, or a causal LM of transformers
    wanted = {"tone": "firm"}                          # what is left out is any
    ids = model.prompt_ids(asked_ids(tokenizer, "My street is dark."), wanted)
    decode(model, torch.tensor([ids]), ..., cache=model.new_cache([wanted]))

Four kinds of control stand behind this interface. "token": a token for each label between request and reply, with an id behind
the base's vocabulary, which is read but never predicted (Keskar et al. 2019, "CTRL", section 3). "embedding": the labels'
vectors, begun at zero, added to the tokens' at every position. "hidden": the same, added to the last hidden states, which is
one constant bias on the logits, and here to show that. "none": heads alone.

A batch of replies is trained in one pass. Rows are padded on the right, with any id that the base knows; targets (rows, T) are
the input_ids shifted, and -100 for prompt, control tokens and pads; labels (rows, attributes) are as `Labels.ids` gives them, 0
where one is dropped:

    hidden = model.hidden(input_ids, labels)            # (rows, T, hidden)
    loss = model.loss(hidden, targets, labels)          # of the language model; model(input_ids, targets=…, labels=…).loss
    scores = model.scores(hidden, lengths, "tone")      # of a head at each row's token lengths - 1, for F.cross_entropy

For the heads alone: `model.scores(hidden.detach(), …)`. A head must not see the label that it tells, nor the request: it is
trained on rows whose labels are all 0 and whose request is "", as `judge` reads them. A truncated reply is a smaller
length: no position sees a later one, so that the same `hidden` serves.
"""

from support.errors import InputError

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.cache import growing_cache
from models.chatml import PLAIN_TEMPLATE, Message, chat_end, conversation_ids, template_of
from models.limits import vocab_size
from models.loss import summed_loss
from models.transformer import Output, Transformer

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

ANY = "any"  # a label that is dropped
KINDS = ("none", "token", "embedding", "hidden")
POOLINGS = ("last", "first")
REQUEST, TOLD = "request", "category"  # the head REQUEST reads from a request what TOLD the reply must have
NOISE = 0.1  # of new control tokens, as a share of the standard deviation of the base's embedding
REPLY_TOKENS = ("<request>", "<reply>", "<end>")  # special tokens of a tokenizer learned on requests and replies
REPLY_TEMPLATE = (  # its chat template
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<reply>' + message['content'] + '<end>' }}"
    "{% else %}{{ '<request>' + message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<reply>{% endif %}"
)  # fmt: skip


@dataclass(frozen=True)
class Labels:
    """Which labels a model knows: {"tone": ("apologetic", "firm")}. The id of a value is its place from 1; 0 is any."""

    values: dict[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.values or REQUEST in self.values:
            raise InputError(f"labels need an attribute, of another name than {REQUEST}")
        for attribute, values in self.values.items():
            if ANY in values or not 0 < len(values) == len(set(values)):
                raise InputError(f"the values of {attribute} must be different ones, none of them {ANY}: {', '.join(values)}")

    def ids(self, labels: Mapping[str, str]) -> Tensor:
        """The ids (attributes,) int64 of labels such as {"tone": "firm"}; an attribute that is left out, or any, is 0.

        Raises InputError, which lists what there is, for an attribute or a value that is not known.
        """
        unknown = [attribute for attribute in labels if attribute not in self.values]
        if unknown:
            raise InputError(f"there is no attribute {unknown[0]}: choose from {', '.join(self.values)}")
        return torch.tensor([self.id(attribute, labels.get(attribute, ANY)) for attribute in self.values], dtype=torch.long)

    def id(self, attribute: str, value: str) -> int:
        """The id of one value. Raises InputError, which lists what there is."""
        known = (ANY, *self.values[attribute])
        if value not in known:
            raise InputError(f"there is no {attribute} {value!r}: choose from {', '.join((*known[1:], ANY))}")
        return known.index(value)


class LabelledCache:
    """A cache whose rows have labels (rows, attributes), which follow them wherever a selection takes them."""

    def __init__(self, cache: "Cache", labels: Tensor) -> None:
        self.cache, self.labels = cache, labels

    def get_seq_length(self) -> int:
        return self.cache.get_seq_length()

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        self.cache.batch_select_indices(rows)
        self.labels = self.labels[rows]


class Controlled(nn.Module):
    """A causal language model whose rows have labels; called as every model here is. Untrained heads tell nothing.

    `heads` has a linear layer for each attribute, which tells a reply's value, and one called REQUEST, which tells from a
    request the category that its reply should have, if there is such an attribute. `refinement` and `own_head` are None but
    in the ablations of those names.
    """

    def __init__(self, base: "Transformer | PreTrainedModel", labels: Labels, kind: str, pooling: str = "last",
                 refinement: bool = False, own_head: bool = False, heads: bool = True) -> None:  # fmt: skip
        """pooling: which token the heads read; "first" is for the ablation. refinement: a correction h + W h of the last hidden
        states, W begun at zero. own_head: an output layer beside the base's, begun as its copy. heads: whether there are any.

        Raises InputError for a kind or pooling that there is not.
        """
        super().__init__()
        for value, known in ((kind, KINDS), (pooling, POOLINGS)):
            if value not in known:
                raise InputError(f"there is no {value!r} control: choose from {', '.join(known)}")
        self.base, self.config, self.labels, self.kind, self.pooling = base, base.config, labels, kind, pooling
        self.vocab = vocab_size(base)
        weight = base.get_input_embeddings().weight.detach().float()
        sizes, size = torch.tensor([1 + len(values) for values in labels.values.values()]), weight.shape[1]
        self.register_buffer("starts", sizes.cumsum(0) - sizes, persistent=False)  # of each attribute in the table
        self.register_buffer("attributes", torch.arange(len(sizes)).repeat_interleave(sizes), persistent=False)
        self.table = nn.Embedding(len(self.attributes), size)  # a vector for every value and any
        nn.init.zeros_(self.table.weight)
        if kind == "token":
            self.table.weight.data += weight.mean(0) + NOISE * weight.std() * torch.randn(self.table.weight.shape)
        self.table.requires_grad_(kind != "none")
        told = {REQUEST: labels.values[TOLD]} if TOLD in labels.values else {}
        read = labels.values | told if heads else {}
        self.heads = nn.ModuleDict({name: nn.Linear(size, len(values)) for name, values in read.items()})
        self.refinement = nn.Linear(size, size, bias=False) if refinement else None
        if refinement:
            nn.init.zeros_(self.refinement.weight)
        head = base.get_output_embeddings()
        self.own_head = nn.Linear(size, self.vocab, bias=head.bias is not None) if own_head else None
        if own_head:
            self.own_head.load_state_dict(head.state_dict())

    @property
    def lm_head(self) -> nn.Module:
        """The output layer in use: hidden states (..., hidden) to logits (..., vocab)."""
        return self.base.get_output_embeddings() if self.own_head is None else self.own_head

    # -------------------------------------------------------------------------------------------------- labels and ids

    def prompt_ids(self, request: list[int], labels: Mapping[str, str]) -> list[int]:
        """The ids of a request, from `asked_ids`, and of the control tokens behind it, if there are any; the reply follows.

        For all labels they are equally many. Raises InputError as `Labels.ids` does.
        """
        ids = self.labels.ids(labels)
        return [*request, *(self.vocab + self.starts.cpu() + ids).tolist()] if self.kind == "token" else list(request)

    def new_cache(self, labels: Sequence[Mapping[str, str]]) -> "Cache | LabelledCache":
        """An empty cache for as many rows as there are labels; needed for the kinds whose labels do not stand in the text.

        It holds as long as the text fits the model's context: whoever decodes limits the tokens to that.
        Raises InputError as `Labels.ids` does.
        """
        ids = torch.stack([self.labels.ids(row) for row in labels])
        cache = growing_cache(self.config)
        return LabelledCache(cache, ids.to(self.starts.device)) if self.kind in ("embedding", "hidden") else cache

    def relabelled(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """Ids (rows, T) in which every control token is that of its row's label, labels (rows, attributes)."""
        places = input_ids - self.vocab  # in the table; negative for text
        attributes = self.attributes[places.clamp(min=0)]
        return (self.vocab + self.starts[attributes] + labels.gather(1, attributes)).where(places >= 0, input_ids)

    def unlabelled(self, input_ids: Tensor) -> Tensor:
        """Ids (rows, T) in which every control token is that of any."""
        return self.relabelled(input_ids, self.starts.new_zeros(len(input_ids), len(self.starts)))

    def labels_of(self, labels: Tensor | None, cache: "Cache | LabelledCache | None") -> Tensor | None:
        """The labels of the rows: those given, or the cache's. Raises InputError where a kind that needs them has none."""
        if labels is None and isinstance(cache, LabelledCache):
            return cache.labels
        if labels is None and self.kind in ("embedding", "hidden"):
            raise InputError("the labels of the rows are lost: they stand in the cache, which a text longer than the model's "
                             "context does without; lower --max-new-tokens")
        return labels

    def vectors(self, labels: Tensor) -> Tensor:
        """The sum of the labels' vectors, (rows, attributes) -> (rows, 1, hidden); that of any is zero, and stays so."""
        return (self.table(labels + self.starts) * (labels > 0)[..., None]).sum(1, keepdim=True)

    # ------------------------------------------------------------------------------------------------- the language model

    def hidden(self, input_ids: Tensor, labels: Tensor | None = None,
               cache: "Cache | LabelledCache | None" = None) -> Tensor:  # fmt: skip
        """The base's last hidden states (rows, new, hidden), behind its final norm, of input_ids (rows, new) int64.

        labels: (rows, attributes) int64; control tokens among the ids are replaced by theirs. None: the ids as they stand, and
        the labels of the cache, which is extended in place.
        """
        labels = self.labels_of(labels, cache)
        if labels is not None and self.kind == "token":
            input_ids = self.relabelled(input_ids, labels)
        x = self.embed(input_ids)
        if self.kind == "embedding":
            x = x + self.vectors(labels).to(x.dtype)
        cache = cache.cache if isinstance(cache, LabelledCache) else cache
        if isinstance(self.base, Transformer):
            return self.base.model.read(x, cache)
        decoder = self.base.get_decoder()
        return decoder(inputs_embeds=x, past_key_values=cache, use_cache=cache is not None).last_hidden_state

    def embed(self, input_ids: Tensor) -> Tensor:
        """The vectors of tokens, of which some may be control tokens: (rows, new) -> (rows, new, hidden)."""
        embedding = self.base.get_input_embeddings()
        if self.kind != "token":
            return embedding(input_ids)
        x, places = embedding(input_ids.clamp(max=self.vocab - 1)), input_ids - self.vocab
        return self.table(places.clamp(min=0)).to(x.dtype).where((places >= 0)[..., None], x)

    def before_head(self, hidden: Tensor, labels: Tensor | None) -> Tensor:
        """What the output layer reads of hidden states (rows, new, hidden): the same, but for two of the ablations."""
        if self.kind == "hidden":
            hidden = hidden + self.vectors(labels).to(hidden.dtype)
        return hidden if self.refinement is None else hidden + self.refinement(hidden)

    def loss(self, hidden: Tensor, targets: Tensor, labels: Tensor | None = None) -> Tensor:
        """The cross-entropy of what `hidden` answered summed over the targets (rows, new) that are not -100, in nats."""
        counted = targets != -100
        return summed_loss(self.lm_head, self.before_head(hidden, labels)[counted], targets[counted])

    def forward(self, input_ids: Tensor, past_key_values: "Cache | LabelledCache | None" = None, logits_to_keep: int = 0,
                targets: Tensor | None = None, labels: Tensor | None = None) -> Output:  # fmt: skip
        """Next-token logits over the base's vocabulary, (rows, kept, vocab), or with targets their summed `loss`.

        input_ids, targets (rows, new) and labels (rows, attributes) as for `hidden` and `loss`; logits_to_keep: how many last
        positions get logits, 0 is all. Raises InputError for kinds whose labels neither `labels` nor the cache tells.
        """
        labels = self.labels_of(labels, past_key_values)
        hidden = self.hidden(input_ids, labels, past_key_values)
        if targets is not None:
            return Output(None, self.loss(hidden, targets, labels))
        return Output(self.lm_head(self.before_head(hidden[:, -logits_to_keep:], labels)))

    # ---------------------------------------------------------------------------------------------------------- the heads

    def scores(self, hidden: Tensor, lengths: Tensor, head: str) -> Tensor:
        """A head's logits (rows, values) of the first `lengths` (rows,) tokens of each row of `hidden`.

        head: an attribute, or REQUEST. Value number i is the label id i + 1. The token read is the last of these, or in the
        ablation the first.
        """
        rows = torch.arange(len(hidden), device=hidden.device)
        return self.heads[head](hidden[rows, lengths - 1] if self.pooling == "last" else hidden[:, 0])

    @torch.no_grad()
    def judge(self, input_ids: Tensor, lengths: Tensor, head: str) -> Tensor:
        """A head's log-probabilities (rows, values), float32, of rows padded on the right, whatever their labels are.

        input_ids (rows, T), lengths (rows,) int64. For an attribute a row is `prompt_ids(asked_ids(tokenizer, ""), {})` and the
        reply, whole or its beginning: not the request, which a head would judge in its place. For REQUEST it is
        `asked_ids(tokenizer, request)`.
        """
        any_label = self.starts.new_zeros(len(input_ids), len(self.starts))
        return self.scores(self.hidden(input_ids, any_label), lengths, head).float().log_softmax(dim=-1)


# ------------------------------------------------------------------------------------------------------ requests as ids


def asked_ids(tokenizer: "PreTrainedTokenizerBase", request: str) -> list[int]:
    """The ids of a request up to where its reply begins, by the chat template; for a base model an empty line is between.

    Control tokens that a user types are ordinary characters. Raises InputError as `conversation_ids` does.
    """
    template = template_of(tokenizer)
    content = f"{request}\n\n" if template == PLAIN_TEMPLATE else request
    return conversation_ids(tokenizer, [Message("user", content)], template)


def reply_end(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The id that ends a reply: the chat template's, or the tokenizer's EOS. Raises InputError where there is neither."""
    end = chat_end(tokenizer)
    end = tokenizer.eos_token_id if end is None else end
    if end is None:
        raise InputError("the base's tokenizer has no token that ends a text: choose another --base")
    return end
