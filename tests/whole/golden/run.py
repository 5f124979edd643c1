"""The golden run, and what it proves; running it rewrites stages.json.

For each part of the micro-run: its `core` number in params.yaml, a digest of all else that its
bytes follow from but shared code, a hash of its bytes for this kind of machine, and a few numbers
that any machine must come near.
"""

import json
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lib"), str(ROOT / "tests" / "whole")]

from golden.calls import heard, with_constants  # noqa: E402
from golden.micro import micro_run  # noqa: E402
from pipeline.plan import shared  # noqa: E402

GOLDEN = Path(__file__).with_name("stages.json")
PROVEN = ("train", "average", "transfer", "evaluate")  # stages whose results remember their code


def host_class() -> str:
    """Machines of one class give equal bytes: same torch, instructions and make of processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else "unknown processor"
    version = torch.__version__.split("+")[0]
    return f"torch {version}, {torch.backends.cpu.get_cpu_capability()}, {model}"


def main() -> None:
    """Rewrite this machine's part of the golden file; bytes of older code leave it."""
    host, ran = host_class(), dict[str, set[str]]()
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        found = micro_run(lambda part: heard(ran.setdefault(part, set())))
    before = golden.get(host, {})
    if moved := find_moved(before, found):
        numbers = ", ".join(sorted({f"core.{stage_of(part)}" for part in moved}))
        sys.exit(
            f"error: {', '.join(moved)}: other bytes of the same parameters and components, under "
            f"the same number: add one to {numbers} in params.yaml, then again; nothing was written"
        )
    unproven = shared.prove(
        {stage: found[stage]["core"] for stage in PROVEN}, find_proven(before, found, ran)
    )
    kept = {name: parts for name, parts in golden.items() if _source(parts) == _source(found)}
    GOLDEN.write_text(json.dumps(kept | {host: found}, indent=1, sort_keys=True) + "\n")
    print(f"{GOLDEN.name}: rewrote {host}")
    for name in sorted(golden.keys() - kept.keys() - {host}):
        print(f"{GOLDEN.name}: left out {name}, whose bytes are of other code: make golden there")
    print(describe(unproven))


def stage_of(part: str) -> str:
    """The stage of a part such as train/aute."""
    return part.partition("/")[0]


def find_moved(before: dict, found: dict) -> list[str]:
    """Parts with other bytes than before, though nothing but shared code can have moved them."""
    return [
        part
        for part in _list_same(before, found)
        if before[part]["sha256"] != found[part]["sha256"]
    ]


def find_proven(before: dict, found: dict, ran: dict[str, set[str]]) -> dict[str, set[str]]:
    """By stage, the definitions that ran for parts whose bytes are what they were."""
    proven: dict[str, set[str]] = {}
    for part in _list_same(before, found):
        if before[part]["sha256"] == found[part]["sha256"]:
            proven.setdefault(stage_of(part), set()).update(with_constants(ran.get(part, ())))
    if "average" in proven:  # an average rests on the code of its training too
        proven["average"] |= proven.get("train", set())
    return proven


def describe(unproven: dict[str, list[str]]) -> str:
    """What of the shared code that changed is not proven equal, and the two ways out."""
    if not unproven:
        return "all shared code that changed is proven equal, or of a stage with another number"
    lines = [f"  core.{stage}: {', '.join(names)}" for stage, names in unproven.items()]
    head = (
        "changed and not proven equal, since it did not run or no bytes of the code before were "
        "there to compare with: bump the number, or undo the change, let golden/micro.py run what "
        "changes, make golden, and change it again:"
    )
    return "\n".join([head, *lines])


def _list_same(before: dict, found: dict) -> list[str]:
    """Parts made from the same parameters and components, under the same number."""
    source = _source(before)
    return [part for part, made in _source(found).items() if source.get(part) == made]


def _source(parts: dict) -> dict:
    """What the bytes of each part were made from, by its name."""
    return {name: (part["core"], part.get("spec")) for name, part in parts.items()}


if __name__ == "__main__":
    main()
