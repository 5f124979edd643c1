"""params.yaml as text that every reader reads alike: no 1e-05."""

from decimal import Decimal
from typing import Any

import yaml


class _Plain(yaml.SafeDumper):
    pass


def _fixed(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:float", f"{Decimal(repr(value)):f}")


_Plain.add_representer(float, _fixed)


def dump(params: dict[str, Any]) -> str:
    """YAML in the order of the keys, numbers in full."""
    return yaml.dump(params, Dumper=_Plain, sort_keys=False)
