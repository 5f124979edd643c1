"""Fetch just what a target needs: records for a table, weights only for a new attack."""

import re
import subprocess
import sys
from collections.abc import Iterable, Sequence

from pipeline.errors import UserError
from pipeline.plan import Artifact, Plan
from pipeline.plan.state import Needs, closure
from pipeline.share.guard import pull_line
from pipeline.store import manifest

ABSENT = re.compile("Checkout failed|failed to transfer .* No such file")
BATCH = 200  # paths a call: an argument list has its limits


def pull(plan: Plan, targets: Iterable[Artifact]) -> str:
    """Run `dvc pull` on what is recorded and not here; returns what was done."""
    needs = closure(plan, targets, manifest.read())
    if not needs.pull:
        of_it = "" if needs.compute else "; `dvc pull` brings the weights and records behind it"
        return f"nothing to pull; {len(needs.compute)} artifacts to compute{of_it}"
    paths = list(needs.pull)
    for start in range(0, len(paths), BATCH):
        _dvc_pull(paths[start : start + BATCH], needs)

    lines = [manifest.read()[p] for p in paths]
    size = sum(line.bytes for line in lines) / 1e6
    return f"pulled {len(paths)} artifacts ({size:.1f} MB); {len(needs.compute)} to compute"


def _dvc_pull(paths: Sequence[str], needs: Needs) -> None:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "pull", *paths]
    for _ in range(2):  # after a killed pull DVC fails once over what it took for fetched
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
    else:
        raise UserError(f"{_explain(done.stderr)}; the line was: {pull_line(needs.pull)}")


def _explain(said: str) -> str:
    """What DVC's words mean, and the remedy."""
    if "No remote provided" in said:
        return (
            "no remote to pull from: dvc remote add --default share <folder or address>, "
            "then the same command"
        )

    # The first error names the cause, the last one counts the files.
    words = [n.removeprefix("ERROR: ") for n in said.splitlines() if n.startswith("ERROR")]
    cause = words[0] if words else " ".join(said.split()) or "failed"
    if ABSENT.search(cause):
        return "neither in the cache nor in the remote: ask who recorded it to run `dvc push`"
    return f"dvc pull: {cause}"
