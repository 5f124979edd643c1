"""Name to component: pipeline/<kind>/<name>.py holds one public class."""

import importlib
import inspect
import keyword
from dataclasses import is_dataclass
from typing import Any


def component_class(kind: str, name: str) -> type[Any]:
    """The one public class of a component's file."""
    module = importlib.import_module(f"pipeline.{kind}.{name}")
    classes = {
        c
        for c in vars(module).values()
        if inspect.isclass(c) and c.__module__ == module.__name__ and not c.__name__.startswith("_")
    }
    (component,) = filter(is_dataclass, classes)  # the plan has checked this; a namedtuple is none
    return component


def build(kind: str, spec: dict[str, Any]) -> Any:
    """A component from its resolved spec (keys component, fields, ...)."""
    fields = {f"{k}_" if keyword.iskeyword(k) else k: v for k, v in spec["fields"].items()}
    return component_class(kind, spec["component"])(**fields)
