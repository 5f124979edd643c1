"""A user's own network class: any torch module that a function of a file of theirs builds.

Their code, imported because they named it, and only while it is the code of the plan.
"""

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from pipeline.core.layers import Normalise
from pipeline.errors import UserError
from pipeline.plan.graph.outside import list_files, sum_module
from pipeline.plan.params.values import Entry


class Foreign(nn.Module):
    """Normalise, then the user's network: logits [B, classes] of images in [0, 1].

    Its activations lie as the user's code expects, who may call `view` on them.
    """

    keeps_layout = True

    def __init__(self, normalise: Normalise, network: nn.Module) -> None:
        super().__init__()
        self.normalise, self.network = normalise, network

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes], float32, of images [B, C, H, W] in [0, 1]."""
        return cast(Tensor, self.network(self.normalise(images))).float()


def build(spec: Entry, channels: int, mean: list[float], std: list[float]) -> Foreign:
    """A network of the user's function, behind `mean` and `std`: 0 and 1 if it normalises itself.

    spec: `model`, as in my_file.py:build, and `code`, the sum of the file and what it imports.
    """
    path, _, function = spec["model"].rpartition(":")
    if sum_module(Path(path)) != spec["code"]:
        raise UserError(f"{path}: was edited since the plan was made; run the same again")
    network = _call(Path(path), function)
    if not isinstance(network, nn.Module):
        raise UserError(f"{path}: {function}() gives no torch.nn.Module, but {type(network)}")
    return Foreign(Normalise(channels, mean, std), network)


def _call(path: Path, function: str) -> object:
    """What a function of a file returns; raises UserError with the line on which it fails."""
    found = importlib.util.spec_from_file_location(f"named_by_user_{path.stem}", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    folder = str(path.resolve().parent)  # of what it imports beside it
    sys.path.insert(0, folder)
    loaded = set(sys.modules)
    sys.modules[module.__name__] = module  # where a dataclass looks its annotations up
    try:
        found.loader.exec_module(module)
        return getattr(module, function)()
    except Exception as error:  # whatever their code raises
        sys.modules.pop(module.__name__, None)
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        at = f", line {lines[-1]}" if lines else ""
        raise UserError(f"{path}{at}: {type(error).__name__}: {error}") from error
    finally:
        _forget(set(sys.modules) - loaded - {module.__name__}, path)
        sys.path.remove(folder)


def _forget(names: set[str], path: Path) -> None:
    """Take a file's own helpers out of Python's memory: another's may have the same names, and
    these may be edited before they are asked for again."""
    files, folder = list_files(path).values(), path.resolve().parent
    own = {place for file in files for place in (file, *file.parents) if folder in place.parents}
    for name in [name for name in names if own.intersection(_find_places(name))]:
        del sys.modules[name]


def _find_places(name: str) -> list[Path]:
    """The file of a module; of a package without `__init__.py` its folders."""
    file = getattr(sys.modules[name], "__file__", None)
    places = [file] if file else getattr(sys.modules[name], "__path__", ())
    return [Path(place).resolve() for place in places]
