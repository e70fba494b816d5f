"""The texts and the code of the documents: what the tasks wrote, and functions as they stand in the source."""

from support.errors import ROOT, InputError

import ast
import contextlib
import html
import io
import textwrap

from studies.doc_tables import Snapshot, setting_name
from studies.labels import RIGHT, SAME_AS_GREEDY, SAMPLE, STOPS, STORY, TOKENS
from support.results import order, print_result, shorten

EXCERPT = 2  # paragraphs
SHOWN_CHARACTERS = 700  # of a text that never ended
WIDTH = 120

# ------------------------------------------------------------------------------------------------------------- texts


def results_of(snapshot: Snapshot, task: str, prompt: str, settings: list[dict]) -> list[dict]:
    """A task's results for a prompt at some settings, in their order. Raises InputError where one is missing."""
    found = []
    for setting in settings:
        at = [run for run in order(snapshot.json(f"generator/{task}.json")["runs"])
              if (run["prompt"], run["parameters"]) == (prompt, setting)]
        if not at:
            raise InputError(f"{task}.json holds no text for {prompt} with {setting_name(setting, 0)}: "
                             f"run python {task}.py without flags")
        found += at
    return found


def jsons(snapshot: Snapshot, task: str, settings: list[dict], language: int) -> str:
    """The JSON at every setting, a line each; settings that wrote the same share a line."""
    return "".join(f"- {names_of(results, language)}: {code(text)} ({RIGHT[results[0]['json_correct']][language]})\n"
                   for text, results in by_text(results_of(snapshot, task, "json", settings)).items())


def excerpts(snapshot: Snapshot, task: str, settings: list[dict], shown: dict, language: int) -> str:
    """The JSON at every setting and the beginning of the first story at one of them, folded into a line."""
    story = results_of(snapshot, task, "hedgehog", [shown])[0]
    paragraphs = beginning(story).split("\n\n")
    shown_text = "\n\n".join(paragraphs[:EXCERPT]) + " …" * (len(paragraphs) > EXCERPT)
    text = html.escape(shown_text, quote=False).replace("\n\n", "<br><br>").replace("\n", "<br>")
    folded = f"<details><summary>{summary(story, result_name(story, language), language)}</summary>{text}</details>\n"
    return jsons(snapshot, task, settings, language) + "\n" + folded


def stories(snapshot: Snapshot, task: str, settings: list[dict], language: int) -> str:
    """All stories of a task, folded. A text that several settings wrote stands once; task 1's, in another task, not at all."""
    greedy = results_of(snapshot, "task1_greedy", "hedgehog", [{}])[0]["text"]
    parts = []
    for text, results in by_text(results_of(snapshot, task, "hedgehog", settings)).items():
        names = names_of(results, language)
        if text == greedy and task != "task1_greedy":
            parts.append(f"{STORY[language]}, {names}: {SAME_AS_GREEDY[language]}.\n")
        else:
            parts.append(folded_text(results[0], names, language))
    return "\n".join(parts)


def by_text(results: list[dict]) -> dict[str, list[dict]]:
    """Results gathered by their text."""
    gathered: dict[str, list[dict]] = {}
    for result in results:
        gathered.setdefault(result["text"], []).append(result)
    return gathered


def names_of(results: list[dict], language: int) -> str:
    """The names of several results in one line."""
    return " / ".join(result_name(result, language) for result in results)


def result_name(result: dict, language: int) -> str:
    """What distinguishes a result from the others of its task: the setting, or the number of the sample."""
    setting = result["parameters"]
    return setting_name(setting, language) if setting else f"{SAMPLE[language]} {result['sample']}"


def code(text: str) -> str:
    """A text, or its beginning, as inline code in one line: nothing in it can end the code or a table's cell."""
    return f"<code>{html.escape(shorten(text), quote=False).replace('|', '&#124;')}</code>"


def summary(result: dict, names: str, language: int) -> str:
    """What stands above a folded story."""
    length, stop = f"{TOKENS[language]}: {result['new_tokens']}", STOPS[result["stop"]][language]
    return f"{STORY[language]}, {names}; {length}; {stop}"


def beginning(result: dict) -> str:
    """A text that ended, or the beginning of one that never did."""
    return result["text"] if result["stop"] == "eos" else result["text"][:SHOWN_CHARACTERS] + " …"


def folded_text(result: dict, names: str, language: int) -> str:
    """A story that opens on a click, its lines wrapped."""
    text = html.escape(wrapped(beginning(result)), quote=False)
    return f"<details><summary>{summary(result, names, language)}</summary>\n\n<pre>\n{text}\n</pre>\n\n</details>\n"


def wrapped(text: str) -> str:
    """The text with its long lines broken between words."""
    return "\n".join(textwrap.fill(line, WIDTH) for line in text.split("\n"))


def printed(snapshot: Snapshot, language: int) -> str:
    """What task 1 prints, its long lines wrapped; the same in both languages."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        for prompt in ("hedgehog", "json"):
            for result in results_of(snapshot, "task1_greedy", prompt, [{}]):
                print_result(result)
    return f"```text\n{wrapped(out.getvalue().rstrip())}\n```\n"


# -------------------------------------------------------------------------------------------------------------- code


def source(name: str) -> str:
    """The code of a function, "task4_nucleus.nucleus", as it stands in its file but for the docstring, in a block."""
    lines, function = parsed(name)
    documented = ast.get_docstring(function) is not None
    head = lines[function.lineno - 1:function.body[0].lineno - 1]
    body = lines[function.body[0].end_lineno if documented else function.body[0].lineno - 1:function.end_lineno]
    return block(head + body)


def loop(name: str) -> str:
    """The first loop of a function, "task5_beam.beam_search", as it stands in its file but for lines of comment, in a block."""
    lines, function = parsed(name)
    found = next((node for node in function.body if isinstance(node, ast.For | ast.While)), None)
    if found is None:
        raise InputError(f"{name} has no loop")
    return block([line for line in lines[found.lineno - 1:found.end_lineno] if not line.strip().startswith("#")])


def parsed(name: str) -> tuple[list[str], ast.FunctionDef]:
    """The lines of a module's file and one of its functions, without an import. Raises InputError where either is missing."""
    module, _, function = name.rpartition(".")
    path = ROOT / (module.replace(".", "/") + ".py")
    if not path.is_file():
        raise InputError(f"there is no module {module}")
    text = path.read_text("utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return text.splitlines(), node
    raise InputError(f"{path.name} has no function {function}")


def block(lines: list[str]) -> str:
    """Lines of Python as a block of code, moved to the left edge."""
    return f"```python\n{textwrap.dedent(chr(10).join(lines))}\n```\n"
