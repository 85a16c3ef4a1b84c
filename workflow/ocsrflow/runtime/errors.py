"""The one exception that users are meant to read, and errors of the system in words."""

import errno
import os
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

    status = 1  # of the process that ends with it

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


class TrainingFailed(UserError):
    """A training fails by its own settings, on this data and device: out of memory, no finite loss, too large a batch.

    Its exit status says so: to a search it is a result of the settings, while any other failure is one of the machine.
    """

    status = 3


# A wrong size or offset in a file brings these about, too: they say nothing of the system.
_OF_CONTENTS = (0, errno.EINVAL, errno.EOVERFLOW, errno.EFBIG, errno.ERANGE, errno.ESPIPE, errno.EFAULT)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
_NUMBER = re.compile(r"errno = (\d+)|\[errno (\d+)\]", re.IGNORECASE)  # as HDF5 and Arrow write it
_LOCKING = re.compile(r"unable to lock", re.IGNORECASE)


def system_error(error: BaseException) -> int | None:
    """The system's number of an error, where it is why a file could not be read; None where what is in the file is.

    HDF5 and Arrow raise errors of their own with the number in the text.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (said := _NUMBER.search(str(error))):
        number = int(said[1] or said[2])
    return None if number in _OF_CONTENTS else number


def of_the_system(error: BaseException, path: object) -> "UserError | None":
    """What to tell the user of an error of the system with a file; None where it is none.

    A file that could not be read is not said to be damaged: it may be whole, and have taken hours to make.
    """
    number = system_error(error)
    if number is None:
        return None
    reason = os.strerror(number)
    if number == errno.EAGAIN:
        return UserError(f"{path}: another process is writing it; wait for its end")
    if number in _NO_LOCKS or _LOCKING.search(str(error)):
        cause = "its file system does not lock files" if number in _NO_LOCKS else "the system did not lock it"
        return UserError(
            f"{path}: {cause} ({reason}): set HDF5_USE_FILE_LOCKING=FALSE in the "
            "environment, or put it into a folder on another file system"
        )
    if number in (errno.EACCES, errno.EPERM):
        return UserError(f"{path}: no permission to read it ({reason})")
    return UserError(
        f"{path}: the system cannot read it ({reason}), which says nothing of what is in it; look at the disk or the "
        "network, and run the same command again"
    )
