"""Files of published numbers and of sentences: what people typed, as text."""

import re
from pathlib import Path

import pandas as pd

from pipeline.errors import UserError

FORMULA = re.compile(r"\s*(?:[=@]|[+-][A-Za-z(=@])")  # what a spreadsheet would compute, or fetch


def read_texts(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Rows of a .csv, as text; raises UserError when it cannot be read, has other columns, or has a
    cell that our own .csv files would hand on to a spreadsheet as a formula."""
    try:
        rows = pd.read_csv(path, keep_default_na=False, dtype=str)
    except (
        FileNotFoundError,
        UnicodeDecodeError,
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
    ) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error

    if tuple(rows.columns) != columns:
        raise UserError(f"{path}: columns must be {', '.join(columns)}")
    for number, line in enumerate(rows.itertuples(index=False), start=2):
        for text in map(str, line):
            if FORMULA.match(text):
                raise UserError(
                    f"{path}:{number}: {text!r} is a formula to a spreadsheet; reword it"
                )
    return rows
