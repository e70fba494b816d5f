"""Talk to the shipped decoder, or to any other chat model: answers appear as they are written.

    python chat.py
    python chat.py --strategy greedy --system json
    python chat.py --model qwen --strategy nucleus --temperature 0.7 --top-p 0.8
    echo "Tell me a story about a brave fox." | python chat.py
    python chat.py --once "Tell me a story about a brave fox." --seed 1

In the conversation /help lists the commands; quit, /quit or Ctrl-D ends it, Ctrl-C stops an answer.
"""

from support.errors import InputError, first_line, one_line_errors, report

import argparse
import copy
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from common import answer, step
from data.corpus.documents import JSON_MACHINE, STORYTELLER
from models.cache import growing_cache
from models.chatml import PLAIN_TEMPLATE, Message, conversation_ids, template_of
from models.limits import check_known, context_of
from models.loading import Loaded, load_model
from models.rotary import keys_hold
from strategies import STRATEGIES, continue_ids
from support.files import write_text
from support.flags import RULES, Parser, add_model_flags, checked, flag, number
from support.streams import visible
from support.terminal import Interrupts, lines, note, show
from support.wrapping import wrapped

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEMS = {"story": STORYTELLER, "json": JSON_MACHINE, "none": ""}
SHARED = ("no_repeat_ngram_size", "seed", "max_new_tokens")  # settings that hold for every strategy
DEFAULTS = {"temperature": 0.8, "top_p": 0.95, "top_k": 0, "num_beams": 4, "length_penalty": 1.0,
            "no_repeat_ngram_size": 0, "seed": None, "max_new_tokens": 1000}
HELP = """\
/system story|json|none|TEXT  who answers, none for nobody in particular; starts over
/strategy NAME                greedy, sampling, nucleus or beam
/temperature, /top-p, /top-k, /num-beams, /length-penalty, /no-repeat-ngram-size,
/seed, /max-new-tokens VALUE
/stats                        a line of figures after each answer, on or off
/settings                     the settings in use
/retry                        another answer to the last message
/clear                        starts over
/save FILE                    the conversation as JSON
/quit, quit, Ctrl-D           the end; Ctrl-C stops an answer
Anything else is a message; to begin one with /, put a space before it."""
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")

Turn = tuple[Message, Message]  # the user's message and the assistant's


# --------------------------------------------------------------------------------------------------- the conversation


class TextStream:
    """The text of token ids, in pieces, each as soon as no later token can change it."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        from tokenizers.decoders import DecodeStream

        self.stream, self.tokenizer = DecodeStream(skip_special_tokens=False), tokenizer.backend_tokenizer
        self.held: list[int] = []  # ids whose text may still change

    def piece(self, token: int) -> str:
        """The text that this token settles: "" in the middle of a character."""
        self.held.append(token)
        if self.unsettled(token):
            return ""
        settled, self.held = self.held, []
        return self.stream.step(self.tokenizer, settled) or ""

    def unsettled(self, token: int) -> bool:
        """Whether the text up to `token` may still change: one wrong byte among <0xF0> <0x9F> ... breaks the whole run of
        them, and an id without a token does not end the run."""
        name = self.tokenizer.id_to_token(token)
        return name is None or BYTE_TOKEN.fullmatch(name) is not None


class Conversation:
    """The turns so far, and the cache of what the model has read of them."""

    def __init__(self, loaded: Loaded, system: str) -> None:
        self.loaded, self.context = loaded, context_of(loaded.model)
        self.template = template_of(loaded.tokenizer)
        self.begin(system)

    def begin(self, system: str) -> None:
        """Start over with `system` as the system message; "" is none, and leaves what a chat template says by itself."""
        self.system = Message("system", system)
        self.turns: list[Turn] = []
        self.forget()

    def forget(self) -> None:
        """Drop the cache: the next answer reads the whole conversation again."""
        self.cache = growing_cache(self.loaded.model.config)
        self.read: list[int] = []  # the ids whose keys and values the cache holds

    def messages(self, turns: list[Turn]) -> list[Message]:
        """The system message, if there is one, then the messages of the turns."""
        return [*[self.system] * bool(self.system.content), *(message for turn in turns for message in turn)]

    def fitted(self, turns: list[Turn], user: Message, room: int) -> tuple[list[int], list[Turn]]:
        """The ids of a conversation of `turns` and the user's message, and the turns that are in it.

        The oldest turns are left out until `room` tokens are left for an answer. Raises InputError when the message alone
        leaves none, and for a token that the model does not know.
        """
        while True:
            ids = conversation_ids(self.loaded.tokenizer, [*self.messages(turns), user], self.template)
            if len(ids) + room <= self.context or not turns:
                break
            turns = turns[1:]
        if len(ids) >= self.context:
            raise InputError(f"with the message there are {len(ids)} tokens; the model's context is {self.context}")
        check_known(ids, self.loaded.model, self.loaded.tokenizer.convert_ids_to_tokens)
        return ids, turns

    def read_ids(self, ids: list[int]) -> None:
        """Bring the cache to hold exactly `ids`; only what is new is computed, unless nothing read before holds any longer."""
        known = next((i for i, (old, new) in enumerate(zip(self.read, ids, strict=False)) if old != new),
                     min(len(self.read), len(ids)))
        known = known if keys_hold(self.loaded.model.config, known, len(ids)) else 0
        cache = self.cache
        self.forget()  # an interrupt in the middle leaves nothing half read
        cache.crop(known - cache.get_seq_length())  # a number of at most 0 is how many tokens to cut off
        if known < len(ids):
            step(self.loaded.model, torch.tensor([ids[known:]]), cache)
        self.cache, self.read = cache, ids[:cache.get_seq_length()]  # none of a model that keeps nothing

    def reply(self, turns: list[Turn], user: Message, ids: list[int], watch: Callable[..., object],
              **settings: float) -> Generator[str]:
        """Yield the pieces of the text that answers `user` after `turns`, whose ids together are `ids`.

        `settings` and `watch` are those of `continue_ids`. At its end, or when it is stopped after its first token, the
        answer becomes the turn that follows `turns`.
        """
        loaded, written, shown = self.loaded, [], ""
        self.read_ids(ids[:-1])
        cache, beams = self.cache, settings.get("num_beams", 1) > 1
        if beams:
            cache = copy.deepcopy(cache)  # beams reorder it
        else:
            self.forget()  # an interrupt may come between two layers
        stream = TextStream(loaded.tokenizer)
        try:
            for token in continue_ids(loaded.model, torch.tensor([ids]), loaded.eos_ids, cache=cache, watch=watch,
                                      **settings):
                written.append(token)
                if token not in loaded.eos_ids:
                    piece = stream.piece(token)
                    shown += piece
                    yield piece
            yield answer(loaded, written)[len(shown):]  # the bytes of a character that was never completed
            if not beams:
                self.cache, self.read = cache, [*ids, *written][: cache.get_seq_length()]
        finally:
            if written:
                kept = tuple(token for token in written if token not in loaded.eos_ids)
                self.turns = [*turns, (user, Message("assistant", answer(loaded, written), kept))]


# ------------------------------------------------------------------------------------------- the person at the screen


class Chat:
    """A conversation with its settings and commands."""

    def __init__(self, loaded: Loaded, system: str, strategy: str, settings: dict[str, float | None],
                 stats: bool) -> None:
        """`system` is a text or a name in SYSTEMS; `settings` has a value for each name in DEFAULTS."""
        self.conversation = Conversation(loaded, SYSTEMS.get(system, system))
        self.strategy, self.settings, self.stats = strategy, settings, stats
        self.answers = 0  # counted so that a seed gives another answer at every turn

    def handle(self, line: str) -> bool:
        """Do what a line asks for; returns whether the conversation goes on. Raises InputError."""
        if line.strip() in ("quit", "/quit"):
            return False
        if line.startswith("/"):
            self.command(*(line.split(maxsplit=1) + [""])[:2])
        elif line.strip():
            self.ask(line.strip())
        return True

    def command(self, name: str, value: str) -> None:
        """Carry out a command, such as "/top-p" with the value "0.9". Raises InputError."""
        value, setting = value.strip(), name[1:].replace("-", "_")
        if name == "/help":
            print(wrapped(HELP, sys.stdout), flush=True)
        elif name == "/settings":
            print(visible(self.described()), flush=True)
        elif name == "/clear":
            self.conversation.begin(self.conversation.system.content)
        elif name == "/stats":
            self.stats = not self.stats
        elif name == "/retry":
            self.retry()
        elif name == "/save":
            self.save(value)
        elif name == "/system":
            if not value:
                raise InputError("/system needs a text, story, json or none")
            self.conversation.begin(SYSTEMS.get(value, value))
        elif name == "/strategy":
            if value not in STRATEGIES:
                raise InputError(f"/strategy needs one of {', '.join(STRATEGIES)}")
            self.strategy = value
        elif setting in self.settings:
            self.change(name, setting, value)
        else:
            raise InputError(f"there is no command {name}: see /help")

    def change(self, name: str, setting: str, value: str) -> None:
        """Give a setting a new value. Raises InputError, which names the command, for one that its rule does not allow."""
        try:
            self.settings[setting] = checked(RULES[setting], value)
        except InputError as error:
            raise InputError(f"{name} {error}") from error
        if setting not in (*STRATEGIES[self.strategy], *SHARED):
            note(f"{self.strategy} does not read it: see /strategy")

    def described(self) -> str:
        """The settings in use, one a line."""
        lines = [f"system: {self.conversation.system.content or 'none'}", f"strategy: {self.strategy}"]
        for name in (*STRATEGIES[self.strategy], *SHARED):
            value = self.settings[name]
            lines.append(f"{flag(name)[2:]}: {'a new one for each answer' if value is None else value}")
        return "\n".join(lines)

    def retry(self) -> None:
        """Put another answer in the place of the last one. Raises InputError where there is none."""
        if not self.conversation.turns:
            raise InputError("there is nothing to answer yet")
        *before, (user, _) = self.conversation.turns
        self.ask(user.content, before)

    def save(self, path: str) -> None:
        """Write the conversation as JSON. Raises InputError where that is impossible."""
        if not path:
            raise InputError("/save needs a file name")
        try:
            file = Path(path).expanduser().resolve()  # a link stays: what it points to is replaced
            ordinary = file.is_file() or not file.exists()
        except (OSError, ValueError, RuntimeError) as error:  # the last two for what is no file name
            raise InputError(f"cannot write {path}: {first_line(error)}") from error
        if not ordinary:
            raise InputError(f"cannot write {path}: it is no ordinary file")
        messages = self.conversation.messages(self.conversation.turns)
        content = [{"role": message.role, "content": message.content} for message in messages]
        write_text(file, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        note(f"saved in {path}")

    def ask(self, text: str, before: list[Turn] | None = None) -> None:
        """Print the answer to a message that follows the turns `before` (None: all there are), as it is written."""
        from tqdm import tqdm

        conversation, user, limit = self.conversation, Message("user", text), self.settings["max_new_tokens"]
        before = conversation.turns if before is None else before
        settings = self.settings_of_next_answer()
        self.answers += 1
        start = time.perf_counter()
        ids, turns = conversation.fitted(before, user, min(limit, conversation.context // 2))
        if len(turns) < len(before):
            note(f"the context is full: the oldest {len(before) - len(turns)} turns are forgotten")
        room = conversation.context - len(ids)
        limit = min(limit, room)
        with tqdm(total=limit, unit="token", leave=False, disable=None if self.strategy == "beam" else True) as bar:
            pieces = conversation.reply(turns, user, ids, lambda length, *_: bar.update(length - bar.n),
                                        max_new_tokens=limit, **settings)
            first = show(pieces, bar)
        tokens = len(conversation.turns[-1][1].ids)
        if tokens == room:
            note(f"cut off: the model's context of {conversation.context} tokens is full")
        if self.stats:
            rate = tokens / (time.perf_counter() - start)
            note(f"{tokens} tokens, {rate:.0f} tokens/s, first token after {first - start:.2f} s")

    def settings_of_next_answer(self) -> dict[str, float]:
        """The settings of the strategy in use, as `continue_ids` takes them; with a seed, another one for each answer."""
        settings = {name: self.settings[name] for name in (*STRATEGIES[self.strategy], "no_repeat_ngram_size")}
        if self.strategy in ("greedy", "beam"):
            settings["temperature"] = 0  # one beam is greedy
        elif self.settings["seed"] is not None:
            settings["seed"] = (self.settings["seed"] + self.answers) % 2**63
        return settings


def welcome(loaded: Loaded, shipped: bool) -> str:
    """What the model at hand can do, and what to try: `shipped` is the checkpoint that comes with the project."""
    if shipped:
        can = ('it tells stories, and writes transfers as JSON. Try "Tell me a story about a brave fox."; or /system json, '
               'then "Transfer 100 rubles and 50 kopeck to Mike".')
    elif template_of(loaded.tokenizer) == PLAIN_TEMPLATE:
        can = "a base model. It answers no questions, but goes on with what you write."
    else:
        can = "a chat model. Ask it anything; it answers as its system message says, which /system TEXT changes."
    return f"{loaded.identity['name']}, {loaded.identity['parameters']:,} parameters: {can}\n/help lists the commands."


def converse(chat: Chat, at_terminal: bool) -> bool:
    """Handle line after line until the user ends the conversation; returns whether every request could be met."""
    met, interrupts = True, Interrupts()
    for line in lines(at_terminal):
        if at_terminal:
            signal.signal(signal.SIGINT, interrupts)  # after every line: prompt_toolkit sets its own handler
        try:
            if not chat.handle(line.rstrip("\n")):
                break
        except (InputError, RuntimeError) as error:  # RuntimeError: torch's, for too little memory
            report(f"error: {first_line(error)}")
            met = False
        except KeyboardInterrupt:
            if not at_terminal:
                raise
    return met


def parse_arguments() -> argparse.Namespace:
    """The flags: the model, who answers, the strategy and its settings."""
    parser = Parser(__doc__)
    add_model_flags(parser)
    parser.add_argument("--system", metavar="TEXT",
                        help="story, json, none, or a text of your own (default: story; none for a model that only continues "
                             "texts)")
    parser.add_argument("--strategy", choices=STRATEGIES, default="nucleus", help="(default: %(default)s)")
    for name, default in DEFAULTS.items():
        parser.add_argument(flag(name), type=number(RULES[name]), default=default, metavar="N",
                            help="the same seed gives the same answers (default: a new one for each answer)"
                            if name == "seed" else "(default: %(default)s)")
    parser.add_argument("--stats", action="store_true", help="a line of figures after each answer")
    parser.add_argument("--once", metavar="TEXT", help="print the answer to this and end")
    args = parser.parse_args()
    if args.once is not None and not args.once.strip():
        raise InputError("--once: the message is empty")
    return args


def default_system(loaded: Loaded) -> str:
    """Who answers if the user does not say: for a base model nobody, since it would only continue that text, too."""
    return "none" if template_of(loaded.tokenizer) == PLAIN_TEMPLATE else "story"


def main() -> None:
    """Answer the message of --once, or hold a conversation. Exit code 2 if anything asked for from a pipe failed."""
    with one_line_errors():
        args = parse_arguments()
        loaded = load_model(args.model, args.device, args.dtype, args.engine, args.adapter)
        settings = {name: getattr(args, name) for name in DEFAULTS}
        system = args.system if args.system is not None else default_system(loaded)
        chat = Chat(loaded, system, args.strategy, settings, args.stats)
        if args.once is not None:
            chat.ask(args.once.strip())
            return
        at_terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()  # a closed stdin is None
        if at_terminal:
            print(wrapped(welcome(loaded, args.model == "generator"), sys.stdout))
        if not converse(chat, at_terminal) and not at_terminal:
            sys.exit(2)


if __name__ == "__main__":
    main()
