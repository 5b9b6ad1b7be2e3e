"""What a user can mend."""


class UserError(Exception):
    """A mistake of the user's: one line that says what is wrong and what to do."""


class FolderError(UserError):
    """A run's folder is damaged, or holds what is not of this run; other runs are none the worse for it."""
