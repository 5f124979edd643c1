"""What a scale's cut of the attacks hides of a row, as `python -m bench.cuts --write` measured it.

data/cuts.csv names the record that each figure is about; of another record it says nothing.
"""

import csv
from pathlib import Path

from pipeline.errors import UserError
from pipeline.plan.params.schema import ROOT

FILE = Path("data/cuts.csv")
SUITE = "adaptive"  # whose record a line is about
KEYS = ("row", "record", "images", "cut", "full")  # full: with no attack cut; both in percent


def load() -> dict[str, tuple[float, int]]:
    """Points that the cut hides and the images that were asked, by record; empty without a file.

    Raises UserError for a line that is no such thing.
    """
    path = ROOT / FILE
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as lines:
        table = csv.DictReader(lines)
        if tuple(table.fieldnames or ()) != KEYS:
            raise UserError(f"{FILE}: needs the columns {', '.join(KEYS)}")
        found = {}
        for line in table:
            try:
                points = round(float(line["cut"]) - float(line["full"]), 2)
                found[line["record"]] = points, int(line["images"])
            except (TypeError, ValueError):
                raise UserError(f"{FILE}: line {table.line_num}: is no measurement") from None
    return found
