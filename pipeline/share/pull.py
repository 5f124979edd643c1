"""Fetch just what a target needs: records for a table, weights only for a new attack."""

import subprocess
import sys
from collections.abc import Iterable, Sequence

from pipeline.errors import UserError
from pipeline.plan import Artifact, Plan
from pipeline.plan.state import Needs, closure
from pipeline.share.guard import pull_line
from pipeline.store import manifest

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
        words = [n for n in done.stderr.splitlines() if n.startswith("ERROR")]
        raise UserError(
            f"{words[-1] if words else done.stderr.strip()}; the line was: {pull_line(needs.pull)}"
        )
