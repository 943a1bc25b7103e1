"""The one error that a user is meant to read."""


class SeparationError(Exception):
    """Something the user can put right; its text is one sentence that says what and how."""
