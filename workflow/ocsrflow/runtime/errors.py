"""The one exception that users are meant to read."""

import re

# What a terminal obeys in place of showing it: control characters, which can move the cursor and hide what stands
# there, and those that turn the direction of writing; and halves of pairs, which stand for bytes that are no text.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """A text for a terminal: names of files and SMILES come from elsewhere, and may hold any character.

    Tabs and line ends stay.
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def brief(error: Exception) -> str:
    """What an error says, in one line.

    PyTorch's refusal to execute what is in a file is a page of advice on how to have it executed, which is left out.
    """
    if type(error).__name__ == "UnpicklingError":
        return "it holds more than numbers and texts, and nothing in it is executed"
    return visible((str(error) or type(error).__name__).splitlines()[0])


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, where, and how to mend it, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))
