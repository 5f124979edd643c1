"""The errors that a user may see."""


class UserError(Exception):
    """Something the user can correct: one line naming the file or key, and the remedy."""


class Interrupted(Exception):
    """Stopped by a signal after saving; calling the same command again goes on from there."""


EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: not a failure of the run, try again
