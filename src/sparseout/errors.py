"""Errors that a user can fix."""


class UserError(Exception):
    """An error in the user's input: its one-line message names the problem and the fix."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """A package of an extra is not installed: the message has the line that installs it."""


class FolderError(UserError):
    """A run's folder is damaged, or contains files of another run. Other runs are unaffected."""
