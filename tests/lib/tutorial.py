"""The tutorial of docs/sharing.md, typed line by line into one shell.

`python tests/lib/tutorial.py FOLDER` prints its transcript; the test does so at a tiny scale.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/sharing.md"
SECTION = "## Share your checkpoints with a colleague\n"
SAYS = "# says: "
MARK = "@@@@"
# what `make setup` makes of a clone takes minutes and the internet: here it is linked
LINK = f"""
link() {{
  if [ -f Makefile ] && [ ! -e .venv ]; then
    mkdir .venv
    ln -s {sys.prefix}/* .venv/
    touch .venv/.installed
  fi
}}
"""


def commands():
    """Every line of the section's blocks, with what it promises to say ('' where nothing)."""
    text = PAGE.read_text()
    section = text[text.index(SECTION) + len(SECTION) :].partition("\n## ")[0]
    lines = [
        n for block in re.findall(r"```sh\n(.*?)```", section, re.S) for n in block.split("\n")
    ]
    found = []
    for line in filter(None, lines):
        command, _, says = line.partition(SAYS)
        found.append((command.partition("  #")[0].rstrip(), says.strip()))
    return found


def play(folder, repository, typed, env=None):
    """What each command said, in one shell that begins in `folder`; raises on the first failure."""
    lines = [f"link\necho '{MARK}'\n{command}" for command in typed]
    script = "set -e\n" + LINK + "\n".join(lines)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MAKEFLAGS")}
    environment |= {"PIPELINE": str(repository), "GIT_AUTHOR_NAME": "you", **(env or {})}
    environment |= {f"GIT_{who}_EMAIL": "you@example.org" for who in ("AUTHOR", "COMMITTER")}
    environment |= {"GIT_COMMITTER_NAME": "you"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = done.stdout.split(f"{MARK}\n")[1:]
    assert done.returncode == 0, f"$ {typed[len(said) - 1]}\n{said[-1]}"
    return said


def main():
    typed = [command for command, _ in commands()]
    for command, said in zip(typed, play(sys.argv[1], sys.argv[2], typed), strict=True):
        print(f"$ {command}\n{said}", end="", flush=True)


if __name__ == "__main__":
    main()
