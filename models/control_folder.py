"""A controlled model as a folder: control.json and control.safetensors beside its base, or beside what was added to that.

The base is written by its own `save_checkpoint`, before this: our decoder and a model of which all weights were trained as a
model folder, low-rank additions as an adapter. A base that was frozen is not copied: control.json holds its name.
"""

from support.errors import InputError, first_line

import json
from pathlib import Path

from models.control import Controlled, Labels
from models.folders import check_safetensors, is_there, read_object
from models.loading import Loaded, load_model
from support.adapter import adapter_base
from support.files import make_folder, write_aside, write_text

import torch
from safetensors.torch import load_file, save_file
from torch import nn

SETTINGS, WEIGHTS = "control.json", "control.safetensors"


def save_control(model: Controlled, folder: Path, dtype: torch.dtype = torch.float32, base: str | None = None) -> None:
    """Write what a model has beside its base, the weights last and each file moved into place when it is whole.

    base: the name of a frozen base, as `load_model` takes it; None for one in the folder, or named by the adapter there.
    Raises InputError where a file cannot be written.
    """
    make_folder(folder)
    content = {"kind": model.kind, "labels": model.labels.values, "pooling": model.pooling,
               "refinement": model.refinement is not None, "own_head": model.own_head is not None,
               "heads": len(model.heads) > 0, "base": base}
    write_text(folder / SETTINGS, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    weights = {name: weight.to(dtype).contiguous() for name, weight in own_weights(model).items()}

    def write_weights(path: Path) -> None:
        save_file(weights, path, metadata={"format": "pt"})
        path.chmod((folder / SETTINGS).stat().st_mode)  # safetensors lets nobody but its owner read a file

    write_aside(folder / WEIGHTS, write_weights)


def own_weights(model: Controlled) -> dict[str, torch.Tensor]:
    """The weights that are not the base's."""
    return {name: weight for name, weight in model.state_dict().items() if not name.startswith("base.")}


def read_settings(folder: Path) -> dict:
    """What control.json says. Raises InputError for a folder without one, and for a broken one."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: train a model with `python train_replies.py --output {folder}`")
    if not is_there(folder / SETTINGS):
        raise InputError(f"{folder} holds no {SETTINGS}, so no model with control: train one with `python train_replies.py`")
    return read_object(folder / SETTINGS)


def with_control(base: nn.Module, folder: Path) -> Controlled:
    """A base, opened by whoever calls, with the control that `save_control` wrote in a folder; in the base's dtype, on its
    device.

    Raises InputError, in one line, where a file is missing or broken, or the control is another base's.
    """
    settings = read_settings(folder)
    try:
        labels = Labels({name: tuple(values) for name, values in settings["labels"].items()})
        options = {name: settings[name] for name in ("kind", "pooling", "refinement", "own_head", "heads")}
        model = Controlled(base, labels, **options)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / SETTINGS} describes no control ({first_line(error)}): train anew") from error
    if not is_there(folder / WEIGHTS):
        raise InputError(f"{folder} holds no {WEIGHTS}: restore it, or train anew")
    check_safetensors(folder / WEIGHTS)
    weights, shapes = load_file(folder / WEIGHTS), {name: weight.shape for name, weight in own_weights(model).items()}
    for name in sorted(shapes.keys() | weights.keys()):
        found = tuple(weights[name].shape) if name in weights else None
        if found != (tuple(shapes[name]) if name in shapes else None):
            raise InputError(f"{folder}: weight {name} is {found}, which does not fit its base or {SETTINGS}")
    model.load_state_dict(weights, strict=False)  # the base has its own already
    kept = base.get_input_embeddings().weight
    return model.to(device=kept.device, dtype=kept.dtype)


def load_controlled(folder: Path, device: str = "cpu", dtype: str = "float32", base: str | None = None) -> Loaded:
    """The model of a folder, ready to decode: `.model` is Controlled, `.eos_ids` end a reply, the labels are `.model.labels`.

    base: where a base outside of the folder is now, if not where it was trained on. An adapter is merged, weights are packed:
    see `load_model`. Raises InputError as that and `with_control` do.
    """
    settings = read_settings(folder)
    if is_there(folder / "adapter_config.json"):
        loaded = load_model(base or adapter_base(folder), device, dtype, adapter=folder)
    else:
        loaded = load_model(base or settings.get("base") or str(folder), device, dtype)
    model = with_control(loaded.model, folder).eval()
    parameters = sum(weight.numel() for weight in own_weights(model).values())
    identity = loaded.identity | {"control": model.kind, "parameters": loaded.identity["parameters"] + parameters}
    return loaded._replace(model=model, identity=identity)
