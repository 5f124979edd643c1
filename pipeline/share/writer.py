"""A params.yaml from values, in the one spelling that its strict reader takes."""

import shutil
from decimal import Decimal
from pathlib import Path

import yaml

from pipeline.plan.params.pages import PAGES
from pipeline.plan.params.reader import PARAMS
from pipeline.plan.params.values import Entry

LINE = 1_000_000  # characters: no entry is broken


class _Plain(yaml.SafeDumper):
    """No exponents and no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        """Lists that stand twice are written twice."""
        return True


def _fixed(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:float", f"{Decimal(repr(value)):f}")


_Plain.add_representer(float, _fixed)


def text(params: Entry) -> str:
    """The file's text."""
    return yaml.dump(params, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=LINE)


def write(folder: Path, params: Entry) -> None:
    """These values as the whole of a folder's params.yaml; its papers' pages go."""
    (folder / PARAMS).write_text(text(params))
    shutil.rmtree(folder / PAGES, ignore_errors=True)
