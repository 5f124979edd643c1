"""The one error a user may see, and how every command reports it."""

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend: one line naming the file or key, and the remedy."""


class Interrupted(Exception):
    """Stopped by a signal after saving; calling the same command again goes on from there."""


EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: not a failure of the run, try again


def report(main: Callable[[list[str] | None], None]) -> None:
    """Run a command's main; a user's error becomes one line on stderr and exit code 1."""
    in_workflow = "ROBUST_FROZEN" in os.environ  # a job, whose log begins and ends here
    if in_workflow:
        from pipeline.joblog import DONE, head  # the plan, which it names, imports this module

        print(head(), file=sys.stderr, flush=True)
    try:
        main(None)
        if in_workflow:
            print(DONE, flush=True)
    except UserError as error:
        sys.exit(f"error: {error}")
    except Interrupted as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:  # full disk, read-only folder, missing file
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror or error}")
