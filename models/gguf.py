"""A GGUF file, the format of llama.cpp and Ollama: whether it is whole, how it is quantised, its tokenizer.

transformers reads it (`models/loading.py` opens the weights), and takes what a folder holds beside the file for the file's
own: a tokenizer.json, a generation_config.json. So it is shown an empty folder, and the file by its whole path.
"""

from support.errors import InputError, first_line

import hashlib
import io
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@contextmanager
def alone(path: Path) -> Iterator[tuple[str, str]]:
    """A folder and the `gguf_file` in it for transformers, without the file's neighbours and without a progress bar."""
    with tempfile.TemporaryDirectory() as empty, redirect_stderr(io.StringIO()):  # transformers always draws the bar
        yield empty, str(path.resolve())


def quantization(path: Path) -> str:
    """The type that most of the weights in a GGUF file are stored in: "Q4_1", "Q8_0", "F16", ...

    Raises InputError for what is no GGUF file, or not a whole one.
    """
    from gguf import GGUFReader

    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError(f"{path} is not a GGUF file")
    weights = Counter()
    try:
        for tensor in GGUFReader(path).tensors:
            weights[tensor.tensor_type.name] += int(tensor.n_elements)
        return weights.most_common(1)[0][0]
    except Exception as error:  # bytes that stand for nothing fail in many ways
        raise InputError(f"{path} is cut off or damaged ({first_line(error)}): download it again") from error


def open_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer that a GGUF file describes.

    transformers 5.23 does not know two splittings, and splits as GPT-2 does instead. `smollm` takes digits one by one: the
    empty line before "1." would be two tokens, where SmolLM2 has learned one. `superbpe` splits at numbers alone, and is what
    `models/gguf_splitting.py` gives a decoder of ours.
    """
    from tokenizers import Regex, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf import read_gguf_metadata

    with alone(path) as (empty, file):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(empty, gguf_file=file, local_files_only=True)
    backend, name = tokenizer.backend_tokenizer, read_gguf_metadata(str(path))[0].get("tokenizer.ggml.pre")
    if name == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    elif name == "superbpe":
        steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in (r"\p{N}+", r"(?=(\d{3})+(?!\d))")]
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return tokenizer


def file_hash(path: Path) -> str:
    """The beginning of a file's sha256 sum."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()[:16]
