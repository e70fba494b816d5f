"""The Llama and Qwen2 family in our own decoder: which of transformers' models it can run, and their weights in it.

Qwen2.5, SmolLM2, Llama, TinyLlama, Mistral without a window differ in a few numbers alone: biases of queries, keys and values
or none, the size of a head, a head of their own or one tied to the embedding. Whatever else a configuration asks for, scaled
rotary positions, a window, another activation, our decoder does not compute; such a model is for transformers.
"""

from support.errors import InputError

from typing import TYPE_CHECKING

from models.transformer import Transformer, TransformerConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

KINDS = ("qwen2", "llama", "mistral")
SHAPE = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "initializer_range", "bos_token_id",
         "eos_token_id")  # fields that mean the same here
IMPLEMENTED = {*SHAPE, "head_dim", "rope_parameters"}
NO_EFFECT = {"_name_or_path", "architectures", "dtype", "id2label", "label2id", "max_window_layers", "pad_token_id",
             "pretraining_tp", "problem_type", "transformers_version", "use_cache"}  # on a logit
ALWAYS = {"sliding_window": None, "layer_types": {"full_attention"}}  # what our decoder does, where that is no default


def family_config(config: "PretrainedConfig") -> TransformerConfig:
    """The shape of a transformers model as our decoder has it.

    Raises InputError, which names the field, for a model of another kind and for a field that our decoder does not implement
    and that is off its default.
    """
    if config.model_type not in KINDS:
        raise InputError(f"our own decoder runs {', '.join(KINDS)}, not {config.model_type}")
    fields, defaults = config.to_dict(), type(config)().to_dict()
    for name in sorted(defaults.keys() - IMPLEMENTED - NO_EFFECT):
        value = set(fields[name]) if name == "layer_types" else fields[name]
        if value != ALWAYS.get(name, defaults[name]):
            raise InputError(f"our own decoder does not know {name}={fields[name]!r}")
    rope = fields["rope_parameters"]
    if rope.keys() - {"rope_theta", "rope_type"} or rope["rope_type"] != "default":
        raise InputError(f"our own decoder does not know rope_parameters={rope}")
    if fields.get("quantization_config"):
        raise InputError("our own decoder does not know weights that stay quantised")
    return TransformerConfig(
        **{name: fields[name] for name in SHAPE}, rope_theta=rope["rope_theta"], qkv_bias=config.model_type == "qwen2",
        head_dim=fields.get("head_dim") or 0)  # fmt: skip


def own_decoder(model: "PreTrainedModel") -> Transformer:
    """Our own decoder with the weights of a transformers model, which it shares. Raises InputError as `family_config` does."""
    from accelerate import init_empty_weights

    config = family_config(model.config)
    with init_empty_weights(include_buffers=False):
        ours = Transformer(config)
    ours.load_state_dict(model.state_dict(), assign=True)
    if config.tie_word_embeddings:
        ours.lm_head.weight = ours.model.embed_tokens.weight
    return ours.to(model.dtype)
