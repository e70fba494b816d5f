"""A decoder-only transformer from plain torch, in the shape and weight names of Qwen2 and Llama.

Tokens become vectors; every block adds to them what attention gathers from earlier positions and what a gated
feed-forward network makes of that; the last vector, compared with every token's embedding, gives the next token's
logits. Read it from below: Transformer, Decoder, Block, Attention. What is only faster stands apart: the norm's written-out
derivative in norm.py, packed weights in packing.py, and here `attend` and `joined`.

Sources: attention, Vaswani et al. 2017, section 3.2; RMSNorm, Zhang and Sennrich 2019, equation 4; rotary positions,
Su et al. 2021, section 3.4.2; SwiGLU, Shazeer 2020, section 2; grouped-query attention, Ainslie et al. 2023, section 2.2.
"""

from support.errors import InputError

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

from models.loss import summed_loss
from models.norm import rms_norm

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

if TYPE_CHECKING:  # its import takes a second, for which --help need not wait
    from transformers.cache_utils import Cache

PART = 512  # positions that attend at a time


@dataclass
class TransformerConfig:
    """The shape of a decoder, in the fields of transformers' `Qwen2Config` and `LlamaConfig`, and `qkv_bias`."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 512  # tokens: the context
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = True
    qkv_bias: bool = True  # whether queries, keys and values have biases: in Qwen2 they do, in Llama not
    head_dim: int = 0  # 0: hidden_size / num_attention_heads
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type is int and field.name != "head_dim" and not getattr(self, field.name) > 0:
                raise InputError(f"{field.name} must be above 0, not {getattr(self, field.name)}")
        if not self.head_dim and self.hidden_size % (2 * self.num_attention_heads):
            raise InputError(f"hidden_size {self.hidden_size} is not an even multiple of "
                             f"num_attention_heads {self.num_attention_heads}")  # fmt: skip
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        if self.head_dim < 0 or self.head_dim % 2:
            raise InputError(f"head_dim must be even and above 0, not {self.head_dim}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                             f"num_key_value_heads {self.num_key_value_heads}")  # fmt: skip


def intermediate_size(hidden_size: int) -> int:
    """The feed-forward width of a new model, about 8/3 of its hidden size.

    So three matrices have as many weights as two of the usual width, four times the hidden size.
    """
    return math.ceil(hidden_size * 8 / 3 / 64) * 64


class Output(NamedTuple):
    """What a call of the model returns; `loss` only where targets were given."""

    logits: Tensor | None
    loss: Tensor | None = None


class RMSNorm(nn.Module):
    """Each vector divided by its root mean square, then scaled: x / sqrt(‖x‖² / size + eps) · weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.register_buffer("eps", torch.tensor(eps), persistent=False)  # a tensor, as addcmul wants

    def forward(self, x: Tensor) -> Tensor:  # (..., size) -> (..., size)
        return rms_norm(x, self.weight, self.eps)


class RotaryPositions(nn.Module):
    """Cosines and sines that turn pair i of a head's dimensions by position · theta^(-2i / head_dim)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        frequencies = config.rope_theta ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
        angles = torch.outer(torch.arange(config.max_position_embeddings), frequencies)  # (context, head_dim / 2)
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)  # (context, head_dim)
        self.register_buffer("sin", torch.cat((-angles.sin(), angles.sin()), dim=1), persistent=False)

    def forward(self, past: int, new: int) -> tuple[Tensor, Tensor]:  # -> twice (new, head_dim)
        return self.cos[past : past + new], self.sin[past : past + new]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: (rows, heads, new, head_dim), the pairs being dimensions i and i + head_dim / 2 as in Qwen2.

    A pair (a, b) becomes (a cos - b sin, b cos + a sin); `sin` carries the sign.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def joined(x: Tensor, *layers: nn.Linear) -> Tensor:
    """The layers' results side by side, (..., all their out), by one product, for which x is read once.

    Worth it in training: joining the weights copies them, more than a decoding step's few vectors would save.
    """
    return F.linear(x, *side_by_side(*layers))


def side_by_side(*layers: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """The weight (all their out, in) and the bias of one layer that does the work of several that read the same vectors."""
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return torch.cat([layer.weight for layer in layers]), bias


class Attention(nn.Module):
    """Causal self-attention, softmax(q kᵀ / √head_dim + mask) v, in which query heads share key and value heads."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(config.hidden_size, self.heads * config.head_dim, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * config.head_dim, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * config.head_dim, bias=config.qkv_bias)
        self.o_proj = nn.Linear(self.heads * config.head_dim, config.hidden_size, bias=False)

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, (rows * new, all their heads * head_dim); packing.py replaces this."""
        if x.requires_grad:
            return joined(x, self.q_proj, self.k_proj, self.v_proj)
        return torch.cat((self.q_proj(x), self.k_proj(x), self.v_proj(x)), dim=-1)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, masks: list[Tensor], cache: "Cache | None") -> Tensor:
        new = len(cos)
        qkv = self.project(x).view(-1, new, self.heads + 2 * self.kv_heads, self.head_dim).transpose(1, 2)
        qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=1)  # each (rows, its heads, new, head_dim)
        # Rotated in their own dtype, or autocast's 16-bit q and k would be widened here.
        q, k = rotate(qk, cos.to(qk.dtype), sin.to(qk.dtype)).split((self.heads, self.kv_heads), dim=1)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)  # (rows, kv_heads, past + new, head_dim)
        mixed = attend_in_parts(q, k, v, masks)  # (rows, heads, new, head_dim)
        return self.o_proj(mixed.transpose(1, 2).reshape(len(x), -1))


def attend_in_parts(q: Tensor, k: Tensor, v: Tensor, masks: list[Tensor]) -> Tensor:
    """`attend` for a long text, PART queries at a time: the scores of a whole one grow with the square of its length.

    masks: those of the parts, in order. A part does not see beyond its own last position, where its mask ends.
    """
    if len(masks) == 1:
        return attend(q, k, v, masks[0])
    parts = zip(q.split(PART, dim=2), masks, strict=True)
    return torch.cat([attend(part, k[:, :, : mask.shape[1]], v[:, :, : mask.shape[1]], mask) for part, mask in parts], dim=2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q kᵀ / √head_dim + mask) v, the query heads in groups that share a key and value head.

    q (rows, heads, new, head_dim), k and v (rows, kv_heads, past + new, head_dim) -> (rows, heads, new, head_dim). What
    F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True) gives for a mask (new, past + new). Here the query heads
    of a group are laid one after another, as if one head had group * new queries, and the mask is repeated for each of them,
    (group * new, past + new): fewer and larger products, which are faster.
    """
    rows, heads, new, head_dim = q.shape
    q = q.reshape(-1, len(mask), head_dim)  # (rows * kv_heads, group * new, head_dim)
    k, v = k.flatten(0, 1), v.flatten(0, 1)  # (rows * kv_heads, past + new, head_dim)
    scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=head_dim**-0.5)
    return (scores.softmax(dim=-1) @ v).view(rows, heads, new, head_dim)


def causal_masks(past: int, new: int, group: int, like: Tensor) -> list[Tensor]:
    """The causal masks of the parts of a text, PART positions each, as `attend_in_parts` takes them."""
    return [causal_mask(past + start, min(PART, new - start), group, like) for start in range(0, new, PART)]


def causal_mask(past: int, new: int, group: int, like: Tensor) -> Tensor:
    """What is added to the scores: 0, or -inf where a position would see a later one. (new, past + new) repeated `group`
    times, (group * new, past + new), as `attend` takes it; in the dtype and on the device of `like`."""
    mask = torch.full((group, new, past + new), -torch.inf, dtype=like.dtype, device=like.device)
    return mask.triu(past + 1).flatten(0, 1)


class FeedForward(nn.Module):
    """SwiGLU: one projection gates the other."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gate and what it multiplies, each (rows * new, intermediate); packing.py replaces this."""
        if x.requires_grad:
            return joined(x, self.gate_proj, self.up_proj).chunk(2, dim=-1)
        return self.gate_proj(x), self.up_proj(x)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.project(x)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    """Attention, then feed-forward, each on the normed vectors and added to them."""

    def __init__(self, config: TransformerConfig, layer: int, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, masks: list[Tensor], cache: "Cache | None") -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin, masks, cache))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Decoder(nn.Module):
    """Embedding, blocks and final norm: token ids (rows, new) to vectors (rows, new, hidden)."""

    def __init__(self, config: TransformerConfig, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i, dropout) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = RotaryPositions(config)
        self.group = config.num_attention_heads // config.num_key_value_heads  # query heads to a key and value head
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, cache: "Cache | None") -> Tensor:
        return self.read(self.embed_tokens(input_ids), cache)

    def read(self, vectors: Tensor, cache: "Cache | None") -> Tensor:
        """What `forward` makes of the tokens' vectors, (rows, new, hidden): control.py adds to them."""
        past = 0 if cache is None else cache.get_seq_length()
        new, context = vectors.shape[1], len(self.rotary.cos)
        if past + new > context:
            raise InputError(f"{past + new} tokens do not fit the context of {context}")
        cos, sin = self.rotary(past, new)
        x = self.dropout(vectors.flatten(0, 1))  # (rows * new, hidden)
        masks = causal_masks(past, new, self.group, x)
        for layer in self.layers:
            x = layer(x, cos, sin, masks, cache)
        return self.norm(x).view(vectors.shape)


class Transformer(nn.Module):
    """The decoder with its head; it is called as a causal language model of transformers is.

    `tokenizer` is set where the model was loaded from or trained with one; a checkpoint needs it. `dropout` acts in
    training only and is no part of a checkpoint.
    """

    def __init__(self, config: TransformerConfig, tokenizer: Tokenizer | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.model = Decoder(config, dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.apply(self._initialize)
        # Each of the 2 · layers additions to the stream starts smaller, so that their sum keeps its scale (GPT-2, 2.3).
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.data /= (2 * config.num_hidden_layers) ** 0.5
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def get_input_embeddings(self) -> nn.Embedding:
        """The tokens' vectors, by the name that transformers has for it."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        """The head, likewise."""
        return self.lm_head

    def _initialize(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, input_ids: Tensor, past_key_values: "Cache | None" = None, logits_to_keep: int = 0,
                targets: Tensor | None = None) -> Output:  # fmt: skip
        """Next-token logits after `input_ids` (rows, new), int64, of which no row is padded.

        past_key_values: a transformers `Cache`, extended in place; None computes from position 0.
        logits_to_keep: how many last positions get logits, (rows, kept, vocab); 0 means all.
        targets: (rows, new) int64, the token that follows each position, -100 where none counts. Then, instead of
        logits, `loss` is the cross-entropy summed over the targets that count, in nats.
        """
        hidden = self.model(input_ids, past_key_values)
        if targets is None:
            return Output(self.lm_head(hidden[:, -logits_to_keep:]))
        counted = targets != -100
        return Output(None, summed_loss(self.lm_head, hidden[counted], targets[counted]))
