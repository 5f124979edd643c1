"""Every command by its short name: `python -m pipeline`, `python -m pipeline compare A B`."""

import ast
import re
import runpy
import sys
from difflib import get_close_matches
from pathlib import Path

HERE = Path(__file__).parent
JOBS = ["download", "prepare", "train", "adopt", "average", "transfer", "evaluate", "tabulate"]
JOBS += ["figure", "claims", "audit", "reproduced", "present"]
ROOMS = {"tools": "reading what is there", "share": "sharing"}


def find_commands() -> dict[str, dict[str, Path]]:
    """Files with a `main`, by heading and short name; jobs in the order of the pipeline."""
    commands = {
        "jobs, one a rule": {name: HERE / f"{name}.py" for name in JOBS},
        "the plan": {"plan": HERE / "plan" / "__main__.py"},
    }
    for room, heading in ROOMS.items():
        files = sorted((HERE / room).glob("[a-z]*.py"))
        commands[heading] = {p.stem: p for p in files if "\ndef main(" in p.read_text("utf-8")}
    return commands


def first_line(path: Path) -> str:
    """What the command's docstring says first."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return re.split(r":? `?python -m", text.splitlines()[0])[0].rstrip(".:")


def show_commands() -> str:
    """One line a command, under headings."""
    lines = ["usage: python -m pipeline COMMAND [ARGUMENT ...]; each explains itself with --help"]
    for heading, commands in find_commands().items():
        lines += ["", f"{heading}:"]
        lines += [f"  {name:<16} {first_line(path)}" for name, path in commands.items()]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
        print(show_commands())
        return
    paths = {name: path for group in find_commands().values() for name, path in group.items()}
    name = sys.argv.pop(1)
    if name not in paths:
        nearest = get_close_matches(name, paths, 1)
        hint = f"; nearest: {nearest[0]}" if nearest else ""
        sys.exit(f"error: no command {name}{hint}; `python -m pipeline` lists them")

    module = paths[name].relative_to(HERE.parent).with_suffix("").parts
    runpy.run_module(".".join(module), run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
