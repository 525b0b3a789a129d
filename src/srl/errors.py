"""The one error that is a message to the user rather than a bug."""


class UserError(Exception):
    """Something outside the program is wrong: a file, a field, a flag, a folder.

    The message is one line that says what was expected, what was found, where (`file.jsonl:17`) and what to
    do. The command line prints it and exits with 2; nothing inside srl catches it.
    """
