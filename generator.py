"""GeneratorTransformer: a decoder-only transformer from plain torch, in Qwen2's shape and weight names.

    model = GeneratorTransformer.load_from_checkpoint("checkpoint")
    print(model.generate("Once upon a time", temperature=0.8, top_p=0.95))

Tokens become vectors; every block adds to them what attention gathers from earlier positions and what a gated
feed-forward network makes of that; the last vector, compared with every token's embedding, gives the next token's
logits. A checkpoint is a Hugging Face folder, so transformers opens it as a `Qwen2ForCausalLM`, and the other way.

Sources: attention, Vaswani et al. 2017, section 3.2; RMSNorm, Zhang and Sennrich 2019, equation 4; rotary positions,
Su et al. 2021, section 3.4.2; SwiGLU, Shazeer 2020, section 2; grouped-query attention, Ainslie et al. 2023, section 2.2.
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

# What a config.json says beside the fields below: that this is Qwen2's architecture, and which of its options are off.
FORMAT = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "use_sliding_window": False,
    "rope_scaling": None,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class GeneratorConfig:
    """The shape of a decoder, in the fields of transformers' `Qwen2Config`."""

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
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self):
        for field in fields(self):
            if field.type is int and not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} must be above 0, not {getattr(self, field.name)}")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(f"hidden_size {self.hidden_size} is not an even multiple of "
                             f"num_attention_heads {self.num_attention_heads}")  # fmt: skip
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                             f"num_key_value_heads {self.num_key_value_heads}")  # fmt: skip

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


class Output(NamedTuple):
    """What a call of the model returns; `loss` only where targets were given."""

    logits: Tensor | None
    loss: Tensor | None = None


class RMSNorm(nn.Module):
    """Each vector divided by its root mean square, then scaled: x / sqrt(‖x‖² / size + eps) · weight."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.register_buffer("eps", torch.tensor(eps), persistent=False)  # a tensor, as addcmul wants

    def forward(self, x: Tensor) -> Tensor:  # (..., size) -> (..., size)
        if x.requires_grad:
            return DifferentiableRMSNorm.apply(x, self.weight, self.eps)
        return normalize(x, self.eps)[0] * self.weight


def normalize(x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:  # (..., size) -> (..., size), (..., 1)
    """Each vector divided by its root mean square, and what it was multiplied by for that."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)  # squares need more than 16 bits
    scale = torch.addcmul(eps, length, length, value=1 / x.shape[-1]).rsqrt()
    return (x * scale).to(x.dtype), scale


class DifferentiableRMSNorm(torch.autograd.Function):
    """RMSNorm with its derivative written out: autograd's, operation by operation, takes twice as long.

    Vectors and their gradients are (..., size), the weight (size), the scale of each vector (..., 1).
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
        normed, scale = normalize(x, eps)
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, weight = ctx.saved_tensors
        each = gradient * normed
        along = (each @ weight)[..., None]  # what of the gradient only lengthens x changes nothing
        to_x = torch.addcmul(gradient * weight, normed, along, value=-1 / weight.shape[0]) * scale
        return to_x.to(normed.dtype), each.view(-1, each.shape[-1]).sum(dim=0), None


class RotaryPositions(nn.Module):
    """Cosines and sines that turn pair i of a head's dimensions by position · theta^(-2i / head_dim)."""

    def __init__(self, config: GeneratorConfig):
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

    def __init__(self, config: GeneratorConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(config.hidden_size, self.heads * config.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * config.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * config.head_dim)
        self.o_proj = nn.Linear(self.heads * config.head_dim, config.hidden_size, bias=False)

    def project(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, (rows * new, all their heads * head_dim); packing.py replaces this."""
        if x.requires_grad:
            return joined(x, self.q_proj, self.k_proj, self.v_proj)
        return torch.cat((self.q_proj(x), self.k_proj(x), self.v_proj(x)), dim=-1)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, cache) -> Tensor:
        new = len(cos)
        qkv = self.project(x).view(-1, new, self.heads + 2 * self.kv_heads, self.head_dim).transpose(1, 2)
        qk, v = qkv.split((self.heads + self.kv_heads, self.kv_heads), dim=1)  # each (rows, its heads, new, head_dim)
        # Rotated in their own dtype, or autocast's 16-bit q and k would be widened here.
        q, k = rotate(qk, cos.to(qk.dtype), sin.to(qk.dtype)).split((self.heads, self.kv_heads), dim=1)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)  # (rows, kv_heads, past + new, head_dim)
        # The query heads that share a key and value head lie behind one another, as so many more queries.
        q = q.reshape(-1, len(mask), self.head_dim)  # (rows * kv_heads, group * new, head_dim)
        k, v = k.flatten(0, 1), v.flatten(0, 1)  # (rows * kv_heads, past + new, head_dim)
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=self.head_dim**-0.5)
        mixed = scores.softmax(dim=-1) @ v  # (rows * kv_heads, group * new, head_dim)
        mixed = mixed.view(-1, self.heads, new, self.head_dim)
        return self.o_proj(mixed.transpose(1, 2).reshape(x.shape))


class FeedForward(nn.Module):
    """SwiGLU: one projection gates the other."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What gates and what is gated, each (rows * new, intermediate); packing.py replaces this."""
        if x.requires_grad:
            return joined(x, self.gate_proj, self.up_proj).chunk(2, dim=-1)
        return self.gate_proj(x), self.up_proj(x)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.project(x)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    """Attention, then feed-forward, each on the normed vectors and added to them."""

    def __init__(self, config: GeneratorConfig, layer: int, dropout: float):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, cache) -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin, mask, cache))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Decoder(nn.Module):
    """Embedding, blocks and final norm: token ids (rows, new) to vectors (rows, new, hidden)."""

    def __init__(self, config: GeneratorConfig, dropout: float):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i, dropout) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = RotaryPositions(config)
        self.group = config.num_attention_heads // config.num_key_value_heads  # query heads to a key and value head
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, cache) -> Tensor:
        past = 0 if cache is None else cache.get_seq_length()
        new, context = input_ids.shape[1], len(self.rotary.cos)
        if past + new > context:
            raise ValueError(f"{past + new} tokens do not fit the context of {context}")
        cos, sin = self.rotary(past, new)
        x = self.dropout(self.embed_tokens(input_ids.flatten()))  # (rows * new, hidden)
        mask = torch.full((self.group, new, past + new), -torch.inf, dtype=x.dtype, device=x.device)
        mask = mask.triu(past + 1).flatten(0, 1)  # (group * new, past + new): no position sees a later one
        for layer in self.layers:
            x = layer(x, cos, sin, mask, cache)
        return self.norm(x).view(*input_ids.shape, -1)


class GeneratorTransformer(nn.Module):
    """The decoder with its head, answering the call of a Hugging Face causal LM.

    `tokenizer` is set where the model was loaded from or trained with one; `generate` and
    `save_checkpoint` need it. `dropout` acts in training only and is no part of a checkpoint.
    """

    def __init__(self, config: GeneratorConfig, tokenizer: Tokenizer | None = None, dropout: float = 0.0):
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

    def _initialize(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, input_ids: Tensor, past_key_values=None, logits_to_keep: int = 0, targets=None) -> Output:
        """Next-token logits after `input_ids` (rows, new), int64, of which no row is padded.

        past_key_values: a transformers `DynamicCache`, extended in place; None recomputes from position 0.
        logits_to_keep: how many last positions get logits, (rows, kept, vocab); 0 means all.
        targets: (rows, new) int64, the token that follows each position, -100 where none counts. Then, instead of
        logits, `loss` is the cross-entropy summed over the targets that count, in nats.
        """
        hidden = self.model(input_ids, past_key_values)
        if targets is None:
            return Output(self.lm_head(hidden[:, -logits_to_keep:]))
        counted = targets != -100
        # In chunks, because tensors as large as the logits of a whole batch are slow to fill.
        chunks = zip(hidden[counted].split(512), targets[counted].split(512), strict=True)
        loss = sum(F.cross_entropy(self.lm_head(vectors).float(), tokens, reduction="sum") for vectors, tokens in chunks)
        return Output(None, loss)

    def generate(
        self,
        prompt: str,
        context_len: int | None = None,
        temperature: float = 1.0,
        max_out_tokens: int = 200,
        top_k: int = 0,
        top_p: float = 1.0,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        seed: int | None = None,
    ) -> str:
        """The text that continues `prompt`, up to EOS or to `max_out_tokens` tokens.

        context_len: how many last tokens each prediction sees; None, and at most, the context trained with.
        temperature: divides the logits; 0 means greedy. top_k 0 and top_p 1 keep every token.
        num_beams: above 1, beam search, its finished texts ranked by `length_penalty`.
        seed: None draws other numbers at every call. Raises ValueError for a setting that cannot be.
        A prompt that does not begin with a control token begins with BOS, as texts without a request do in training,
        where the configuration names one.
        """
        from strategies import continue_ids  # here, because the strategies' files know models, not the other way

        ids = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        begun = ids and ids[0] in self.tokenizer.get_added_tokens_decoder()
        if not begun and self.config.bos_token_id is not None:
            ids = [self.config.bos_token_id, *ids]
        continuation = continue_ids(
            self, torch.tensor([ids]), [self.config.eos_token_id],
            temperature=temperature, top_k=top_k, top_p=top_p, num_beams=num_beams, length_penalty=length_penalty,
            seed=seed, max_new_tokens=max_out_tokens, context_len=context_len,
        )  # fmt: skip
        return self.tokenizer.decode(list(continuation))

    def save_checkpoint(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes a Hugging Face model folder, the weights last and each file moved into place when it is whole.

        A folder that already holds a model of this shape stays loadable at every moment.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tokens = {"bos_token_id": self.config.bos_token_id, "eos_token_id": self.config.eos_token_id}
        texts = {
            "config.json": {**FORMAT, **asdict(self.config), "torch_dtype": str(dtype).removeprefix("torch.")},
            "generation_config.json": tokens,
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": self.config.max_position_embeddings,
                "clean_up_tokenization_spaces": False,
                "model_input_names": ["input_ids", "attention_mask"],  # or model.generate(**tokenizer(...)) can fail
                "chat_template": CHAT_TEMPLATE,
                **{name.replace("_id", ""): self.tokenizer.id_to_token(i) for name, i in tokens.items()},
            },
        }
        weights = {name: weight.to(dtype).contiguous() for name, weight in self.state_dict().items()}
        if self.config.tie_word_embeddings:
            del weights["lm_head.weight"]
        write_aside(folder / "tokenizer.json", lambda path: self.tokenizer.save(str(path)))
        for name, content in texts.items():
            write_text(folder / name, json.dumps(content, indent=2) + "\n")

        def write_weights(path: Path) -> None:
            save_file(weights, path, metadata={"format": "pt"})
            path.chmod((folder / "config.json").stat().st_mode)  # safetensors lets nobody but its owner read a file

        write_aside(folder / "model.safetensors", write_weights)

    @classmethod
    def load_from_checkpoint(cls, folder: str | Path, dropout: float = 0.0) -> "GeneratorTransformer":
        """The model of a folder that `save_checkpoint`, or transformers for a Qwen2 model, wrote; float32, in eval mode.

        Raises ValueError, in one line, where a file is missing or broken or the files do not fit each other.
        """
        folder = Path(folder)
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} is no checkpoint: it holds no {name}")
        try:
            config = read_config(json.loads((folder / "config.json").read_text("utf-8")))
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            weights = load_file(folder / "model.safetensors")
        except Exception as error:  # a broken file fails in many ways; tokenizers raises plain Exception
            raise ValueError(f"{folder} cannot be read: {error}") from None
        if tokenizer.get_vocab_size() > config.vocab_size:
            raise ValueError(f"{folder}: a tokenizer of {tokenizer.get_vocab_size()} tokens for a model of {config.vocab_size}")
        with torch.device("meta"):
            shapes = {name: weight.shape for name, weight in cls(config).state_dict().items()}
        if config.tie_word_embeddings:
            weights["lm_head.weight"] = weights.get("model.embed_tokens.weight")
        for name in sorted(shapes.keys() | weights.keys()):
            found = weights[name].shape if weights.get(name) is not None else None
            if found != shapes.get(name):
                raise ValueError(f"{folder}: weight {name} is {found}, the configuration says {shapes.get(name)}")
        model = cls(config, tokenizer, dropout)
        model.load_state_dict(weights)
        return model.eval()


def read_config(content: dict) -> GeneratorConfig:
    """The shape that a config.json holds. Raises ValueError for one whose model this decoder is not."""
    rope = content.get("rope_parameters") or {}  # where transformers 5 keeps rope_theta
    if content.get("model_type") != "qwen2" or content.get("hidden_act", "silu") != "silu":
        raise ValueError(f"not a Qwen2 model but {content.get('model_type')}, {content.get('hidden_act')}")
    if content.get("rope_scaling") or content.get("use_sliding_window") or rope.get("rope_type", "default") != "default":
        raise ValueError("scaled rotary positions and sliding windows are not supported")
    known = {field.name for field in fields(GeneratorConfig)}
    return GeneratorConfig(**{name: value for name, value in {**content, **rope}.items() if name in known})


def write_aside(path: Path, write) -> None:
    """Calls `write` with a temporary path beside `path`, and moves what it wrote into place when it is on the disk.

    Raises OSError where that fails, say for a full disk.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(aside)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except Exception as error:  # torch, safetensors and tokenizers each raise an error of their own
        raise OSError(f"cannot write {path}, is the disk full? {str(error).partition(chr(10))[0]}") from error
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_aside(path, lambda aside: aside.write_text(text, "utf-8"))
