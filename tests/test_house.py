"""The house: every module imports lower floors only, no circle, no module above 400 lines, each with a docstring.

Read from the sources with `ast`; imports inside functions count, imports for annotations alone (TYPE_CHECKING) do not.
"""

import ast
import itertools
from pathlib import Path

from tests.helpers import ROOT

import pytest

FLOORS = [  # lowest first; a name stands for a folder, or for a module at the top level
    {"support"}, {"models"}, {"data"}, {"training"}, {"decoding"}, {"common"},
    {"task1_greedy", "task2_sampling", "task3_temperature", "task4_nucleus", "task5_beam"}, {"strategies"},
    {"generator", "lstm", "replier"},
    {"autocomplete", "chat", "evaluate_autocomplete", "evaluate_generator", "evaluate_replies", "reply", "train_autocomplete",
     "train_generator", "train_replies", "studies"},
]  # fmt: skip
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SCRIPTS = FLOORS[-1] - {"studies"}  # not imported by one another
LINES = {"common": 320}  # others: 400


def module_name(path: Path) -> str:
    """data/corpus/stories.py -> data.corpus.stories, data/corpus/__init__.py -> data.corpus"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted(
    [*ROOT.glob("*.py"), *itertools.chain(*(ROOT.glob(f"{room}/**/*.py") for room in FLOOR))])}  # fmt: skip


def imports(source: str) -> set[str]:
    """The modules of this project that a source imports: `from data.corpus import names` is data.corpus.names if there is
    such a module, else data.corpus."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for name in ("body", "orelse"):
            if isinstance(getattr(node, name, None), list):
                setattr(node, name, [child for child in getattr(node, name) if not for_annotations(child)])
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in FILES else node.module
                      for alias in node.names}  # fmt: skip
    return {name for name in found if name.split(".")[0] in FLOOR}


def for_annotations(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


IMPORTS = {name: imports(path.read_text("utf-8")) for name, path in FILES.items()}


def test_imports_are_read_as_python_does():
    """By hand: one import at the top, one in a function, one of another package, one for annotations alone."""
    source = ("import torch\nfrom data.corpus import names\nif TYPE_CHECKING:\n    import chat\n"
              "def f():\n    from support.files import write_text\n    import common\n")  # fmt: skip
    assert imports(source) == {"data.corpus.names", "support.files", "common"}


def test_every_module_has_a_floor():
    assert {name.split(".")[0] for name in FILES} == set(FLOOR)


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_lower_floors_and_its_own(name):
    room = name.split(".")[0]
    for other in IMPORTS[name]:
        above = other.split(".")[0]
        assert FLOOR[above] <= FLOOR[room], f"{name} imports {other}, which stands above it"
        assert other in FILES, f"{name} imports {other}, which is not there"
        assert above not in SCRIPTS or above == room, f"{name} imports the script {other}"


def test_there_is_no_circle():
    """Modules without imports are taken away until none is left; a circle would remain."""
    left = {name: {other for other in others if other != name} for name, others in IMPORTS.items()}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, f"a circle among {sorted(left)}"


@pytest.mark.parametrize("name", FILES)
def test_a_module_is_short_and_says_what_it_is(name):
    source = FILES[name].read_text("utf-8")
    assert source.count("\n") <= LINES.get(name, 400)
    assert ast.get_docstring(ast.parse(source))


def test_the_search_path_is_touched_nowhere():
    here = Path(__file__)
    for path in [*FILES.values(), *(ROOT / "tests").rglob("*.py")]:
        assert path == here or "sys.path" not in path.read_text("utf-8"), path
