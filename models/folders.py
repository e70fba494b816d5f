"""Whether a folder holds a model that can be opened: what is missing, broken or of another kind, each in one line.

transformers finds most of it too, but says it in words of its own, of which many tell nothing to do; and it opens some: an
empty tokenizer where there is none, an adapter for a model, an encoder for a decoder.
"""

from support.errors import InputError

import json
import re
import struct
from pathlib import Path

from models.lstm_folder import is_lstm

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
OTHER_FORMATS = {"ONNX": "*.onnx", "OpenVINO": "openvino_model.xml", "TensorFlow": "*.h5", "Flax": "*.msgpack"}
NO_DECODER = r"For(MaskedLM|PreTraining|SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice)$"


def check_folder(folder: Path) -> None:
    """Raises InputError, in one line that says what to do, for a folder that holds no causal language model."""
    if (folder / "adapter_config.json").exists():  # transformers would open the adapter's base in its place
        raise InputError(f"{folder} holds an adapter: use --adapter {folder}, or move adapter_config.json away")
    if not is_there(folder / "config.json"):
        raise InputError(f"{folder} holds no config.json: " + elsewhere(folder))
    if not is_lstm(folder):
        check_kind(folder, read_object(folder / "config.json"))
    if is_there(folder / "generation_config.json"):
        read_object(folder / "generation_config.json")
    if is_there(folder / "chat_template.jinja"):
        check_whole(folder / "chat_template.jinja")
    for path in weight_files(folder):
        check_safetensors(path)
    check_tokenizer(folder)


def elsewhere(folder: Path) -> str:
    """What to use in place of a folder without a config.json: a model's folder below it, or a GGUF file in it."""
    below = ("*/config.json", "*/*/config.json", "models--*/snapshots/*/config.json")  # the last in the Hugging Face cache
    found = [path.parent for pattern in below for path in sorted(folder.glob(pattern))] + sorted(folder.glob("*.gguf"))
    if found:
        others = f", or another of the {len(found)} there" if len(found) > 1 else ""
        return f"use --model {found[0]}{others}"
    return "use a folder that does, or a .gguf file"


def is_there(path: Path) -> bool:
    """Whether a folder holds a file, or a link in its place."""
    return path.exists() or path.is_symlink()


def check_whole(path: Path) -> None:
    """Raises InputError for a file that only stands for another: a pointer of Git LFS, a link to nothing."""
    if not path.exists():
        raise InputError(f"{path} is a link to a file that is not there: download it again")
    if path.stat().st_size < 1000 and path.read_bytes().startswith(LFS_POINTER):
        raise InputError(f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull`, or download it again")


def read_object(path: Path) -> dict:
    """The object in a model's JSON file. Raises InputError where it holds something else."""
    check_whole(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is broken, no JSON: download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is broken, no JSON object: download it again")
    return content


def check_kind(folder: Path, config: dict) -> None:
    """Raises InputError for a configuration of what is no causal language model of transformers."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, names = config.get("model_type"), config.get("architectures") or []
    if not isinstance(kind, str):
        raise InputError(f"{folder}/config.json names no model_type: it is not the configuration of a model")
    if kind not in CONFIG_MAPPING_NAMES and "auto_map" in config:
        raise InputError(f"{folder} needs Python code of its own ({kind}), which is not run: use another model")
    if kind not in CONFIG_MAPPING_NAMES:
        raise InputError(f"{folder} is of a type, {kind}, that transformers {transformers.__version__} does not know: "
                         "use another model, or a newer transformers")  # fmt: skip
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or config.get("is_encoder_decoder") or (
            names and all(re.search(NO_DECODER, name) for name in names)):
        raise InputError(f"{folder} holds {names[0] if names else kind}, which is no decoder: use a causal language model")


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights. Raises InputError where they are not named, or stored in another format."""
    if is_there(folder / "model.safetensors"):
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not is_there(index):
        raise InputError(f"{folder} holds no model.safetensors: " + other_weights(folder))
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise InputError(f"{index} is broken, it names no weights: download it again")
    files = sorted(set(places.values()))
    for name in files:
        if Path(name).name != name:
            raise InputError(f"{index} names a file outside its folder, {name}: download it again")
        if not is_there(folder / name):
            raise InputError(f"{folder / name} is missing, one of {len(files)} files of weights: download it")
    return [folder / name for name in files]


def other_weights(folder: Path) -> str:
    """What is to be done about a folder without weights as safetensors."""
    pickles = [path.name for pattern in ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern)]
    if pickles:
        return (f"{pickles[0]} is a pickle, which is not read, since it could run any code; convert it, if you trust it: "
                "python -c \"from transformers import AutoModelForCausalLM as M; "
                f"M.from_pretrained('{folder}').save_pretrained('{folder}')\"")
    if found := sorted(folder.glob("*.gguf")):
        return f"use --model {found[0]}"
    formats = [name for name, pattern in OTHER_FORMATS.items() if any(folder.rglob(pattern))]
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    return (f"its weights are for {formats[0]} alone, get those as safetensors" if formats else
            f"{others[0]} is none of transformers' files of weights, get those" if others else "download it")


def check_safetensors(path: Path) -> None:
    """Raises InputError for a file of weights that is cut off or damaged.

    Eight bytes give the length of a JSON header, which gives the place of each tensor in what follows. Source: safetensors'
    documentation, "Format".
    """
    check_whole(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, size)))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        if 8 + length + max(ends, default=0) == size:
            return
    except (struct.error, ValueError, TypeError, LookupError, AttributeError):
        pass
    raise InputError(f"{path} is cut off or damaged: download it again")


def check_tokenizer(folder: Path) -> None:
    """Raises InputError for a folder without a tokenizer that can be opened."""
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    files = {name: read_object(folder / name) for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json")
             if is_there(folder / name)}
    if "tokenizer.json" in files or "vocab.json" in files and (folder / "merges.txt").exists():
        return
    found = [name for name in SENTENCEPIECE if is_there(folder / name)]
    if found:
        check_whole(folder / found[0])
        if is_sentencepiece_available() and is_protobuf_available():
            return
        raise InputError(f"{folder} has its tokenizer in {found[0]} alone: pip install sentencepiece protobuf, or get its "
                         "tokenizer.json")
    if "auto_map" in files.get("tokenizer_config.json", {}):
        raise InputError(f"{folder} has a tokenizer in Python code of its own, which is not run: it needs a tokenizer.json")
    raise InputError(f"{folder} holds no tokenizer.json: copy it, and tokenizer_config.json, from the model that this one was "
                     "trained from")
