"""The errors a user can mend.

Every message says what happened (file, value), what was expected, and the one key or command that mends it. The command
line prints the message without a traceback and leaves with ``exit_code``.

The constructors take one string: a DataLoader worker rebuilds an error in the main process as ``type(text)``.
"""


class UserError(Exception):
    """Bad input or configuration."""

    exit_code = 2


class ConfigError(UserError):
    """A choice that cannot be built: an unknown key, a value out of range, two options that exclude each other."""


class DataError(UserError):
    """A dataset, image or label file that is missing, unreadable or inconsistent."""


class CheckpointError(UserError):
    """A checkpoint that cannot be opened or does not fit the network."""
