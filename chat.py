"""Talk to the shipped decoder, or to any other chat model: answers appear as they are written.

    python chat.py
    python chat.py --strategy greedy --system json
    python chat.py --model qwen --strategy nucleus --temperature 0.7 --top-p 0.8
    echo "Tell me a story about a brave fox." | python chat.py
    python chat.py --once "Tell me a story about a brave fox." --seed 1

In the conversation /help lists the commands; quit, /quit or Ctrl-D ends it, Ctrl-C stops an answer.
"""

import argparse
import copy
import json
import re
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch

from common import (
    InputError,
    Parser,
    Rows,
    add_model_flags,
    answer,
    check_setting,
    flag,
    load_model,
    one_line_errors,
    setting_type,
    step,
    writing,
)
from corpus.chatml import JSON_MACHINE, STORYTELLER
from generator import CHAT_TEMPLATE, write_text
from strategies import continue_ids

SYSTEMS = {"story": STORYTELLER, "json": JSON_MACHINE}
STRATEGIES = {  # which settings each one reads
    "greedy": (),
    "sampling": ("temperature", "top_k"),
    "nucleus": ("temperature", "top_p", "top_k"),
    "beam": ("num_beams", "length_penalty"),
}
DEFAULTS = {"temperature": 0.8, "top_p": 0.95, "top_k": 0, "num_beams": 4, "length_penalty": 1.0, "seed": None,
            "max_new_tokens": 1000}  # fmt: skip
HELP = """\
/system story | json | TEXT   who answers; begins anew
/strategy NAME                greedy, sampling, nucleus or beam
/temperature, /top-p, /top-k, /num-beams, /length-penalty, /seed, /max-new-tokens VALUE
/stats                        a line of figures after each answer, or no more
/settings                     what holds now
/retry                        another answer to the last message
/clear                        begin anew
/save FILE                    the conversation as JSON
/quit, quit, Ctrl-D           the end; Ctrl-C stops an answer
Anything else is a message; one that is to begin with / begins with a space."""
HISTORY = Path.home() / ".decode_chat_history"
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Message(NamedTuple):
    """One message; `ids` is what the model wrote, to be read again as it stands."""

    role: str
    content: str
    ids: tuple = ()


def conversation_ids(tokenizer, messages):
    """The ids (a list) of a conversation, open for an answer, by the tokenizer's own chat template.

    Only what the template itself writes can be a control token: the messages are rendered as marks, and their texts put
    in where the control tokens have been found. Raises InputError for text that is not Unicode.
    """
    def plain(text):
        return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    marks = {f"\ue000{number}\ue001": message for number, message in enumerate(messages)}
    rendered = tokenizer.apply_chat_template(
        [{"role": message.role, "content": mark} for mark, message in marks.items()],
        chat_template=tokenizer.chat_template or CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True)
    control = tokenizer.get_added_vocab()  # {token: id}
    borders = "|".join([*map(re.escape, sorted(control, key=len, reverse=True)), "\ue000\\d+\ue001"])
    ids, text = [], ""
    for part in re.split(f"({borders})", rendered):
        message = marks.get(part)
        if message and not message.ids:
            if re.search("[\ud800-\udfff]", message.content):
                raise InputError("the message is not valid UTF-8")
            text += message.content
        elif message or part in control:
            ids += [*plain(text), *(message.ids if message else [control[part]])]
            text = ""
        else:
            text += part
    return ids + plain(text)


class Conversation:
    """The turns so far, and the cache of what the model has read of them."""

    def __init__(self, loaded, system):
        self.loaded, self.context = loaded, Rows(loaded.model, None).context
        self.begin(system)

    def begin(self, system):
        """Forget everything, and be told by `system` what to do."""
        self.system, self.turns = Message("system", system), []  # turns: (user's message, assistant's message)
        self.forget()

    def forget(self):
        """Read everything again at the next answer."""
        from transformers import DynamicCache

        self.cache, self.read = DynamicCache(), []  # read: the ids whose keys and values the cache holds

    @property
    def messages(self):
        return [self.system, *(message for turn in self.turns for message in turn)]

    def fitted_ids(self, user, room):
        """The ids of the conversation with the user's message; the oldest turns go until `room` tokens are left for an
        answer. Returns them and how many turns went. Raises InputError when the message alone is too long."""
        turns = self.turns
        while True:
            ids = conversation_ids(self.loaded.tokenizer, [self.system, *(m for turn in turns for m in turn), user])
            if len(ids) + room <= self.context or not turns:
                break
            turns = turns[1:]
        if len(ids) > self.context:
            raise InputError(f"with the message there are {len(ids)} tokens, more than the model's context of {self.context}")
        forgotten = len(self.turns) - len(turns)
        self.turns = turns
        return ids, forgotten

    def read_ids(self, ids):
        """Bring the cache to hold exactly `ids`; only what is new is computed."""
        known = next((i for i, (old, new) in enumerate(zip(self.read, ids, strict=False)) if old != new),
                     min(len(self.read), len(ids)))  # fmt: skip
        cache = self.cache
        self.forget()  # an interrupt in the middle leaves nothing half read
        if known == 0:
            cache = self.cache
        elif surplus := cache.get_seq_length() - known:
            cache.crop(-surplus)
        if known < len(ids):
            step(self.loaded.model, torch.tensor([ids[known:]]), cache)
        self.cache, self.read = cache, ids

    def reply(self, user, ids, settings, tick):
        """Yield the pieces of the answer's text; at its end, or when it is closed, it is a turn of the conversation."""
        from tokenizers.decoders import DecodeStream

        loaded, written, shown, whole = self.loaded, [], "", False
        self.read_ids(ids[:-1])
        # Beams reorder the cache, so they get one of their own.
        cache = copy.deepcopy(self.cache) if settings.get("num_beams", 1) > 1 else self.cache
        stream, backend = DecodeStream(skip_special_tokens=False), loaded.tokenizer.backend_tokenizer
        try:
            for token in continue_ids(loaded.model, torch.tensor([ids]), loaded.eos_ids, cache=cache, tick=tick, **settings):
                written.append(token)
                if token not in loaded.eos_ids:
                    piece = stream.step(backend, token) or ""
                    shown += piece
                    yield piece
            yield answer(loaded, written)[len(shown):]  # the bytes of a character that was never completed
            whole = True
        finally:
            text = answer(loaded, written) if written else ""
            kept = tuple(token for token in written if token not in loaded.eos_ids)
            self.turns.append((user, Message("assistant", text, kept)))
            if not whole:
                self.forget()  # an interrupt may have come between two layers
            elif cache is self.cache:
                self.read = [*ids, *written][: cache.get_seq_length()]


class Chat:
    """A conversation with its settings and commands, between a person and the screen."""

    def __init__(self, loaded, args, decorated):
        self.settings = {name: getattr(args, name) for name in DEFAULTS}
        self.strategy, self.stats, self.decorated = args.strategy, args.stats, decorated
        self.conversation = Conversation(loaded, SYSTEMS.get(args.system, args.system))
        self.answers = 0  # so that a seed gives another answer at every turn

    def handle(self, line):
        """Do what a line asks for; returns whether the conversation goes on. Raises InputError."""
        if line.strip() in ("quit", "/quit"):
            return False
        if line.startswith("/"):
            self.command(*(line.split(maxsplit=1) + [""])[:2])
        elif line.strip():
            self.ask(line.strip())
        return True

    def command(self, name, value):
        setting = name[1:].replace("-", "_")
        if name == "/help":
            print(HELP)
        elif name == "/settings":
            print(self.described())
        elif name == "/clear":
            self.conversation.begin(self.conversation.system.content)
        elif name == "/stats":
            self.stats = not self.stats
        elif name == "/retry":
            self.retry()
        elif name == "/save":
            self.save(value.strip())
        elif name == "/system" and value:
            self.conversation.begin(SYSTEMS.get(value.strip(), value.strip()))
        elif name == "/strategy" and value.strip() in STRATEGIES:
            self.strategy = value.strip()
        elif name in ("/system", "/strategy"):
            raise InputError(f"{name} needs {'a text' if name == '/system' else 'one of ' + ', '.join(STRATEGIES)}")
        elif setting in self.settings:
            self.settings[setting] = check_setting(setting, value.strip())
            if setting not in (*STRATEGIES[self.strategy], "seed", "max_new_tokens"):
                self.note(f"{self.strategy} does not read it: see /strategy")
        else:
            raise InputError(f"there is no command {name}: see /help")

    def described(self):
        lines = [f"system: {self.conversation.system.content}", f"strategy: {self.strategy}"]
        for name in (*STRATEGIES[self.strategy], "seed", "max_new_tokens"):
            value = self.settings[name]
            lines.append(f"{flag(name)[2:]}: {'drawn anew' if value is None else value}")
        return "\n".join(lines)

    def retry(self):
        if not self.conversation.turns:
            raise InputError("there is nothing to answer yet")
        self.ask(self.conversation.turns.pop()[0].content)

    def save(self, path):
        if not path:
            raise InputError("/save needs a file name")
        content = [{"role": message.role, "content": message.content} for message in self.conversation.messages]
        with writing(path):
            write_text(Path(path).expanduser(), json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        self.note(f"saved in {path}")

    def note(self, text):
        """Say something that is no answer."""
        print(f"[{text}]", file=sys.stderr)

    def ask(self, text):
        """Print the answer to a message as it is written; what is written when it is stopped stays in the conversation."""
        from tqdm import tqdm

        settings = {name: self.settings[name] for name in (*STRATEGIES[self.strategy], "max_new_tokens")}
        if self.strategy == "greedy":
            settings["temperature"] = 0
        elif self.strategy != "beam" and self.settings["seed"] is not None:
            settings["seed"] = self.settings["seed"] + self.answers
        self.answers += 1
        start, user = time.perf_counter(), Message("user", text)
        room = min(settings["max_new_tokens"], self.conversation.context // 2)
        ids, forgotten = self.conversation.fitted_ids(user, room)
        if forgotten:
            self.note(f"the context is full: the oldest {forgotten} turns are forgotten")
        first = None
        with tqdm(total=settings["max_new_tokens"], unit="token", leave=False,
                  disable=None if self.strategy == "beam" else True) as bar:
            try:
                with closing(self.conversation.reply(user, ids, settings, lambda length: bar.update(length - bar.n))) as reply:
                    for piece in reply:
                        first = first or time.perf_counter()
                        bar.clear()
                        print(CONTROL_CHARACTERS.sub("\ufffd", piece) if self.decorated else piece, end="", flush=True)
            finally:
                print(flush=True)
        if self.stats and first:
            self.note(self.figures(start, first))

    def figures(self, start, first):
        tokens = len(self.conversation.turns[-1][1].ids)
        rate = tokens / (time.perf_counter() - start)
        return f"{tokens} tokens, {rate:.0f} tokens/s, first token after {first - start:.2f} s"


def lines(decorated):
    """What the user types: from a terminal with editing and history, or line by line from a pipe."""
    if not decorated:
        yield from sys.stdin
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    try:
        HISTORY.touch()
        session = PromptSession(history=FileHistory(str(HISTORY)))
    except OSError:  # a home that cannot be written
        session = PromptSession()
    while True:
        try:
            yield session.prompt("> ")
        except KeyboardInterrupt:
            continue  # Ctrl-C clears the line
        except EOFError:
            return


def parse_arguments():
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_flags(parser)
    parser.add_argument("--system", default="story", metavar="TEXT", help="story, json, or a text of your own (%(default)s)")
    parser.add_argument("--strategy", choices=STRATEGIES, default="nucleus", help="(%(default)s)")
    for name, default in DEFAULTS.items():
        parser.add_argument(flag(name), type=setting_type(name), default=default, metavar="N",
                            help="the same seed, the same answers (drawn anew)" if name == "seed" else "(%(default)s)")
    parser.add_argument("--stats", action="store_true", help="a line of figures after each answer")
    parser.add_argument("--once", metavar="TEXT", help="print the answer to this and end")
    return parser.parse_args()


def main():
    with one_line_errors():
        args = parse_arguments()
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            stream.reconfigure(errors="replace")  # a terminal or a pipe that is not UTF-8 must not end the conversation
        decorated = args.once is None and sys.stdin.isatty() and sys.stdout.isatty()
        loaded = load_model(args.model, args.device, args.dtype)
        chat = Chat(loaded, args, decorated)
        if args.once is not None:
            if not args.once.strip():
                raise InputError("the message is empty")
            chat.ask(args.once.strip())
            return
        if decorated:
            print(f"{loaded.identity['name']}, {loaded.identity['parameters']:,} parameters. /help lists the commands.")
        failed = False
        for line in lines(decorated):
            try:
                if not chat.handle(line.rstrip("\n")):
                    break
            except InputError as error:
                print(f"error: {error}", file=sys.stderr)
                failed = True
            except KeyboardInterrupt:
                if not decorated:
                    raise
        if failed and not decorated:
            sys.exit(2)


if __name__ == "__main__":
    main()
