"""What git calls to merge a pool's `.dvc` file.

`python -m pipeline.share.driver ANCESTOR OURS THEIRS`, as `make drivers` tells git.

Fetches the three listings where the cache lacks them (a branch that was only `git fetch`ed), then
lets DVC's own merge driver unite them.
"""

import argparse
from pathlib import Path

from pipeline.job.report import report
from pipeline.share import pools


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.share.driver", description=__doc__)
    parser.add_argument("ancestor", type=Path)
    parser.add_argument("ours", type=Path)
    parser.add_argument("theirs", type=Path)
    args = parser.parse_args(argv)

    trees = pools.Trees()
    for path in (args.ancestor, args.ours, args.theirs):
        text = path.read_text(errors="surrogateescape")
        if text.strip():  # no ancestor where both branches began this pool
            trees.load(path, pools.tree_hash(text, path))

    sides = ["--ancestor", str(args.ancestor), "--our", str(args.ours)]
    pools.dvc(["git-hook", "merge-driver", *sides, "--their", str(args.theirs)])


if __name__ == "__main__":
    report(main)
