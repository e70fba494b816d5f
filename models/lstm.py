"""An LSTM language model: embedding, one or more LSTM layers, a head tied to the embedding.

Called as any causal language model here: `model(input_ids, past_key_values=memory).logits`. What it has read is a state of
one size, however long the text; `Memory` keeps it as a cache keeps keys and values, so that every decoding strategy runs on it.

Sources: the cell, Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000, as `torch.nn.LSTM` has it; tied
weights, Press and Wolf 2017; a forget bias of 1, Jozefowicz et al. 2015, section 4; dropout with one mask for all positions of
a row, Gal and Ghahramani 2016.
"""

from support.errors import InputError

from dataclasses import dataclass, fields

from models.loss import summed_loss
from models.transformer import Output

import torch
from torch import Tensor, nn

FEW = 4  # tokens that are read cell by cell in decoding


@dataclass
class LSTMConfig:
    """The shape of an LSTM language model. Its context is not limited."""

    vocab_size: int = 8192
    embedding_size: int = 256
    hidden_size: int = 512  # of a layer's output and of its cell
    num_layers: int = 1
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type is int and not getattr(self, field.name) > 0:
                raise InputError(f"{field.name} must be above 0, not {getattr(self, field.name)}")


class Memory:
    """What an LSTM has read: its state after the last token, and how many tokens that was."""

    def __init__(self) -> None:
        self.state: tuple[Tensor, Tensor] | None = None  # h and c, (layers, rows, hidden)
        self.length = 0  # tokens

    def get_seq_length(self) -> int:
        return self.length

    def crop(self, tokens: int) -> None:
        """Raises InputError: what was read before some tokens is not kept."""
        raise InputError("an LSTM's memory cannot be cut back, as a conversation needs it: complete texts with it instead, "
                         "by autocomplete.py or the tasks")

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        if self.state:
            self.state = tuple(part[:, rows] for part in self.state)


class LSTM(nn.Module):
    """The network. `dropout` acts in training only: on the embeddings, between layers, and on what the head reads."""

    def __init__(self, config: LSTMConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_size)
        self.lstm = nn.LSTM(config.embedding_size, config.hidden_size, config.num_layers, batch_first=True,
                            dropout=dropout if config.num_layers > 1 else 0.0)
        # The head is tied, so it reads vectors of the embedding's size. nn.LSTM's own proj_size, which projects within the
        # recurrence, trains at half the speed here: oneDNN does not know it.
        self.projection = nn.Linear(config.hidden_size, config.embedding_size)
        self.lm_head = nn.Linear(config.embedding_size, config.vocab_size)
        self.dropout = RowDropout(dropout)
        nn.init.normal_(self.embed_tokens.weight, std=config.embedding_size**-0.5)
        nn.init.zeros_(self.lm_head.bias)
        for name, bias in self.lstm.named_parameters():
            if name.startswith("bias"):  # the two biases of a layer are added; a cell begins by remembering
                nn.init.zeros_(bias)
                if name.startswith("bias_ih"):
                    nn.init.ones_(bias.data[config.hidden_size : 2 * config.hidden_size])
        self.lm_head.weight = self.embed_tokens.weight

    def forward(self, input_ids: Tensor, lengths: Tensor | None = None, past_key_values: Memory | None = None,
                logits_to_keep: int = 0, targets: Tensor | None = None) -> Output:  # fmt: skip
        """Next-token logits after `input_ids` (rows, new), int64.

        lengths: (rows,) int64, of rows padded on the right; None is rows without pads. An LSTM reads from left to right, so a
        pad changes nothing before it; the vectors at pads are zero, as `pad_packed_sequence` makes them.
        past_key_values: what was read before, changed in place; None is nothing. It cannot remember padded rows.
        logits_to_keep: how many last positions get logits, (rows, kept, vocab); 0 means all.
        targets: (rows, new) int64, the token that follows each position, -100 where none counts. Then, instead of logits,
        `loss` is the cross-entropy summed over the targets that count, in nats.
        """
        few = input_ids.shape[1] <= FEW and not torch.is_grad_enabled()
        read = self.few_steps if few else self.lstm
        vectors, state = read(self.dropout(self.embed_tokens(input_ids)), past_key_values and past_key_values.state)
        vectors = self.dropout(vectors)
        if past_key_values is not None:
            past_key_values.state, past_key_values.length = state, past_key_values.length + input_ids.shape[1]
        if lengths is not None:
            pads = torch.arange(input_ids.shape[1], device=input_ids.device) >= lengths[:, None]  # (rows, new)
            vectors = vectors.masked_fill(pads[:, :, None], 0)
        if targets is None:
            return Output(self.head(vectors[:, -logits_to_keep:]))
        counted = targets != -100
        return Output(None, summed_loss(self.head, vectors[counted], targets[counted]))

    def few_steps(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What `self.lstm(x, state)` answers outside of training: x (rows, new, embedding), the state h and c as in Memory.

        oneDNN, which computes nn.LSTM, lays its weights out anew at every call: three milliseconds for a token of one row,
        where the cell alone takes half a millisecond.
        """
        h, c = state or x.new_zeros(2, self.config.num_layers, len(x), self.config.hidden_size)
        vectors = []
        for inputs in x.unbind(1):
            hidden, cells = [], []
            for layer, weights in enumerate(self.lstm.all_weights):
                inputs, cell = torch.lstm_cell(inputs, (h[layer], c[layer]), *weights)
                hidden.append(inputs)
                cells.append(cell)
            h, c = torch.stack(hidden), torch.stack(cells)
            vectors.append(inputs)
        return torch.stack(vectors, 1), (h, c)

    def head(self, vectors: Tensor) -> Tensor:
        """The last layer's vectors compared with every token's embedding: (..., hidden) -> logits (..., vocab)."""
        return self.lm_head(self.projection(vectors))


class RowDropout(nn.Module):
    """Dropout that sets the same numbers of a row's vectors to zero at all its positions; in training only.

    On the CPU drawing a mask for each position took a tenth of a step.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, vectors: Tensor) -> Tensor:
        """vectors (rows, new, size), the kept numbers divided by their share so that the mean stays."""
        if not self.training or not self.share:
            return vectors
        kept = torch.rand(len(vectors), 1, vectors.shape[2], device=vectors.device) >= self.share
        return vectors * (kept / (1 - self.share)).to(vectors.dtype)


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """One step of one layer by its formulas, which `nn.LSTM` computes: the oracle of the tests, and what a reader can follow.

        i, f, o = sigmoid(W x + U h + b), each its own part of the rows;  g = tanh(W x + U h + b), the fourth part
        c' = f c + i g;  h' = o tanh(c')

    x (rows, embedding), h and c (rows, hidden); w_ih (4 hidden, embedding) and w_hh (4 hidden, hidden), the parts in the
    order i, f, g, o; bias (4 hidden,), the sum of nn.LSTM's two -> the next h and c.
    """
    i, f, g, o = (x @ w_ih.T + h @ w_hh.T + bias).chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c
