"""What docs/architecture.md says of the house, held against the house."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("spleeter_2", "evaluation", "weight_converter")


def rooms() -> dict[str, int]:
    """The row of the document's table that a file stands in."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", text, re.M)
    found = {}
    for number, (room, told) in enumerate(rows):
        folder = room if room.endswith("/") else f"{Path(room).parent}/"
        named = [f"{folder}{name}" for name in re.findall(r"`([a-z0-9_]+\.py)`", told)]
        found.update(dict.fromkeys([room, *named], number))
    return found


def imported(path: Path) -> set[str]:
    """Files of ours that a file imports, relative to the root, also late."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            start = path.parents[node.level - 1] if node.level else ROOT
            base = start.joinpath(*(node.module or "").split("."))
            found.update([base, *(base / alias.name for alias in node.names)])
        elif isinstance(node, ast.Import):
            found.update(ROOT.joinpath(*alias.name.split(".")) for alias in node.names)
    files = [file for base in found for file in (base.with_suffix(".py"), base / "__init__.py")]
    return {str(file.relative_to(ROOT)) for file in files if file.is_file()}


def row(known: dict[str, int], file: str) -> int | None:
    """A file's row, or that of the folder that it is in."""
    names = [file, *(f"{parent}/" for parent in Path(file).parents)]
    return next((known[name] for name in names if name in known), None)


def files() -> list[Path]:
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_every_file_has_its_room():
    known = rooms()
    named = [str(path.relative_to(ROOT)) for path in files() if path.name != "__init__.py"]
    assert len(named) > 50
    assert [file for file in named if row(known, file) is None] == []
    missing = [name for name in known if not (ROOT / name).exists()]
    assert missing == []


def test_imports_go_down_the_table():
    """A package's own ``__init__.py``, through which users come, stands nowhere in it."""
    known = rooms()
    arrows = [(str(path.relative_to(ROOT)), other) for path in files() for other in imported(path)]
    placed = [pair for pair in arrows if None not in (row(known, pair[0]), row(known, pair[1]))]
    assert len(placed) > 200
    assert [pair for pair in placed if row(known, pair[1]) < row(known, pair[0])] == []
