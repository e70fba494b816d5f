"""What every picture needs: PNG files, and tokens as labels."""

from pathlib import Path
from typing import TYPE_CHECKING

from support.drawing import Figure, plt
from support.files import make_folder, write_aside

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, and its folder if need be. Raises InputError where that fails."""
    make_folder(path.parent)
    write_aside(path, lambda aside: figure.savefig(aside, format="png", dpi=120))
    plt.close(figure)


def token_name(tokenizer: "PreTrainedTokenizerBase", token: int) -> str:
    """A token as a label: its text, with spaces visible and control characters escaped."""
    return repr(tokenizer.decode([token]))[1:-1].replace(" ", "␣").replace("$", r"\$") or "∅"
