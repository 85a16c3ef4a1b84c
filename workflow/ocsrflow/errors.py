"""The one exception that users are meant to read."""


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, where, and how to mend it, in one line."""
