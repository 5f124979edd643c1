"""The layout in figures: `python -m bench.rooms [ROOT ...]` counts `pipeline/` of each checkout.

A room is a folder below `pipeline/` with all folders in it; what lies at the top is one more, but
for `errors`, which everybody imports. Lazy and type-checking imports count; `plan/__main__.py`, a
command that must lie there, counts nowhere. grimp comes with import-linter. Paragraphs are blank
lines inside functions of more than SHORT lines, comments are lines that hold nothing else.
"""

import ast
import sys
from collections import Counter
from pathlib import Path

import grimp

TOP = "(top)"
APART = ("pipeline.errors", "pipeline.__main__", "pipeline.plan.__main__")
SHORT = 8  # lines, docstring aside, of a function that needs no paragraph
Imports = dict[str, set[str]]


def read_imports(root: Path) -> Imports:
    """What each module of a checkout imports of the others."""
    sys.path.insert(0, str(root))
    graph = grimp.build_graph("pipeline", cache_dir=None)
    sys.path.remove(str(root))
    modules = graph.modules - {*APART}
    return {m: graph.find_modules_directly_imported_by(m) & modules for m in modules}


def find_file(root: Path, module: str) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def name_room(root: Path, module: str) -> str:
    """The first folder below `pipeline` that a module lies in."""
    folders = find_file(root / "pipeline", module.partition(".")[2]).parent
    return folders.relative_to(root / "pipeline").parts[0] if folders.name != "pipeline" else TOP


def fold(imports: Imports, rooms: dict[str, str]) -> Imports:
    """What each room imports of other rooms."""
    between: Imports = {room: set() for room in rooms.values()}
    for module, others in imports.items():
        between[rooms[module]] |= {rooms[o] for o in others} - {rooms[module]}
    return between


def reach(imports: Imports, start: str) -> set[str]:
    """All that a module or room comes to by imports."""
    seen: set[str] = set()
    ahead = [*imports[start]]
    while ahead:
        if (here := ahead.pop()) not in seen:
            seen.add(here)
            ahead += imports[here]
    return seen


def find_circles(imports: Imports) -> list[list[str]]:
    """The largest sets whose members all come to each other."""
    ahead = {name: reach(imports, name) for name in imports}
    circles = {
        frozenset(o for o in ahead[name] if name in ahead[o])
        for name in imports
        if name in ahead[name]
    }
    return sorted(map(sorted, circles))


def count_paragraphs(root: Path, room: str = "*") -> tuple[float, float]:
    """Blank lines a function, and comment lines as a share of code lines, of a room or of all."""
    blanks, functions, comments, code = 0, 0, 0, 0
    for path in root.glob(f"pipeline/{room}/**/*.py"):
        lines = [line.strip() for line in path.read_text().splitlines()]
        nodes = list(ast.walk(ast.parse(path.read_text())))
        spans = [(n.lineno, n.end_lineno or 0) for n in nodes if isinstance(n, ast.FunctionDef)]
        texts = [n for n in nodes if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
        docs = {i for n in texts for i in range(n.lineno, (n.end_lineno or 0) + 1)}

        bodies = [[i for i in range(a, b + 1) if i not in docs] for a, b in spans]
        bodies = [body for body in bodies if len(body) > SHORT]
        functions += len(bodies)
        blanks += sum(not lines[i - 1] for body in bodies for i in body)
        comments += sum(line.startswith("#") for line in lines)
        code += sum(bool(v) and v[0] != "#" and i not in docs for i, v in enumerate(lines, 1))
    return blanks / max(functions, 1), comments / max(code, 1)


def main() -> None:
    for root in map(Path, sys.argv[1:] or ["."]):
        imports = read_imports(root)
        rooms = {module: name_room(root, module) for module in imports}
        between = fold(imports, rooms)
        lines = {m: len(find_file(root, m).read_text().splitlines()) for m in imports}
        files, sizes = Counter(rooms[m] for m in imports if lines[m]), Counter[str]()
        for module, count in lines.items():
            sizes[rooms[module]] += count
        largest, longest = max(sizes, key=sizes.__getitem__), max(lines, key=lines.__getitem__)
        share = 100 * sizes[largest] / sizes.total()

        print(f"{root}: {files.total()} files, {sizes.total()} lines, {len(between)} rooms")
        print(f"  arrows between rooms: {sum(map(len, between.values()))}")
        print(f"  circles of rooms: {find_circles(between)}, of modules: {find_circles(imports)}")
        print(f"  largest room: {largest}, {files[largest]} files, {share:.0f} % of lines")
        print(f"  longest file: {longest}, {lines[longest]} lines")
        for room in sorted({*rooms.values()} - {TOP}):
            paragraphs, comments = count_paragraphs(root, room)
            print(f"  {room:11} {paragraphs:.2f} blank lines a function, {comments:.1%} comments")


if __name__ == "__main__":
    main()
