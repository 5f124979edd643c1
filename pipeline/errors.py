"""The errors that a user may see."""

import re

# of an address: user and password, and what a query calls a token, key, signature or the like
LOGIN = re.compile(r"(?<=://)[^/\s'\"]+@")
TOKEN = re.compile(
    r"([?&][\w.-]*(?:token|key|secret|signature|password|credential)[\w.-]*=)[^&\s'\"]+", re.I
)


class UserError(Exception):
    """Something the user can correct: one line naming the file or key, and the remedy.

    The line goes into logs, whoever wrote it (git, DVC, a server): no credentials stand in it.
    """

    def __str__(self) -> str:
        """The line, without what only the owner of an address may know."""
        return TOKEN.sub(r"\1...", LOGIN.sub("", super().__str__()))


class Interrupted(Exception):
    """Stopped by a signal after saving; calling the same command again goes on from there."""


EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: not a failure of the run, try again
