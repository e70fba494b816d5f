"""Every text of a model's tasks on one page: how likely each token was, and which others could have stood there.

    python html_page.py
    python html_page.py --model qwen

Reads those of results/<model>/task1_greedy.json to task5_beam.json that are there, asks the model again for the
distribution of every token, and writes results/<model>/texts.html. A double click opens it: the page needs no server, no
network and no other file. What it looks like stands in html_page.html, into which the figures are put as JSON.
"""

import argparse
import itertools
import json
import re
from pathlib import Path

from common import (
    InputError,
    Rows,
    add_model_flags,
    add_results_flag,
    candidate_line,
    describe,
    figures,
    load_model,
    one_line_errors,
    prompt_ids,
    results_folder,
    shorten,
    writing,
)
from generator import write_text
from task3_temperature import apply_temperature
from task4_nucleus import nucleus_ids

import torch
from pictures import read
from tqdm import tqdm

TEMPLATE = Path(__file__).resolve().with_suffix(".html")
ALTERNATIVES = 6
PIECE = 128  # tokens read at once: with a large vocabulary the logits of a whole text would be gigabytes


# ----------------------------------------------------------------------------------------- from tokens to characters


class TokenBytes(dict):
    """token id -> its bytes as UTF-8, worked out when first asked for."""

    def __init__(self, tokenizer):
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self.tokenizer, self.letters = tokenizer, {letter: byte for byte, letter in bytes_to_unicode().items()}
        # Some tokenizers drop the space that a text begins with: a token is decoded behind another one.
        self.before = tokenizer.encode("a", add_special_tokens=False)[-1:]

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def __missing__(self, token: int) -> bytes:
        text = self.text([*self.before, token])[len(self.text(self.before)) :]
        self[token] = self.part_of_character(token) if "\ufffd" in text else text.encode()
        return self[token]

    def part_of_character(self, token: int) -> bytes:
        """The bytes of a token that is no text by itself: spelt in letters, or <0xF0>."""
        name = self.tokenizer.convert_ids_to_tokens(token)
        if byte := re.fullmatch("<0x([0-9A-F]{2})>", name):
            return bytes.fromhex(byte[1])
        return bytes(self.letters[letter] for letter in name) if set(name) <= set(self.letters) else name.encode()


def escaped(part: bytes) -> str:
    """Bytes as text; one that belongs to no character becomes a lone surrogate, which the page shows as a number."""
    return part.decode("utf-8", "surrogateescape")


def whole_characters(parts: list[bytes]) -> list[tuple[str, int]]:
    """The bytes of tokens as (text, number of tokens): tokens that share a character are taken together."""
    whole = b"".join(parts)
    lengths = (len(character.encode("utf-8", "surrogateescape")) for character in escaped(whole))
    borders = set(itertools.accumulate(lengths, initial=0))
    found, start, end, count = [], 0, 0, 0
    for part in parts:
        end, count = end + len(part), count + 1
        if end in borders:
            found.append((escaped(whole[start:end]), count))
            start, count = end, 0
    return found


# ---------------------------------------------------------------------------------------------- the figures of a text


@torch.inference_mode()
def logits_along(model, prompt: torch.Tensor, token_ids: list[int]):
    """Yield the logits (some, vocab) that the tokens of a text, after a prompt (1, T), were chosen from, in order.

    Beyond the context a token is predicted, as it was when it was written, from exactly the last `context` ones.
    Raises InputError where the model answers with something else than numbers.
    """
    from transformers.cache_utils import DynamicCache

    ids = torch.cat([prompt, torch.tensor([token_ids])], dim=1)[:, :-1]
    within, cache = min(ids.shape[1], Rows(model, ids).context), DynamicCache()
    for start in range(0, within, PIECE):
        piece = ids[:, start : min(start + PIECE, within)].to(next(model.parameters()).device)
        logits = model(input_ids=piece, past_key_values=cache).logits[0].float().cpu()  # (piece, vocab)
        if logits.isnan().any():
            raise InputError("the model's logits are not numbers: its weights are broken, or try --dtype float32")
        yield logits[max(0, prompt.shape[1] - 1 - start) :]
    for end in range(within + 1, ids.shape[1] + 1):
        yield Rows(model, ids[:, :end]).next_logits()


def rounded(probability: torch.Tensor) -> float:
    return float(f"{probability.item():.3g}")


def token_figures(logits: torch.Tensor, tokens: list[int], parameters: dict) -> list[list]:
    """For each token [id, probability, size of the nucleus or None, alternatives [id, probability, dropped]].

    logits (tokens, vocab), as the model gave them; the probabilities are those after the temperature of `parameters`.
    """
    if "temperature" in parameters:
        logits = apply_temperature(logits, torch.tensor([[parameters["temperature"]]], dtype=torch.float64))
    found = []
    for token, probs in zip(tokens, logits.softmax(dim=-1), strict=True):
        kept = nucleus_ids(probs, parameters["top_p"]).tolist() if "top_p" in parameters else None
        likely = [i for i in probs.topk(min(ALTERNATIVES, len(probs))).indices.tolist() if probs[i] > 0]
        alternatives = [[i, rounded(probs[i]), int(kept is not None and i not in kept)] for i in likely]
        found.append([token, rounded(probs[token]), kept and len(kept), alternatives])
    return found


def text_figures(loaded, run: dict, names: TokenBytes) -> list[list]:
    """A text as [what it shows, the figures of its tokens]; the token that ended it shows None."""
    tokens, found = run["token_ids"], []
    for logits in logits_along(loaded.model, prompt_ids(loaded.tokenizer, run["prompt"]), tokens):
        found += token_figures(logits, tokens[len(found) : len(found) + len(logits)], run["parameters"])
    ended = tokens[-1] in loaded.eos_ids
    spans, rest = [], iter(found)
    for text, count in whole_characters([names[token] for token in tokens[: len(tokens) - ended]]):
        spans.append([text, list(itertools.islice(rest, count))])
    return spans + [[None, list(rest)]] * ended


# ------------------------------------------------------------------------------------------------------------ the page


def task_entry(loaded, path: Path, content: dict, names: TokenBytes, tick) -> dict:
    """A task's texts in the order of prompt, setting and sample; `tick()` is called after each."""
    prompts = list(dict.fromkeys(run["prompt"] for run in content["runs"]))
    runs = []
    for run in sorted(content["runs"], key=lambda run: (
            prompts.index(run["prompt"]), list(run["parameters"].values()), run["sample"])):  # fmt: skip
        runs.append({"prompt": shorten(run["prompt"]), "setting": f"{describe(run['parameters'])}, sample {run['sample']}",
                     "figures": figures(run), "spans": text_figures(loaded, run, names),
                     "candidates": [candidate_line(candidate) for candidate in run.get("candidates", [])]})  # fmt: skip
        tick()
    return {"title": path.stem.replace("_", ": ", 1).replace("task", "Task "), "command": content["command"], "runs": runs}


def page(loaded, contents: dict[Path, dict]) -> str:
    """The HTML of tasks' results, by the file they come from."""
    names = TokenBytes(loaded.tokenizer)
    with tqdm(total=sum(len(content["runs"]) for content in contents.values()), unit="text", disable=None) as bar:
        tasks = [task_entry(loaded, path, content, names, bar.update) for path, content in contents.items()]
    used = {i for task in tasks for run in task["runs"] for _, tokens in run["spans"] for token in tokens
            for i in (token[0], *(alternative[0] for alternative in token[3]))}  # fmt: skip
    data = json.dumps({"model": loaded.identity, "tokens": {i: escaped(names[i]) for i in sorted(used)}, "tasks": tasks},
                      separators=(",", ":"))  # fmt: skip
    # json.dumps leaves nothing but ASCII; without a "<" no text can end the script element that it stands in.
    return TEMPLATE.read_text("utf-8").replace("@DATA@", data.replace("<", "\\u003c"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_flags(parser)
    add_results_flag(parser)
    args = parser.parse_args()
    with one_line_errors():
        folder = results_folder(args)
        paths = sorted(folder.glob("task[1-5]_*.json"))
        if not paths:
            raise InputError(f"there are no texts in {folder}: run a task first, say python task1_greedy.py")
        loaded = load_model(args.model, args.device, args.dtype)
        html = page(loaded, {path: read(path, loaded) for path in paths})
        with writing(folder / "texts.html"):
            write_text(folder / "texts.html", html)
        print(f"texts.html is in {folder}")


if __name__ == "__main__":
    main()
