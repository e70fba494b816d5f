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
import math
import re
import signal
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from common import (
    InputError,
    Parser,
    Rows,
    add_model_flags,
    added_tokens,
    answer,
    check_setting,
    check_unicode,
    first_line,
    flag,
    load_model,
    one_line_errors,
    plain_ids,
    setting_type,
    step,
)
from generator import CHAT_TEMPLATE, write_text
from strategies import continue_ids

import torch
from corpus.chatml import JSON_MACHINE, STORYTELLER

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
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Message(NamedTuple):
    """One message; `ids` is what the model wrote, to be read again as it stands."""

    role: str
    content: str
    ids: tuple = ()


def conversation_ids(tokenizer, messages):
    """The ids (a list) of a conversation, open for an answer, by the tokenizer's own chat template.

    Only what the template itself writes can be a control token: the messages are rendered as marks, and their texts put
    in where the control tokens have been found. Raises InputError for text that is not Unicode, and for a conversation
    that the template does not know.
    """
    for message in messages:
        check_unicode("message", message.content)
    marks = {f"\ue000{number}\ue001": message for number, message in enumerate(messages)}
    try:
        rendered = tokenizer.apply_chat_template(
            [{"role": message.role, "content": mark} for mark, message in marks.items()],
            chat_template=None if tokenizer.chat_template else CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template raises what it likes
        raise InputError(f"the model's chat template refuses the conversation: {first_line(error)}") from error
    if list(marks)[-1] not in rendered:  # a template for pictures, say, finds no text in a text
        raise InputError("the model's chat template leaves the message out")
    control = tokenizer.get_added_vocab()  # {token: id}
    ids, text = [], ""
    for part in re.split(f"({added_tokens(tokenizer)}|\ue000\\d+\ue001)", rendered):
        message = marks.get(part)
        if message and not message.ids:
            text += message.content
        elif message or part in control:
            ids += [*plain_ids(tokenizer, text), *(message.ids if message else [control[part]])]
            text = ""
        else:
            text += part
    return ids + plain_ids(tokenizer, text)


def unsettled(tokenizer, token):
    """Whether the text up to `token` may still change: one wrong byte among <0xF0> <0x9F> ... breaks the whole run of
    them, and an id without a token does not end the run."""
    name = tokenizer.id_to_token(token)
    return name is None or BYTE_TOKEN.fullmatch(name) is not None


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

    def messages(self, turns):
        return [self.system, *(message for turn in turns for message in turn)]

    def fitted(self, turns, user, room):
        """The ids of a conversation of `turns` and the user's message, and the turns that are in it: the oldest go until
        `room` tokens are left for an answer. Raises InputError when the message alone leaves none."""
        while True:
            ids = conversation_ids(self.loaded.tokenizer, [*self.messages(turns), user])
            if len(ids) + room <= self.context or not turns:
                break
            turns = turns[1:]
        if len(ids) >= self.context:
            raise InputError(f"with the message there are {len(ids)} tokens; the model's context is {self.context}")
        return ids, turns

    def read_ids(self, ids):
        """Bring the cache to hold exactly `ids`; only what is new is computed."""
        known = next((i for i, (old, new) in enumerate(zip(self.read, ids, strict=False)) if old != new),
                     min(len(self.read), len(ids)))  # fmt: skip
        cache = self.cache
        self.forget()  # an interrupt in the middle leaves nothing half read
        cache.crop(known - cache.get_seq_length())  # by so many tokens: a number of at most 0
        if known < len(ids):
            step(self.loaded.model, torch.tensor([ids[known:]]), cache)
        self.cache, self.read = cache, ids

    def reply(self, turns, user, ids, settings, watch):
        """Yield the pieces of the answer's text. At its end, or when it is stopped after its first token, it is the turn
        that follows `turns`."""
        from tokenizers.decoders import DecodeStream

        loaded, written, shown, held = self.loaded, [], "", []
        self.read_ids(ids[:-1])
        cache, beams = self.cache, settings.get("num_beams", 1) > 1
        if beams:
            cache = copy.deepcopy(cache)  # beams reorder it
        else:
            self.forget()  # an interrupt may come between two layers
        stream, backend = DecodeStream(skip_special_tokens=False), loaded.tokenizer.backend_tokenizer
        try:
            for token in continue_ids(loaded.model, torch.tensor([ids]), loaded.eos_ids, cache=cache, watch=watch,
                                      **settings):
                written.append(token)
                if token not in loaded.eos_ids:
                    held.append(token)
                    piece = ""
                    if not unsettled(backend, token):
                        piece, held = stream.step(backend, held) or "", []
                    shown += piece
                    yield piece
            yield answer(loaded, written)[len(shown):]  # the bytes of a character that was never completed
            if not beams:
                self.cache, self.read = cache, [*ids, *written][: cache.get_seq_length()]
        finally:
            if written:
                kept = tuple(token for token in written if token not in loaded.eos_ids)
                self.turns = [*turns, (user, Message("assistant", answer(loaded, written), kept))]


class Chat:
    """A conversation with its settings and commands, between a person and the screen."""

    def __init__(self, loaded, args):
        self.settings = {name: getattr(args, name) for name in DEFAULTS}
        self.strategy, self.stats = args.strategy, args.stats
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
            print(HELP, flush=True)
        elif name == "/settings":
            print(self.described(), flush=True)
        elif name == "/clear":
            self.conversation.begin(self.conversation.system.content)
        elif name == "/stats":
            self.stats = not self.stats
        elif name == "/retry":
            self.retry()
        elif name == "/save":
            self.save(value.strip())
        elif name == "/system":
            if not value:
                raise InputError("/system needs a text, story or json")
            self.conversation.begin(SYSTEMS.get(value.strip(), value.strip()))
        elif name == "/strategy":
            if value.strip() not in STRATEGIES:
                raise InputError(f"/strategy needs one of {', '.join(STRATEGIES)}")
            self.strategy = value.strip()
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
        *before, (user, _) = self.conversation.turns
        self.ask(user.content, before)

    def save(self, path):
        if not path:
            raise InputError("/save needs a file name")
        messages = self.conversation.messages(self.conversation.turns)
        content = [{"role": message.role, "content": message.content} for message in messages]
        try:
            file = Path(path).expanduser().resolve()  # what is written moves into the file's place: not into a link's
            if file.exists() and not file.is_file():
                raise InputError(f"cannot write {path}: it is no ordinary file")
            write_text(file, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        except InputError:
            raise
        except (OSError, ValueError, RuntimeError) as error:  # the last two for what is no file name
            raise InputError(f"cannot write {path}: {first_line(error.__cause__ or error)}") from error
        self.note(f"saved in {path}")

    def note(self, text):
        """Say something that is no answer."""
        print(f"[{text}]", file=sys.stderr)

    def ask(self, text, before=None):
        """Print the answer to a message that follows the turns `before` (None: all there are), as it is written."""
        from tqdm import tqdm

        conversation, user = self.conversation, Message("user", text)
        settings = {name: self.settings[name] for name in STRATEGIES[self.strategy]}
        if self.strategy in ("greedy", "beam"):
            settings["temperature"] = 0  # one beam is greedy
        elif self.settings["seed"] is not None:
            settings["seed"] = (self.settings["seed"] + self.answers) % 2**63
        self.answers += 1
        start, first = time.perf_counter(), None
        before = conversation.turns if before is None else before
        ids, turns = conversation.fitted(before, user, min(self.settings["max_new_tokens"], conversation.context // 2))
        if len(turns) < len(before):
            self.note(f"the context is full: the oldest {len(before) - len(turns)} turns are forgotten")
        room = conversation.context - len(ids)
        settings["max_new_tokens"] = min(self.settings["max_new_tokens"], room)
        with tqdm(total=settings["max_new_tokens"], unit="token", leave=False,
                  disable=None if self.strategy == "beam" else True) as bar:
            reply = conversation.reply(turns, user, ids, settings, lambda step: bar.update(step.length - bar.n))
            with closing(reply):
                try:
                    for piece in reply:
                        first = first or time.perf_counter()
                        bar.clear()
                        terminal = sys.stdout and sys.stdout.isatty()  # a closed stdout is None
                        print(CONTROL_CHARACTERS.sub("\ufffd", piece) if terminal else piece, end="", flush=True)
                finally:
                    if first:
                        print(flush=True)
        tokens = len(conversation.turns[-1][1].ids)
        if tokens == room:
            self.note(f"cut off: the model's context of {conversation.context} tokens is full")
        if self.stats:
            rate = tokens / (time.perf_counter() - start)
            self.note(f"{tokens} tokens, {rate:.0f} tokens/s, first token after {first - start:.2f} s")


class Interrupts:
    """Ctrl-C, but not twice within half a second: a key held down must not lose the answer that it stopped."""

    def __init__(self):
        self.last = -math.inf

    def __call__(self, *_):
        now = time.monotonic()
        if now - self.last > 0.5:
            self.last = now
            raise KeyboardInterrupt


def lines(decorated):
    """What the user types: from a terminal with editing and history, or line by line from a pipe."""
    if not decorated:
        yield from sys.stdin or ()
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    class KeptHistory(FileHistory):
        def store_string(self, string):
            with suppress(OSError):  # a full disk is no reason to end the conversation
                super().store_string(string)

    try:
        history = Path.home() / ".decode_chat_history"
        history.open("ab").close()
        session = PromptSession(history=KeptHistory(str(history)))
    except (OSError, RuntimeError):  # no home, or none that can be written
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
        streams = [stream for stream in (sys.stdin, sys.stdout, sys.stderr) if stream]
        for stream in streams:
            stream.reconfigure(errors="replace")  # a terminal or a pipe that is not UTF-8 must not end the conversation
        decorated = args.once is None and len(streams) == 3 and sys.stdin.isatty() and sys.stdout.isatty()
        loaded = load_model(args.model, args.device, args.dtype)
        chat = Chat(loaded, args)
        if args.once is not None:
            if not args.once.strip():
                raise InputError("the message is empty")
            chat.ask(args.once.strip())
            return
        if decorated:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the terminal must get its echo back
            print(f"{loaded.identity['name']}, {loaded.identity['parameters']:,} parameters. /help lists the commands.")
        failed, interrupts = False, Interrupts()
        for line in lines(decorated):
            if decorated:
                signal.signal(signal.SIGINT, interrupts)  # anew: prompt_toolkit has its own
            try:
                if not chat.handle(line.rstrip("\n")):
                    break
            except (InputError, RuntimeError) as error:  # RuntimeError: torch's, for too little memory
                print(f"error: {first_line(error)}", file=sys.stderr)
                failed = True
            except KeyboardInterrupt:
                if not decorated:
                    raise
        if failed and not decorated:
            sys.exit(2)


if __name__ == "__main__":
    main()
