"""What configurations say of a model's vocabulary and context, in the words of each, and a token beyond the vocabulary."""

from support.errors import InputError

import sys

from common import checked_ids, context_of
from models.limits import check_known, vocab_size
from models.loading import Loaded
from tests.helpers import random_model, small_tokenizer

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

TEXT = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 40}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
          "patch_size": 14}  # fmt: skip
OPT = {"vocab_size": 50, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 16, "num_hidden_layers": 1,
       "num_attention_heads": 2, "max_position_embeddings": 40}  # fmt: skip
BERT = {name: value for name, value in TEXT.items() if name not in ("num_key_value_heads", "head_dim")}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.5, "rope_theta": 10000.0}


@pytest.mark.parametrize(("kind", "fields", "context"), [
    ("GPT2", {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 40}, 40),
    ("Mpt", {"vocab_size": 50, "d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 40}, 40),  # 2048 is its default
    ("OPT", OPT, 40),  # 42 positions, of which the first two are no text's
    ("Roberta", {**BERT, "is_decoder": True, "pad_token_id": 1}, 38),  # positions 2 to 39
    ("Bloom", {"vocab_size": 50, "hidden_size": 16, "n_layer": 1, "n_head": 2, "seq_length": 40}, 40),
    ("Bloom", {"vocab_size": 50, "hidden_size": 16, "n_layer": 1, "n_head": 2}, sys.maxsize),  # no positions at all
    ("Whisper", {"vocab_size": 50, "d_model": 16, "decoder_layers": 1, "encoder_layers": 1, "decoder_attention_heads": 2,
                 "encoder_attention_heads": 2, "max_target_positions": 40, "pad_token_id": 0}, 40),
    ("Gemma3", {"text_config": TEXT, "vision_config": VISION, "mm_tokens_per_image": 4, "image_token_index": 48}, 40),
    ("Llama", {**TEXT, "rope_parameters": DYNAMIC}, 100),  # scaling begins behind 40
])  # fmt: skip
def test_the_context_and_the_vocabulary(kind, fields, context):
    """Oracle: each limited model reads `context` tokens. Bug: only `max_position_embeddings` and `vocab_size` at the top of the
    configuration were known: MPT was read past its end, RoBERTa too, and a model of text and pictures had no vocabulary.

    By hand: RoBERTa has 40 positions; that of padding is 1, the first of a text 2, so 38 are left.
    """
    model = AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**fields)).eval()
    assert (context_of(model), vocab_size(model)) == (context, 50)
    assert context_of(model, context_len=7) == 7
    if context < sys.maxsize:
        with torch.no_grad():
            assert model(input_ids=torch.full((1, context), 3)).logits.isfinite().all()


def test_a_token_that_the_model_does_not_know():
    """A tokenizer with more tokens than the model has rows is refused no more; the text that needs one of them is.

    By hand: 300 tokens and CONTROLS, of which the model knows 300: [INST] is beyond.
    """
    tokenizer, model = small_tokenizer("bytes"), random_model(0, vocab=300)
    loaded = Loaded(model, tokenizer, frozenset(), {})
    assert checked_ids(loaded, "hello").shape[1] > 0
    tokenizer.chat_template = "[INST]{{ messages[-1]['content'] }}"
    with pytest.raises(InputError, match=r"'\[INST\]', token \d+ .* weights for 300 tokens") as error:
        checked_ids(loaded, "hello")
    assert "\n" not in str(error.value)
    check_known([299], model, str)
    with pytest.raises(InputError, match="'300', token 300"):
        check_known([5, 300], model, str)
