"""Draw what a beam search did as a tree of tokens: which beginnings lived on, which died, which ended and won.

    python -m studies.beam_tree
    python -m studies.beam_tree --num-beams 8 --model qwen

Writes results/<model>/beam_json.svg and beam_hedgehog.svg: the searches on the exercise's two prompts, cut off after the
number of tokens in LIMITS. The labels stay text, and the background is white on a dark page too.
"""

from support.errors import one_line_errors

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from unicodedata import east_asian_width

from common import checked_ids
from models.loading import load_model
from studies.drawing import token_name
from support.colours import BLUE, GREEN, GREY, ORANGE
from support.drawing import plt
from support.files import make_folder, write_aside
from support.flags import COUNT, Parser, add_model_flags, add_results_flag, number
from support.results import model_folder
from task5_beam import SETTINGS, beam_search, rank

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Line
from torch import Tensor, nn

LIMITS = {"json": 40, "hedgehog": 12}  # tokens
PENALTIES = sorted({setting["length_penalty"] for setting in SETTINGS})
# Labels stay text in the file, and the same search gives the same bytes every time.
SVG = {"svg.fonttype": "none", "svg.hashsalt": "beams", "font.family": "monospace", "font.size": 9}
LETTER, LINE, GAP, MARGIN, TOP = 5.6, 11.5, 20, 16, 68  # points; LETTER: in any usual monospace font
BOX_LETTERS = 26  # a longer box has several lines
HEAD = "Above a box: the number of its first token. In it: tokens, ␣ for a space, and the summed log-probability so far."
STYLES = {  # fate: (shape of the box, its line, its colour, its filling)
    "lived": ("round,pad=0.4", "-", BLUE, "#e6f1f8"),
    "died": ("square,pad=0.35", ":", "#666666", "white"),
    "ended": ("round4,pad=0.5", "-", GREEN, "#dcf2ea"),
    "open": ("square,pad=0.4", "--", ORANGE, "#fbeade"),
}


@dataclass(eq=False)
class Node:
    """A token that was kept at its step, or ended a text; the root stands for the prompt."""

    token: int | None = None
    total: float = 0.0  # summed log-probability from the prompt to here
    parent: Self | None = None
    fate: str = "open"  # lived (on), died, ended (by EOS), open (when the search stopped)
    children: list[Self] = field(default_factory=list)  # the best first

    def way(self) -> list[Self]:
        """The nodes from here back to the root."""
        return [self, *(self.parent.way() if self.parent else [])]


class Tree:
    """A search on ids (1, T): beam_search's candidates, the node where each ends, and the winner at each penalty."""

    def __init__(self, model: nn.Module, ids: Tensor, num_beams: int, eos_ids: frozenset[int], limit: int) -> None:
        self.limit, self.root = limit, Node()
        self.steps, self.ends = [[self.root]], []  # steps: the live nodes, step by step
        self.candidates = beam_search(model, ids, num_beams, eos_ids, limit, watch=self.grow)
        self.cut_off = not self.candidates[-1].ended
        self.ends += self.steps[-1] if self.cut_off else []
        self.winners = {}  # node: the penalties at which it wins
        for penalty in PENALTIES:
            best = rank(self.candidates, penalty)[0][1]
            self.winners.setdefault(self.ends[self.candidates.index(best)], []).append(penalty)

    def grow(self, length: int, parents: Tensor, tokens: Tensor, totals: Tensor, ending: Tensor, alive: Tensor) -> None:
        """Add a step of `beam_search`, as it tells its `watch`: of the ranked pool, who ended and who lives on."""
        before, live, finished = self.steps[-1], [], set(ending.tolist())
        for i in sorted([*finished, *alive.tolist()]):
            node = Node(tokens[i].item(), totals[i].item(), before[parents[i]])
            node.parent.children.append(node)
            if i in finished:
                node.fate = "ended"
                self.ends.append(node)
            else:
                live.append(node)
        for node in before:
            node.fate = "lived" if node.children else "died"
        self.steps.append(live)


class Box:
    """What is drawn as one: a node, or a run of nodes that lived on without a fork."""

    def __init__(self, tree: Tree, node: Node, first: int, name: Callable[[Node], str]) -> None:
        """`first` is the step of the node; `name(node)` is its label."""
        run = [node]
        while node.parent and node.fate == "lived" and len(node.children) == 1 and node.children[0].fate == "lived":
            node = node.children[0]
            run.append(node)
        self.node, self.first, self.last, self.note = node, first, first + len(run) - 1, remark(tree, node)
        self.lines = textwrap.wrap(" ".join(map(name, run)), BOX_LETTERS, break_long_words=False, break_on_hyphens=False)
        if node.parent:
            self.lines.append(f"{node.total:.2f}".replace("-", "−") if node.total < -0.005 else "≈ 0")
        self.inner, beside = (max(map(letters, lines)) * LETTER for lines in (self.lines, self.note))
        self.width = self.inner + beside + 16  # points
        self.children = [Box(tree, child, self.last + 1, name) for child in node.children]

    def all(self) -> list[Self]:
        """This box and all boxes to its right that grow from it."""
        return [self, *(box for child in self.children for box in child.all())]

    def place(self, free: list[int]) -> None:
        """Choose the boxes' rows in the picture; at each step, the rows from `free[step]` on are free.

        This box, its best child, that one's best child and so on share the first row that is free at all their steps. Then
        come the boxes that fork off this line, the last fork first, so that no line crosses another.
        """
        line = [self]
        while line[-1].children:
            line.append(line[-1].children[0])
        steps = slice(self.first, line[-1].last + 1)
        row = max(free[steps])
        free[steps] = [row + 1] * len(free[steps])
        for box in reversed(line):
            box.y = row  # draw() turns it into points
            for child in box.children[1:]:
                child.place(free)


def letters(line: str) -> int:
    """The width of a line, in letters of a monospace font."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in line)


def remark(tree: Tree, node: Node) -> list[str]:
    """The lines beside a node at which a text stopped: which candidate it is, and at which penalties it wins."""
    if node not in tree.ends:
        return ["still open" if node.fate == "open" else ""]
    wins = ", ".join(map(str, tree.winners.get(node, [])))
    lines = [f"candidate {tree.ends.index(node) + 1}", node.fate == "open" and "cut off", wins and f"★ wins at {wins}"]
    return [line for line in lines if line]


def legend(tree: Tree) -> list[tuple[str | None, str]]:
    """(fate, explanation) pairs; no fate means the way to a winner."""
    return [
        ("lived", "lived on: some continuation was kept. Several tokens in one box: nothing forked"),
        ("died", "died: no continuation was good enough to be kept"),
        ("ended", "ended by itself: a candidate, numbered in the order of ending"),
        ("open", f"cut off at the limit of {tree.limit} tokens: candidates too" if tree.cut_off else
                 "still open when the search stopped, as enough candidates had ended: not candidates"),
        (None, "★ wins at these length penalties: the best log-probability / length ** length_penalty"),
    ]  # fmt: skip


def columns(boxes: list[Box]) -> list[float]:
    """Where each step begins, in points: to the right of every box that ends before it."""
    left, starts = [MARGIN], {box.first for box in boxes}
    for step in range(max(box.last for box in boxes) + 1):
        ends = [left[box.first] + box.width + GAP for box in boxes if box.last == step]
        left.append(max([left[-1] + 4 * LETTER * (step in starts), *ends]))  # room for the step's number
    return left


def draw_box(axis: Axes, x: float, y: float, lines: list[str], fate: str) -> None:
    """A box with its text, its middle at y."""
    shape, line, colour, filling = STYLES[fate]
    axis.text(x, y, "\n".join(lines), va="center", linespacing=1.15,
              bbox={"boxstyle": shape, "linestyle": line, "edgecolor": colour, "facecolor": filling, "linewidth": 1.2})


def draw_edge(axis: Axes, start: tuple[float, float], end: tuple[float, float], bend: float, wins: bool) -> None:
    """A line from a box to its child: level up to x = `bend`, as its row is free, then across the gap of the columns."""
    (x, y), middle = end, (bend + end[0]) / 2
    line = Line([start, (bend, start[1]), (middle, start[1]), (middle, y), (x, y)], [1, 2, 4, 4, 4])
    colour, width = (GREEN, 3) if wins else (GREY, 1)
    axis.add_patch(PathPatch(line, fill=False, edgecolor=colour, linewidth=width, zorder=0.5 + 0.1 * wins))


def draw_boxes(axis: Axes, boxes: list[Box], left: list[float], winning: set[Node]) -> None:
    """Every box with its note and the lines to its children; `left` are the columns, `winning` the nodes on a winner's way."""
    for box in boxes:
        x = left[box.first]
        draw_box(axis, x, box.y, box.lines, box.node.fate)
        axis.text(x + box.inner + 8, box.y, "\n".join(box.note), va="center", weight="bold")
        for child in box.children:
            end = left[child.first] - 4
            draw_edge(axis, (x, box.y), (end, child.y), end + 4 - GAP, child.node in winning)


def draw_legend(axis: Axes, tree: Tree, y: float) -> float:
    """The legend from y on; returns where it ends."""
    for fate, text in legend(tree):
        if fate:
            draw_box(axis, MARGIN, y, ["token"], fate)
        else:
            draw_edge(axis, (MARGIN, y), (MARGIN + 30, y), MARGIN + 10, True)
        axis.text(MARGIN + 48, y, text, va="center")
        y += 2 * LINE
    return y


def draw(tree: Tree, name: Callable[[Node], str], title: str, path: Path) -> None:
    """The tree as an SVG; `name(node)` is a token's label. Raises InputError where it cannot be written."""
    root = Box(tree, tree.root, 0, name)
    free = [0] * len(tree.steps)
    root.place(free)
    boxes, winning = root.all(), {node for winner in tree.winners for node in winner.way()}
    left, tall = columns(boxes), LINE * max(len(box.lines) for box in boxes) + 16
    for box in boxes:
        box.y = TOP + (box.y + 0.5) * tall
    with plt.rc_context(SVG):
        figure = plt.figure(facecolor="white")
        axis = figure.add_axes((0, 0, 1, 1))
        axis.text(MARGIN, 18, title, va="center", weight="bold", size=11)
        axis.text(MARGIN, 36, HEAD, va="center")
        for step in {box.first for box in boxes[1:]}:
            axis.text(left[step], 58, str(step), va="center", color="#666666")
        draw_boxes(axis, boxes, left, winning)
        bottom = draw_legend(axis, tree, TOP + max(free) * tall + MARGIN)
        wide = max(left[-1], LETTER * len(HEAD) + 2 * MARGIN)
        axis.set(xlim=(0, wide), ylim=(bottom, 0))
        axis.axis("off")
        figure.set_size_inches(wide / 72, bottom / 72)
        make_folder(path.parent)
        write_aside(path, lambda aside: figure.savefig(aside, format="svg", metadata={"Date": None}))
    plt.close(figure)


def main() -> None:
    with one_line_errors():
        parser = Parser(__doc__)
        parser.add_argument("--num-beams", type=number(COUNT), default=4, metavar="N", help="(default: %(default)s)")
        add_model_flags(parser)
        add_results_flag(parser)
        args = parser.parse_args()
        folder = model_folder(args.results, args.model, args.adapter)
        loaded = load_model(args.model, args.device, args.dtype, args.engine, args.adapter)
        for prompt, limit in LIMITS.items():
            tree = Tree(loaded.model, checked_ids(loaded, prompt), args.num_beams, loaded.eos_ids, limit)
            draw(tree, lambda node: token_name(loaded.tokenizer, node.token) if node.parent else "prompt",
                 f"Beam search: num_beams {args.num_beams}, prompt {prompt}, at most {limit} tokens",
                 folder / f"beam_{prompt}.svg")  # fmt: skip
        print(f"beam_json.svg and beam_hedgehog.svg are in {folder}")


if __name__ == "__main__":
    main()
