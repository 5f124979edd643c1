"""What Snakemake, DVC and torch ask of a user, and a container's may lack: a name, a home."""

import getpass
import os
from pathlib import Path

CACHE = Path("work/cache")


def settle() -> None:
    """Name the user in the environment, and a cache of this folder, where there is none.

    Each of them ends in a trace otherwise. Processes that are started from here inherit both.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # since Python 3.13 an OSError
        os.environ["USER"] = f"uid{os.getuid()}"

    home = Path(os.path.expanduser("~")) / ".cache"
    nearest = next((folder for folder in (home, *home.parents) if folder.exists()), home)
    is_ours = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    if not is_ours:
        os.environ.setdefault("XDG_CACHE_HOME", str(CACHE.absolute()))
