"""A line at a terminal with suggestions: the rest of it in grey behind the cursor, words to choose from under it."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from support.streams import CONTROL_CHARACTERS
from support.terminal import heeding_kills

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

Word = tuple[str, str]  # as it is shown, and what it adds to the line


class SuggestingLine:
    """A person's lines. What is suggested is found in a thread of its own, in two stages, so that typing never waits.

    An answer to a text that has changed meanwhile is dropped. Tab or → takes the grey text; the digit of a word, while that
    word is shown, takes it, and a blank: behind another digit, and behind Ctrl-Q, it is a digit.
    """

    def __init__(self, words: Callable[[str], list[Word]], rest: Callable[[str, Callable[[], bool]], str]) -> None:
        """words(text), at most nine, and then rest(text, stale) are asked of every text; stale() is whether it has changed."""
        from prompt_toolkit import PromptSession

        self.ask_words, self.ask_rest = words, rest
        self.thread = ThreadPoolExecutor(1)
        self.words: list[Word] = []
        self.grey = ("", "")  # the last text with a rest, and that rest
        self.number = self.found = 0  # how often the text has changed, and how often it had when `words` were found
        self.at_work = False  # whether suggestions are being found
        self.session = PromptSession("> ", bottom_toolbar=self.toolbar, key_bindings=self.bindings(), erase_when_done=True)
        self.buffer = self.session.default_buffer
        self.buffer.on_text_changed += lambda _: self.changed()

    def lines(self) -> Iterator[str]:
        """Each line that is sent with Enter, until Ctrl-D. Ctrl-C clears a line; raises KeyboardInterrupt on an empty one."""
        while True:
            self.words = []
            try:
                with heeding_kills(self.session) as heed:
                    line = self.session.prompt(pre_run=lambda heed=heed: (heed(), self.changed()))
            except EOFError:
                return
            finally:
                self.number += 1  # what is still being found is for nobody
            yield line

    def changed(self) -> None:
        """Have suggestions for the text as it is now. Meanwhile grey text that was typed along stays; so do words, but dim."""
        from prompt_toolkit.application import get_app

        text, (before, rest) = self.buffer.text, self.grey
        self.number += 1
        if text.startswith(before) and (before + rest).startswith(text):
            self.show(before + rest)
        if not self.at_work:
            self.at_work = True
            get_app().create_background_task(self.work())

    def show(self, whole: str) -> None:
        """Let the line's text as it is now become `whole`, in grey."""
        from prompt_toolkit.auto_suggest import Suggestion

        text = self.buffer.text
        self.grey, self.buffer.suggestion = (text, whole[len(text):]), Suggestion(whole[len(text):])

    async def work(self) -> None:
        """Find and show what is suggested, until it is for the newest text."""
        from prompt_toolkit.application import get_app

        find, app, number = partial(asyncio.get_running_loop().run_in_executor, self.thread), get_app(), None
        try:
            while number != self.number:
                number, text = self.number, self.buffer.text
                words = await find(self.ask_words, text)
                if number == self.number:
                    self.words, self.found = words, number
                    app.invalidate()
                    rest = await find(self.ask_rest, text, lambda number=number: number != self.number)
                if number == self.number:
                    self.show(text + rest)
                    app.invalidate()
        except Exception as error:  # the model's: it ends the line, and is reported as elsewhere
            if not app.is_done:
                app.exit(exception=error)
        finally:
            self.at_work = False

    def toolbar(self) -> list[tuple[str, str]]:
        """The words with their digits, as prompt_toolkit's fragments; never nothing, or the screen would jump."""
        shown = [CONTROL_CHARACTERS.sub("\ufffd", word) for word, _ in self.words]
        digit, plain = ("bold", "") if self.found == self.number else ("dim", "dim")
        return [("", " "), *(part for n, word in enumerate(shown, 1) for part in ((digit, f" {n} "), (plain, f"{word} ")))]

    def bindings(self) -> "KeyBindings":
        """The keys of the line that are not a terminal's usual ones. → takes grey text by prompt_toolkit's own."""
        from prompt_toolkit.filters import Condition, renderer_height_is_known  # where it is not, the words are not shown
        from prompt_toolkit.key_binding import KeyBindings

        bindings = KeyBindings()

        @bindings.add("tab")
        def take_grey(event: "KeyPressEvent") -> None:
            if self.buffer.suggestion and self.buffer.document.is_cursor_at_the_end:
                self.buffer.insert_text(self.buffer.suggestion.text)

        def take_word(place: int, event: "KeyPressEvent") -> None:
            self.buffer.insert_text(self.words[place][1] + " ")

        for place in range(9):
            shown = Condition(partial(self.takes, place))
            bindings.add(str(place + 1), filter=shown & renderer_height_is_known)(partial(take_word, place))

        @bindings.add("c-c")
        @bindings.add("<sigint>")
        def clear_or_leave(event: "KeyPressEvent") -> None:
            if self.buffer.text:
                self.buffer.text = ""
            else:
                event.app.exit(exception=KeyboardInterrupt())

        return bindings

    def takes(self, place: int) -> bool:
        """Whether a digit takes the word in this place, rather than being typed."""
        document = self.buffer.document
        shown = place < len(self.words) and self.found == self.number
        return shown and document.is_cursor_at_the_end and not document.char_before_cursor.isdigit()
