"""What numbers may be: every float of a recipe, method, attack or arch has a range, by its name,
and a few counts may not be 0."""

from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError

# [least, most]; a name that is not here is at least 0: a weight, a factor, a width
SHARE = (0.0, 1.0)
RANGES: dict[str, tuple[float, float]] = {
    "lr": (0.0, 10.0),
    "lr_values": (0.0, 10.0),
    "weight_decay": SHARE,
    "input_std": SHARE,
    "momentum": SHARE,
    "ema_decay": SHARE,
    "lambda": (-1e6, 1e6),  # GAIRAT's shifts a sigmoid either way
    **dict.fromkeys(("smoothing", "dropout", "leaky", "probability", "resize_rate"), SHARE),
    **dict.fromkeys(("share", "noisy_share", "p_init", "rho", "adam_eps", "least"), SHARE),
    **dict.fromkeys(("strength", "span", "noise", "alpha_max"), SHARE),
}
ABOVE_ZERO = {
    "lr",
    "input_std",
    "temperature",
    "width",
    "widths",
    "sigma",
    "p_init",
    "rho",
    "c",
    "resize_rate",
}
BELOW_ONE = {"momentum", "ema_decay"}
# Counts without which nothing is tried: an attack would return the images as they were
AT_LEAST_ONE = {"restarts", "tries", "eot", "rivals", "particles", "searches", "widths"}
MOST = 1e6
BOX = 1.0  # the side of the box of pixels: no l-inf radius is longer
DIAGONAL = 200.0  # l2 of 3 x 100 x 100 pixels


def check(
    fields: Mapping[str, Any],
    types: Mapping[str, str],
    entry: Mapping[str, Any],
    factor: float,
    where: str,
    own: Mapping[str, list[float]] | None = None,
) -> None:
    """Raise UserError on a float, count or radius of an entry that cannot be meant.

    own: least and most of fields of which their class says so, whatever their names would ask for.
    Radii were multiplied by a stand-in's `factor`; they are judged as they were written.
    """
    for key, kind in types.items():
        if own and key in own:
            written = fields[key] / factor if kind == "Radius" else fields[key]
            _check_own(written, own[key], f"{where}.{key}")
            continue
        if key in AT_LEAST_ONE and not fields[key]:
            raise UserError(f"{where}.{key}: {fields[key]} tries nothing; write one or more")
        if kind in ("float", "list[float]"):
            for number in fields[key] if kind == "list[float]" else [fields[key]]:
                _check_float(key, number, f"{where}.{key}", own is not None)
        if kind == "Radius" and key in fields:
            _check_radius(fields[key] / factor, entry.get("norm", "linf"), f"{where}.{key}")


def _check_own(value: Any, bounds: list[float], where: str) -> None:
    least, most = bounds
    for number in value if isinstance(value, list) else [value]:
        if not least <= number <= most:
            raise UserError(
                f"{where}: {number:g} is not between {least:g} and {most:g} (`ranges` of its class)"
            )


def _check_float(name: str, value: float, where: str, is_field: bool) -> None:
    least, most = RANGES.get(name, (0.0, MOST))
    problem = ""
    if not least <= value <= most:
        problem = f"{value:g} is not between {least:g} and {most:g}"
    elif name in BELOW_ONE and value == 1:
        problem = "1 keeps nothing new; write a number below it"
    elif name in ABOVE_ZERO and value == 0:
        problem = "0 is none; write a number above it"
    if problem:
        hint = "; a class of your own may say otherwise by `ranges`" if is_field else ""
        raise UserError(f"{where}: {problem}{hint}")


def _check_radius(value: float, norm: str, where: str) -> None:
    most = {"linf": BOX, "l2": DIAGONAL}.get(norm)
    if most is not None and value > most * (1 + 1e-9):  # as floats divide
        raise UserError(
            f"{where}: {value:g} is more than {most:g}, in a box of pixels from 0 to 1; "
            f"did you mean {value:g}/255?"
        )
