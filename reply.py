"""Answer a citizen's request in a tone that you choose: on the command line, in a pipe, or at a terminal.

    python reply.py "My street has had no light for a week" --tone apologetic
    python reply.py "My street has had no light for a week" --tone firm --category roads --decision negative
    python reply.py "You lot are useless, fix the road!" --tone friendly --guidance 2 --candidates 8 --seed 1
    python reply.py "My bin was not emptied" --tone official --num 3 --strategy sampling --top-k 40
    python reply.py "My bin was not emptied" --tone official --on-mismatch retry,log,default,tell --json
    cat requests.txt | python reply.py --tone friendly    # a request a line, a blank line between the replies
    python reply.py                                       # type requests; /help says how to change the tone meanwhile

What is left out of --tone and --decision is left to the model; the category is read from the request. What is printed is the
model's text, with nothing around it.

Heads of the model judge each reply. Where its tone (or category, or decision) is judged to be another than the one asked for,
the steps of --on-mismatch follow, each in its turn:

    retry    write again, at most --tries times: first with a new seed, then also with a higher temperature, a smaller top_p
             and more guidance; ends at the first reply that is as asked
    log      a warning, and every miss up to here appended to the file --log, one JSON object a line
    default  a safe answer of that category and tone, written beforehand, in the place of a reply that missed
    tell     say what could not be done, and how to ask instead
    none     nothing: print what was written

Where all miss and there is no safe answer, the reply that missed least is printed. The default is retry,tell: a retry costs a
second and leaves no trace, and a miss is not passed over in silence, while log writes a file and default gives up the model's
own text, which somebody should have asked for. The fifth way to go on is to learn from what was missed, which takes minutes
and so is a command of its own, for the file that log has written:

    python train_replies.py --failures FILE

With many --candidates the heads judge what they have chosen themselves, and miss less than is missed: evaluate_replies.py
measures by judges that guided nothing.
"""

from support.errors import FAILED, ROOT, InputError, first_line, one_line_errors, report

import argparse
import json
import random
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.replies import ATTRIBUTES, CITIZEN_VALUES, read_replies
from decoding.mismatch import STEPS, Case, Ways, answer
from models.chatml import check_unicode
from models.control import ANY, TOLD
from replier import Replier
from strategies import STRATEGIES
from support.files import make_folder, writing
from support.flags import COUNT, DTYPES, RULES, Parser, checked, flag, number, some_path, some_text
from support.streams import visible
from support.terminal import Interrupts, lines, note, piped_lines
from support.wrapping import wrapped

MODEL = "checkpoint_replies"  # the folder beside this script
ALWAYS = {"guidance": 1.0, "candidates": 1, "no_repeat_ngram_size": 0, "max_new_tokens": 160}  # read by every strategy
DEFAULTS = ALWAYS | {"num": 1, "tries": 3, "seed": None, "temperature": 0.7, "top_p": 0.95, "top_k": 0, "num_beams": 4,
                     "length_penalty": 1.0}  # fmt: skip
RULE = RULES | dict.fromkeys(("num", "tries"), COUNT)
HELP = """\
/tone, /category, /decision VALUE  what the next replies are to be; without a value, left to the model
/guidance, /candidates, /temperature, ... VALUE
/settings                          what is in use
quit, /quit, Ctrl-D                the end; Ctrl-C stops a reply
Anything else is a request; to begin one with /, put a space before it."""


@dataclass
class Desk:
    """Who answers, and what is asked of the replies: `settings` has a value for each name in DEFAULTS."""

    ways: Ways
    labels: dict[str, str]
    strategy: str
    settings: dict[str, Any]

    def answer(self, request: str) -> tuple[Case, float | None]:
        """A request with its replies, and how sure the category is that was read from it, None where none was.

        Raises InputError for a request that nothing answers.
        """
        check_request(request)
        asked, read = {attribute: value for attribute, value in self.labels.items() if value != ANY}, None
        if TOLD not in self.labels:
            category, prob = self.ways.replier.category_of(request)
            if category:
                asked[TOLD], read = category, prob
        case, seed = Case(request, asked, self.settings["num"]), self.settings["seed"]
        answer(case, self.ways._replace(tries=self.settings["tries"]),
               self.in_use() | {"seed": random.randrange(2**63) if seed is None else seed})
        return case, read

    def in_use(self) -> dict[str, Any]:
        """The settings that are read, as `Replier.write` takes them; what the strategy does not name is switched off."""
        switched_off = {"temperature": 0.0 if self.strategy in ("greedy", "beam") else 1.0, "top_k": 0, "top_p": 1.0}
        return switched_off | {name: self.settings[name] for name in (*STRATEGIES[self.strategy], *ALWAYS)}


def check_request(request: str) -> None:
    """Raises InputError, in one line, for a request that nothing answers."""
    if not request.strip():
        raise InputError("the request is empty: there is nothing to answer")
    check_unicode("request", request)


# ------------------------------------------------------------------------------------------------------ what is printed


def as_json(case: Case, read: float | None) -> str:
    """A case as one line: what was asked and judged, all tries, and why the replies were kept."""
    replies = [{"text": kept.written.text, "judged": kept.judged(), "missed": kept.missed, "try": kept.number,
                "why": case.why(kept)} for kept in case.kept()]  # fmt: skip
    tries = [{"try": attempt.number, "text": attempt.written.text, "judged": attempt.judged(), "missed": attempt.missed,
              "settings": attempt.settings} for attempt in case.attempts]  # fmt: skip
    return json.dumps({"request": case.request, "asked": case.asked, "category_read": None if read is None else round(read, 4),
                       "replies": replies, "tries": tries, "told": case.notes}, ensure_ascii=False)


def show(case: Case, read: float | None, json_lines: bool) -> None:
    """Print the replies with a blank line between them, or the case as JSON, which holds the notes."""
    if json_lines:
        print(visible(as_json(case, read)), flush=True)
        return
    for text in case.notes:
        note(text)
    print("\n\n".join(wrapped(kept.written.text, sys.stdout) for kept in case.kept()), flush=True)


def answer_lines(desk: Desk, json_lines: bool) -> bool:
    """Answer each line of a pipe, or report why not; returns whether all were answered. Raises InputError for an empty pipe."""
    count, printed, failed = 0, False, False
    for count, line in enumerate(piped_lines(), 1):
        try:
            answered = desk.answer(line.strip())
        except InputError as error:
            report(f"error: line {count}: {error}")
            failed = True
            continue
        if printed and not json_lines:
            print()
        show(*answered, json_lines)
        printed = True
    if not count:
        raise InputError("there is nothing to answer: the input is empty")
    return not failed


# --------------------------------------------------------------------------------------------------------- at a terminal


def converse(desk: Desk, json_lines: bool) -> None:
    """Answer request after request until the user ends it."""
    interrupts = Interrupts()
    for line in lines(at_terminal=True):
        signal.signal(signal.SIGINT, interrupts)  # after every line: prompt_toolkit sets its own handler
        try:
            if line.strip() in ("quit", "/quit"):
                return
            if line.startswith("/"):
                obey(desk, *(line.split(maxsplit=1) + [""])[:2])
            elif line.strip():
                show(*desk.answer(line.strip()), json_lines)
        except (InputError, RuntimeError) as error:  # RuntimeError: torch's, for too little memory
            report(f"error: {first_line(error)}")
        except KeyboardInterrupt:
            pass  # the reply is stopped


def obey(desk: Desk, name: str, value: str) -> None:
    """Carry out a command, such as "/tone" with the value "firm". Raises InputError."""
    value, setting, known = value.strip(), name[1:].replace("-", "_"), desk.ways.replier.labels
    if name == "/help":
        print(wrapped(HELP, sys.stdout), flush=True)
    elif name == "/settings":
        print(visible(described(desk)), flush=True)
    elif setting in known.values:
        labels = {attribute: label for attribute, label in desk.labels.items() if attribute != setting}
        labels |= {setting: value} if value else {}
        known.ids(labels)
        desk.labels = labels
    elif setting in desk.settings:
        try:
            desk.settings[setting] = checked(RULE[setting], value)
        except InputError as error:
            raise InputError(f"{name} {error}") from error
    else:
        raise InputError(f"there is no command {name}: see /help")


def described(desk: Desk) -> str:
    """What is in use, one a line."""
    labels = {attribute: desk.labels.get(attribute, "read from the request" if attribute == TOLD else ANY)
              for attribute in desk.ways.replier.labels.values}  # fmt: skip
    more = {name: desk.settings[name] for name in ("num", "tries", "seed")}
    return "\n".join(f"{flag(name)[2:]}: {'a new one for each request' if value is None else value}"
                     for name, value in (labels | {"strategy": desk.strategy} | desk.in_use() | more).items())  # fmt: skip


def welcome(desk: Desk) -> str:
    """What stands above the first line."""
    choices = "\n".join(f"/{attribute} {'|'.join(values)}" for attribute, values in desk.ways.replier.labels.values.items())
    return f"Type a request; Enter answers it. What the replies are to be:\n{choices}\n/help lists the commands."


# ------------------------------------------------------------------------------------------------------------ the command


def steps(text: str) -> list[str]:
    """An argparse type: "retry,tell" -> its steps, in this order."""
    names = [] if text.strip() == "none" else [name.strip() for name in text.split(",")]
    if "learn" in names:
        raise argparse.ArgumentTypeError("learn takes minutes and is a command of its own: python train_replies.py --failures "
                                         "FILE, with the file that the step log writes")
    if not set(names) <= STEPS.keys() or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"must be none, or some of {','.join(STEPS)}, each once, not {text!r}")
    return names


def open_desk(args: argparse.Namespace) -> Desk:
    """The desk of a command line. Raises InputError for a model, a label, a log or safe answers that there are not."""
    folder = ROOT / MODEL if args.model == MODEL else Path(args.model)
    if args.model == MODEL and not folder.is_dir():
        raise InputError(f"the folder {MODEL}/ is missing: train a model with `python train_replies.py`, and name its folder "
                         "by --model")
    replies = read_replies(args.text) if args.text else None
    replier = Replier.load(folder, args.device, args.dtype, args.base)
    labels = {name: getattr(args, name) for name in ATTRIBUTES if getattr(args, name) is not None}
    replier.labels.ids(labels)
    built_in = all(set(values) <= set(CITIZEN_VALUES.get(name, ())) for name, values in replier.labels.values.items())
    if "default" in args.on_mismatch and replies is None and not built_in:
        raise InputError("--on-mismatch default: the safe answers at hand are those of the built-in letters; name the file of "
                         "this model's replies by --text")
    if "log" in args.on_mismatch:
        make_folder(args.log.parent)
        with writing(args.log):
            args.log.open("a").close()  # better known before the work
    ways = Ways(replier, args.on_mismatch, log=args.log, replies=replies)
    return Desk(ways, labels, args.strategy, {name: getattr(args, name) for name in DEFAULTS})


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("request", nargs="*", metavar="REQUEST",
                        help="what to answer (default: the lines of a pipe, or what is typed)")
    asked = parser.add_argument_group("what the reply is to be (any: left to the model; a wrong value lists what there is)")
    for name, help_text in (("tone", "official, friendly, apologetic or firm, for the model that comes with the project"),
                            ("category", "what the request is about (default: read from it)"),
                            ("decision", "positive, negative or neutral")):  # fmt: skip
        asked.add_argument(flag(name), type=some_text, metavar="VALUE", help=help_text)
    asked.add_argument("--on-mismatch", type=steps, default="retry,tell", metavar="STEPS",
                       help="see above (default: %(default)s)")
    asked.add_argument("--log", type=some_path, default=Ways._field_defaults["log"], metavar="FILE",
                       help="what the step log appends to (default: %(default)s)")
    asked.add_argument("--text", type=some_path, metavar="FILE",
                       help="for the step default: the CSV that the model was trained on, whose safe answers are used "
                            "(default: the built-in ones)")
    written = parser.add_argument_group("how it is written")
    written.add_argument("--strategy", choices=STRATEGIES, default="nucleus", help="(default: %(default)s)")
    told = {"guidance": "1 writes with the labels, 2 as if they counted twice, 0 without; costs double but at 1",
            "candidates": "write so many, keep the one that the heads find nearest to what was asked",
            "num": "replies to print", "tries": "retries at most", "max_new_tokens": "tokens at which a reply is cut off",
            "no_repeat_ngram_size": "write no run of N tokens twice; 0: any",
            "seed": "the same seed gives the same reply"}  # fmt: skip
    for name, default in DEFAULTS.items():
        until = "a new one for each request" if default is None else default
        written.add_argument(flag(name), type=number(RULE[name]), default=default, metavar="N",
                             help=f"{told[name]} (default: {until})" if name in told else "(default: %(default)s)")
    running = parser.add_argument_group("the model")
    running.add_argument("--model", type=some_text, default=MODEL, metavar="FOLDER",
                         help="a folder that train_replies.py wrote (default: %(default)s)")
    running.add_argument("--base", type=some_text, metavar="NAME",
                         help="where its pretrained base is now, if that was moved: a folder, a .gguf file, or a name")
    running.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    running.add_argument("--dtype", default="float32", choices=DTYPES, help="(default: %(default)s)")
    running.add_argument("--json", action="store_true",
                         help='one object a request: {"request", "asked", "category_read", "replies": [{"text", "judged", '
                              '"missed", "try", "why"}], "tries", "told"}')
    args = parser.parse_args()
    args.request = " ".join(args.request) if args.request else None
    if args.request is not None:
        check_request(args.request)
    return args


def main() -> None:
    """Answer the request of the command line, the lines of a pipe, or what is typed. Exit code 2 if a line could not be."""
    with one_line_errors():
        args = parse_arguments()
        desk = open_desk(args)
        if args.request is not None:
            show(*desk.answer(args.request.strip()), args.json)
        elif sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
            print(wrapped(welcome(desk), sys.stdout))
            converse(desk, args.json)
        elif not answer_lines(desk, args.json):
            sys.exit(FAILED)


if __name__ == "__main__":
    main()
