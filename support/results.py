"""Results files: what was written or measured, with everything that is needed to repeat it.

One result of a task is a dictionary: prompt, parameters (the setting), sample, text, token_ids, figures. The tasks' files
gather results, `<folder>/<model>/<task>.json` and a Markdown page derived from it; a study's file holds its figures.
"""

from support.errors import ROOT, InputError, report, undisturbed

import itertools
import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from support.files import check_writable, make_folder, write_text, writing
from support.streams import visible

FACTS = ("model", "versions", "device", "dtype", "threads")  # results in which these differ do not belong in one file


def short_name(model: str) -> str:
    """A model's name for its results and their folder: the last part of a path, or of a hub name; a GGUF file's stem."""
    place = Path(os.path.expanduser(model))
    if is_gguf(place):
        return place.stem  # as it was named: in the Hugging Face cache it is a link to a file named by its hash
    return hub_snapshot(place) or place.resolve().name or "model"


def hub_snapshot(folder: Path) -> str | None:
    """The name of the model whose snapshot a folder is in the Hugging Face cache; None for any other folder.

    By hand: models--Qwen--Qwen2.5-0.5B/snapshots/<the commit, 40 hexadecimal digits> is "Qwen2.5-0.5B".
    """
    found = re.fullmatch(r".*/models--(.+--)?([^/]+)/snapshots/[0-9a-f]{40}", folder.resolve().as_posix())
    return found[2] if found else None


def is_gguf(path: Path) -> bool:
    """Whether a model's path is that of a GGUF file."""
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def with_adapter(name: str, adapter: Path | None) -> str:
    """The name of a model into which an adapter, a folder, is merged: that of both."""
    return f"{name}+{adapter.resolve().name}" if adapter else name


def model_folder(results: Path, model: str, adapter: Path | None = None) -> Path:
    """Where the results of a model are, or of a model with an adapter."""
    return results / with_adapter(short_name(model), adapter)


def run_facts(device: str, dtype: str) -> dict:
    """What is needed to repeat a measurement: versions, device, dtype, threads, the command."""
    import tokenizers
    import torch
    import transformers

    script = Path(os.path.relpath(sys.argv[0], ROOT))
    module = script.parts[0] == "studies"  # which are run as modules: python -m studies.experiments
    program = ["-m", ".".join(script.with_suffix("").parts)] if module else [str(script)]
    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__, "tokenizers": tokenizers.__version__},
        "device": device, "dtype": dtype, "threads": torch.get_num_threads(),
        "command": shlex.join(["python", *program, *sys.argv[1:]])}


def write_json(path: Path, content: dict) -> None:
    """Write a results file, and its folder if need be. Raises InputError where that fails."""
    make_folder(path.parent)
    write_text(path, as_unicode(json.dumps(content, ensure_ascii=False, indent=1)) + "\n")


def as_unicode(text: str) -> str:
    """Text that may name a file: of a name that is not UTF-8 Python keeps bytes, which become \\udcff and the like."""
    return text.encode("utf-8", "backslashreplace").decode()


def read_json(path: Path) -> dict:
    """A results file. Raises InputError where it is missing, or is no JSON object."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise TypeError
        return content
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}: run the script that writes it first") from error
    except (ValueError, TypeError, RecursionError, OSError) as error:
        raise InputError(f"{path} is corrupt: run the script that writes it again") from error


def read_results(path: Path, identity: dict, read: Callable[[Path], dict] = read_json) -> dict:
    """A results file of the model of that identity. Raises InputError where it is missing, corrupt or of other weights."""
    content = read(path)
    if "model" not in content:
        raise InputError(f"{path} is corrupt: run the script that writes it again")
    if content["model"] != identity:
        raise InputError(f"{path} was written by other weights: run the script that writes it again")
    return content


def read_task(path: Path) -> dict:
    """A task's results file, in which no result lacks anything. Raises InputError where it is missing or corrupt."""
    content = read_json(path)
    try:
        if not isinstance(content["runs"], list) or not isinstance(content.get("model", {}), dict):
            raise TypeError
        for result in content["runs"]:
            section(result)  # needs all that a result must have
        return content
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is corrupt: run the script that writes it again") from error


def set_aside(path: Path, why: str) -> None:
    """Keep a results file that cannot be continued under another name beside it, and say why.

    Raises InputError where that fails.
    """
    aside = next(name for n in itertools.count(1) if not (name := path.with_suffix(f".old{n}")).exists())
    with writing(path):
        os.replace(path, aside)
    report(f"{path.name} {why}: kept as {aside.name}, starting anew")


class TaskResults:
    """The results of one task and model: a JSON file, and the Markdown page that is derived from it."""

    def __init__(self, path: Path) -> None:
        """Raises InputError when the folder cannot be written."""
        self.path, self.start, self.added = path, time.perf_counter(), 0
        check_writable(path.parent)

    def open(self, header: dict) -> None:
        """Continue the file if it was written with the same FACTS as `header` states; else it is kept aside."""
        old = self.read()
        other = [key for key in FACTS if old and old.get(key) != header[key]]
        if other:
            set_aside(self.path, f"was written with other {', '.join(other)}")
        self.content = {**header, "runs": [] if other else old.get("runs", [])}

    def read(self) -> dict:
        """What the file holds, {} if there is none; a corrupt file is kept aside."""
        if not self.path.exists():
            return {}
        try:
            return read_task(self.path)
        except InputError:
            set_aside(self.path, "is corrupt")
            return {}

    def add(self, result: dict) -> None:
        """Put a result in the place of the one with the same prompt, setting and sample, or at the end."""
        results, keys = self.content["runs"], [result_key(old) for old in self.content["runs"]]
        place = keys.index(result_key(result)) if result_key(result) in keys else len(results)
        results[place:place + 1] = [result]
        self.added += 1

    def save(self) -> None:
        """Write both files, if there is anything new. Raises InputError when that is impossible."""
        if not self.added:
            return
        self.content["seconds"] = round(time.perf_counter() - self.start, 2)
        with undisturbed():
            write_json(self.path, self.content)
            write_text(self.path.with_suffix(".md"), as_unicode(markdown(self.content, self.path.stem)))
        report(f"{self.added} texts saved in {self.path}")


def result_key(result: dict) -> str:
    """What makes two results the same one."""
    return json.dumps([result["prompt"], result["parameters"], result["sample"]], sort_keys=True)


def order(results: list[dict]) -> list[dict]:
    """Results by prompt, as they came, then by setting, number by number, then by sample."""
    prompts = list(dict.fromkeys(result["prompt"] for result in results))
    return sorted(results, key=lambda result: (
        prompts.index(result["prompt"]), list(result["parameters"].values()), result["sample"]))


# ------------------------------------------------------------------------------------------------- results for people


def describe(setting: dict) -> str:
    """A setting in words, for a heading: {"temperature": 0.5, "top_p": 0.9} -> temperature 0.5, top_p 0.9"""
    words = [f"{name} {value:g}" + (" (the limit: greedy)" if (name, value) == ("temperature", 0) else "")
             for name, value in setting.items()]
    return ", ".join(words) or "no parameters"


def shorten(prompt: str) -> str:
    """A prompt as a heading: its name, or the beginning of a user's own text."""
    line = " ".join(prompt.split())
    return line if len(line) <= 60 else line[:57] + "..."


def heading(result: dict) -> str:
    """What distinguishes a result from the others of its task."""
    return f"{shorten(result['prompt'])}: {describe(result['parameters'])}, sample {result['sample']}"


def figures(result: dict) -> str:
    """The line of figures under a text."""
    parts = [f"{result['new_tokens']} tokens", "ended by itself" if result["stop"] == "eos" else "cut off at the limit",
             f"{result['tokens_per_second']:g} tokens/s", f"log-probability {result['log_prob']:.2f}"]
    if "json_valid" in result:
        parts.append("JSON " + ("right" if result["json_correct"] else "wrong" if result["json_valid"] else "does not parse"))
    return ", ".join(parts)


def candidate_line(candidate: dict) -> str:
    """One finished candidate of a beam search in a line."""
    return (f"score {candidate['score']:.4f} = {candidate['log_prob']:.4f} over {candidate['length']} tokens "
            f"({'ended' if candidate['stop'] == 'eos' else 'cut off'}): {shorten(candidate['text'])}")


def print_result(result: dict) -> None:
    """A text as it stands, between its setting and its figures; for beams, what else could have won."""
    candidates = ("    " + candidate_line(candidate) for candidate in result.get("candidates", []))
    lines = (f"=== {heading(result)}", result["text"], f"--- {figures(result)}", *candidates, "")
    print(visible("\n".join(lines)))


def markdown(content: dict, task: str) -> str:
    """The page of a task's results: one section per prompt and setting, derived from the JSON alone."""
    model = content["model"]
    lines = [f"# {task}: {model['name']}", "",
             f"`{content['command']}`: {model['parameters']:,} parameters, revision {model['revision']}, "
             f"{content['dtype']} on {content['device']}, {content['threads']} threads, "
             f"{content['seconds']:g} s, " + ", ".join(f"{k} {v}" for k, v in content["versions"].items()) + "."]
    return "\n".join(lines + [line for result in order(content["runs"]) for line in section(result)]) + "\n"


def section(result: dict) -> list[str]:
    """The lines of one result on the page."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", result["text"])), default=0))
    lines = ["", f"## {heading(result)}", "", fence + "text", result["text"], fence, "", figures(result) + "."]
    if "candidates" in result:
        lines += ["", *(f"- `{candidate_line(c).replace('`', chr(39))}`" for c in result["candidates"])]
    return lines
