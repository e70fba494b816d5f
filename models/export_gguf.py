"""A checkpoint as a GGUF file, which llama.cpp and Ollama run.

    python -m models.export_gguf checkpoint decoder.gguf

The file holds all there is: shape, weights, tokenizer, chat template, ends. Only a byte-level BPE can be written; whether
llama.cpp splits texts as its tokenizer does is settled in models/gguf_splitting.py.
"""

from support.errors import InputError, one_line_errors

import json
from pathlib import Path
from typing import TYPE_CHECKING

from models.chatml import CHAT_TEMPLATE
from models.checkpoint import load_checkpoint
from models.ends import as_ids
from models.gguf_splitting import splitting
from models.loading import open_tokenizer
from models.transformer import Transformer
from support.files import make_folder, write_aside
from support.flags import DTYPES, Parser, some_path

from tokenizers import Tokenizer
from torch import Tensor

if TYPE_CHECKING:
    from gguf import GGUFWriter


def export_gguf(folder: Path, path: Path, dtype: str = "float32") -> None:
    """Write the model of a checkpoint folder as a GGUF file, its matrices in `dtype`, its vectors in float32.

    Raises InputError where the folder cannot be read, the file cannot be written, or its tokenizer is one that llama.cpp does
    not have.
    """
    from gguf import GGUFWriter

    model, tokenizer = load_checkpoint(folder), open_tokenizer(folder)
    kind, pre = architecture(model), splitting(tokenizer.backend_tokenizer)

    def write(aside: Path) -> None:
        writer = GGUFWriter(aside, kind)
        add_shape(writer, model, folder.resolve().name, dtype)
        add_tokenizer(writer, tokenizer.backend_tokenizer, model.config.vocab_size, pre)
        for name, value in {"bos": model.config.bos_token_id, "eos": model.config.eos_token_id}.items():
            if as_ids(value):
                getattr(writer, f"add_{name}_token_id")(as_ids(value)[0])
        writer.add_chat_template(tokenizer.chat_template or CHAT_TEMPLATE)
        add_weights(writer, model, dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    make_folder(path.parent)
    write_aside(path, write)


def architecture(model: Transformer) -> str:
    """The family's member that the decoder is: a Qwen2's queries, keys and values have biases, a Llama's not.

    Raises InputError for a Qwen2 with heads of a size of their own: llama.cpp and transformers refuse the file.
    """
    config = model.config
    if config.qkv_bias and config.head_dim * config.num_attention_heads != config.hidden_size:
        raise InputError("a GGUF file cannot hold a Qwen2 whose heads together are not as wide as the model")
    return "qwen2" if config.qkv_bias else "llama"


def add_shape(writer: "GGUFWriter", model: Transformer, name: str, dtype: str) -> None:
    """The numbers of the configuration, under the names that llama.cpp has for them."""
    from gguf import LlamaFileType

    config = model.config
    writer.add_name(name)
    writer.add_file_type({"float32": LlamaFileType.ALL_F32, "float16": LlamaFileType.MOSTLY_F16,
                          "bfloat16": LlamaFileType.MOSTLY_BF16}[dtype])
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)


def add_tokenizer(writer: "GGUFWriter", tokenizer: Tokenizer, vocab_size: int, pre: str) -> None:
    """The vocabulary, a token for each row of the embedding, and the merges; `pre` names the splitting."""
    from gguf import TokenType

    added = tokenizer.get_added_tokens_decoder()
    names = [tokenizer.id_to_token(i) for i in range(vocab_size)]
    kinds = [TokenType.UNUSED if name is None else TokenType.NORMAL if i not in added else
             TokenType.CONTROL if added[i].special else TokenType.USER_DEFINED for i, name in enumerate(names)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([f"[PAD{i}]" if name is None else name for i, name in enumerate(names)])
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]])
    writer.add_add_bos_token(False)


def add_weights(writer: "GGUFWriter", model: Transformer, dtype: str) -> None:
    """The weights; a head that is tied to the embedding is left out, as in a checkpoint."""
    from gguf import MODEL_ARCH, GGMLQuantizationType, get_tensor_name_map, quantize

    kinds = {"float32": GGMLQuantizationType.F32, "float16": GGMLQuantizationType.F16, "bfloat16": GGMLQuantizationType.BF16}
    names = get_tensor_name_map(MODEL_ARCH[architecture(model).upper()], model.config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if architecture(model) == "llama" and ("q_proj" in name or "k_proj" in name):
            weight = interleaved(weight, model.config.head_dim)
        kind = kinds[dtype] if weight.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), quantize(weight.numpy(), kind), raw_dtype=kind)


def interleaved(weight: Tensor, head_dim: int) -> Tensor:
    """The rows of a projection (heads * head_dim, in), those that rotate together side by side, as llama.cpp has a Llama's.

    By hand: of a head of four rows 0 turns with 2, and 1 with 3: they come in the order 0, 2, 1, 3.
    """
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def main() -> None:
    """Write the file that the command line asks for."""
    with one_line_errors():
        parser = Parser(__doc__)
        parser.add_argument("checkpoint", type=some_path, help="the folder of a decoder: checkpoint, or a training's output")
        parser.add_argument("file", type=some_path, help="where to write, decoder.gguf say")
        parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the matrices (default: %(default)s)")
        args = parser.parse_args()
        if args.file.suffix.lower() != ".gguf":
            raise InputError(f"the file's name must end in .gguf, not {args.file.name}")
        export_gguf(args.checkpoint, args.file, args.dtype)
        print(f"{args.file}: {args.file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
