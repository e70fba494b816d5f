"""Every text of a model's tasks on one page: how likely each token was, and which others could have stood there.

    python -m studies.token_page
    python -m studies.token_page --model qwen

Reads those of results/<model>/task1_greedy.json to task5_beam.json that are there, asks the model again for the
distribution of every token, and writes results/<model>/texts.html. A double click opens it: the page needs no server, no
network and no other file. Its looks are in token_page.html, into which the figures are put as JSON.
"""

from support.errors import InputError, one_line_errors

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common import Batch, checked_ids
from decoding.no_repeat_ngram import ban_repeats
from decoding.numbers import checked_logits
from models.cache import growing_cache
from models.limits import context_of
from models.loading import Loaded, load_model
from models.rotary import keys_hold
from support.files import write_text
from support.flags import Parser, add_model_flags, add_results_flag
from support.results import candidate_line, describe, figures, model_folder, order, read_results, read_task, shorten
from task3_temperature import apply_temperature
from task4_nucleus import nucleus

import torch
from torch import Tensor, nn
from tqdm import tqdm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = Path(__file__).resolve().with_suffix(".html")
ALTERNATIVES = 6
PIECE = 128  # tokens read at once: with a large vocabulary the logits of a whole text would be gigabytes


# ----------------------------------------------------------------------------------------- from tokens to characters


class TokenBytes(dict):
    """token id -> its bytes as UTF-8, computed when first asked for."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self.tokenizer, self.letters = tokenizer, {letter: byte for byte, letter in bytes_to_unicode().items()}
        # Some tokenizers drop the space that a text begins with, so a token is decoded behind another one.
        self.before = tokenizer.encode("a", add_special_tokens=False)[-1:]

    def text(self, ids: list[int]) -> str:
        """The text of some tokens."""
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def __missing__(self, token: int) -> bytes:
        text = self.text([*self.before, token])[len(self.text(self.before)):]
        self[token] = self.part_of_character(token) if "\ufffd" in text else text.encode()
        return self[token]

    def part_of_character(self, token: int) -> bytes:
        """The bytes of a token that is only a part of a character; its name spells them in letters, or as <0xF0>."""
        name = self.tokenizer.convert_ids_to_tokens(token)
        if byte := re.fullmatch("<0x([0-9A-F]{2})>", name):
            return bytes.fromhex(byte[1])
        return bytes(self.letters[letter] for letter in name) if set(name) <= set(self.letters) else name.encode()


def escaped(part: bytes) -> str:
    """Bytes as text; a byte that is part of no character becomes a lone surrogate, which the page shows as a number."""
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


# ----------------------------------------------------------------------------------------------- figures of a text


@torch.inference_mode()
def logits_along(model: nn.Module, prompt: Tensor, token_ids: list[int]) -> Iterator[Tensor]:
    """Yield the logits (some, vocab) that the tokens of a text, after a prompt (1, T), were chosen from, in order.

    Beyond the context a token is predicted from exactly the last `context` ones, as it was when it was written; and where
    the rotary factors change with the length, from all that stood before it, read again.
    Raises InputError where the model's logits are not numbers.
    """
    ids = torch.cat([prompt, torch.tensor([token_ids])], dim=1)[:, :-1]
    steady = [length for length in range(1, min(ids.shape[1], context_of(model)) + 1) if keys_hold(model.config, 1, length)]
    within, cache = len(steady), growing_cache(model.config)
    for start in range(0, within, PIECE):
        piece = ids[:, start:min(start + PIECE, within)].to(next(model.parameters()).device)
        logits = checked_logits(model(input_ids=piece, past_key_values=cache).logits[0])  # (piece, vocab)
        yield logits[max(0, prompt.shape[1] - 1 - start):]
    for end in range(within + 1, ids.shape[1] + 1):
        yield Batch(model, ids[:, :end]).next_logits()


def rounded(probability: Tensor) -> float:
    """A probability (a tensor of one number) with three digits."""
    return float(f"{probability.item():.3g}")


def token_figures(logits: Tensor, tokens: list[int], setting: dict) -> list[list]:
    """For each token [id, probability, size of the nucleus or None, alternatives [id, probability, dropped]].

    logits (tokens, vocab), as the model gave them; the probabilities are those after the temperature of the setting.
    """
    if "temperature" in setting:
        logits = apply_temperature(logits, torch.tensor([[setting["temperature"]]], dtype=torch.float64))
    kept = None
    if "top_p" in setting:
        kept = nucleus(logits, torch.tensor([[setting["top_p"]]], dtype=torch.float64)).isfinite()  # (tokens, vocab)
    found = []
    for i, (token, probs) in enumerate(zip(tokens, logits.softmax(dim=-1), strict=True)):
        likely = [j for j in probs.topk(min(ALTERNATIVES, len(probs))).indices.tolist() if probs[j] > 0]
        alternatives = [[j, rounded(probs[j]), int(kept is not None and not kept[i, j])] for j in likely]
        found.append([token, rounded(probs[token]), None if kept is None else int(kept[i].sum()), alternatives])
    return found


def text_figures(loaded: Loaded, result: dict, names: TokenBytes) -> list[list]:
    """A text as [what it shows, the figures of its tokens]; the token that ended it shows None."""
    tokens, setting, found = result["token_ids"], result["parameters"], []
    prompt = checked_ids(loaded, result["prompt"])
    ids = torch.cat([prompt, torch.tensor([tokens])], dim=1)
    for logits in logits_along(loaded.model, prompt, tokens):
        start = len(found)
        allowed = [ban_repeats(row[None], ids[:, :prompt.shape[1] + start + i], setting.get("no_repeat_ngram_size", 0))
                   for i, row in enumerate(logits)]
        found += token_figures(torch.cat(allowed), tokens[start:start + len(logits)], setting)
    ended = tokens[-1] in loaded.eos_ids
    spans, rest = [], iter(found)
    for text, count in whole_characters([names[token] for token in tokens[:len(tokens) - ended]]):
        spans.append([text, list(itertools.islice(rest, count))])
    return spans + [[None, list(rest)]] * ended


# ------------------------------------------------------------------------------------------------------------ the page


def task_entry(loaded: Loaded, path: Path, content: dict, names: TokenBytes, tick: Callable[[], object]) -> dict:
    """A task's texts in the order of prompt, setting and sample; `tick()` is called after each."""
    entries = []
    for result in order(content["runs"]):
        entries.append({
            "prompt": shorten(result["prompt"]),
            "setting": f"{describe(result['parameters'])}, sample {result['sample']}",
            "figures": figures(result), "spans": text_figures(loaded, result, names),
            "candidates": [candidate_line(candidate) for candidate in result.get("candidates", [])]})  # fmt: skip
        tick()
    return {"title": path.stem.replace("_", ": ", 1).replace("task", "Task "), "command": content["command"],
            "runs": entries}  # fmt: skip


def page(loaded: Loaded, contents: dict[Path, dict]) -> str:
    """The HTML of the tasks' results, by the file they come from."""
    names = TokenBytes(loaded.tokenizer)
    with tqdm(total=sum(len(content["runs"]) for content in contents.values()), unit="text", disable=None) as bar:
        tasks = [task_entry(loaded, path, content, names, bar.update) for path, content in contents.items()]
    used = {i for task in tasks for entry in task["runs"] for _, tokens in entry["spans"] for token in tokens
            for i in (token[0], *(alternative[0] for alternative in token[3]))}  # fmt: skip
    data = json.dumps({"model": loaded.identity, "tokens": {i: escaped(names[i]) for i in sorted(used)}, "tasks": tasks},
                      separators=(",", ":"))  # fmt: skip
    # json.dumps writes nothing but ASCII; without a "<" no text can end the script element that holds it.
    return TEMPLATE.read_text("utf-8").replace("@DATA@", data.replace("<", "\\u003c"))


def main() -> None:
    with one_line_errors():
        parser = Parser(__doc__)
        add_model_flags(parser)
        add_results_flag(parser)
        args = parser.parse_args()
        folder = model_folder(args.results, args.model, args.adapter)
        paths = sorted(folder.glob("task[1-5]_*.json"))
        if not paths:
            raise InputError(f"there are no texts in {folder}: run a task first, say python task1_greedy.py")
        loaded = load_model(args.model, args.device, args.dtype, args.engine, args.adapter)
        contents = {path: read_results(path, loaded.identity, read_task) for path in paths}
        write_text(folder / "texts.html", page(loaded, contents))
        print(f"texts.html is in {folder}")


if __name__ == "__main__":
    main()
