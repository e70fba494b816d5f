"""The core, the tasks, training and chat, runs on the packages below and theirs; every later system must leave it so."""

import subprocess
import sys

from tests.helpers import ROOT

import pytest

# As of 2026-11-28. What a later system needs is imported by that system alone, and stays out of this list.
PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy", "matplotlib", "tqdm", "scipy",
            "prompt_toolkit")  # fmt: skip

BLOCKED = '''
import runpy, sys
from importlib import metadata
from importlib.machinery import PathFinder
from packaging.requirements import Requirement

allowed, todo = set(), sys.argv.pop(1).split(",")
while todo:
    name = todo.pop().lower().replace("_", "-")
    if name in allowed:
        continue
    try:
        required = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        continue
    allowed.add(name)
    todo += [r.name for r in map(Requirement, required) if not r.marker or r.marker.evaluate({"extra": ""})]
foreign = {module for module, packages in metadata.packages_distributions().items()
           if not {package.lower().replace("_", "-") for package in packages} & allowed}

class WithoutForeign(PathFinder):
    """Finds what Python's own finder does, but for foreign packages, which seem not to be installed."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in foreign else super().find_spec(name, path, target)

sys.meta_path = [WithoutForeign if finder is PathFinder else finder for finder in sys.meta_path]
assert {"pytest", "hypothesis"} <= foreign and "torch" not in foreign, foreign
for line in sys.stdin.read().splitlines():
    sys.argv = line.split("|")
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, (line, stop.code)
print("all ran")
'''


@pytest.mark.slow
def test_task_1_a_training_a_chat_line_and_a_completion_run_on_the_packages_of_the_core(model_folder, tmp_path):
    """Every other package that is installed is blocked, in a process of its own: pytest, say."""
    (tmp_path / "tale.txt").write_text("The hedgehog went home. The fox sang all night. " * 60, "utf-8")
    lines = (
        f"task1_greedy.py|--model|{model_folder}|--max-new-tokens|5|--results|{tmp_path}",
        f"train_generator.py|--text|{tmp_path}/tale.txt|--hidden-size|16|--num-layers|1|--num-heads|2|--num-kv-heads|1|"
        f"--vocab-size|300|--max-length|64|--num-epochs|1|--output|{tmp_path}/out",
        f"chat.py|--model|{model_folder}|--max-new-tokens|5|--once|hello",
        f"autocomplete.py|--model|{model_folder}|--max-new-tokens|5|--once|he",
    )
    done = subprocess.run([sys.executable, "-c", BLOCKED, ",".join(PACKAGES)], input="\n".join(lines), cwd=ROOT,
                          env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and done.stdout.endswith("all ran\n"), done.stderr[-2000:]
