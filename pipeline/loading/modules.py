"""A user's own network class: any torch module that a function of a file of theirs builds.

Their code, imported because they named it, and only while it is the code of the plan.
"""

import importlib.util
import os
import sys
import traceback
from pathlib import Path
from typing import cast

import torch
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
    words, sys.argv = sys.argv, [str(path)]  # a script that reads its words finds none, not ours
    try:
        found.loader.exec_module(module)
        return getattr(module, function)()
    except (Exception, SystemExit) as error:  # whatever their code raises
        sys.modules.pop(module.__name__, None)
        raise UserError(_describe_error(path, error)) from error
    finally:
        sys.argv = words
        _forget(set(sys.modules) - loaded - {module.__name__}, path)
        sys.path.remove(folder)


def check_scores(network: Foreign, model: str, images: Tensor, dataset: str, classes: int) -> None:
    """Raise UserError unless a user's network gives logits [B, classes] of images [B, C, H, W].

    model: where it is built, as in my_file.py:build. dataset: whose images these are.
    """
    try:
        with torch.no_grad():
            scores: object = network.network(network.normalise(images))
    except Exception as error:  # whatever their code raises
        # its file's folder is left once it is loaded
        remedy = "; import it where the file begins" if isinstance(error, ImportError) else ""
        path = Path(model.rpartition(":")[0])
        raise UserError(f"{_describe_error(path, error)}{remedy}") from error

    wanted = (len(images), classes)
    found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if found != wanted:
        raise UserError(
            f"{model}: of {len(images)} images of {dataset} its network gives {found}, not logits "
            f"{wanted}; return these alone, or name the data set whose classes it tells apart"
        )


def _describe_error(path: Path, error: Exception | SystemExit) -> str:
    """What a user's file raised, with the last line of it on the way there, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == os.path.abspath(path)]
    at = f", line {lines[-1]}" if lines else ""
    if isinstance(error, SystemExit):
        remedy = 'write what it does as a command under `if __name__ == "__main__":`'
        return f"{path}{at}: ends Python when it is loaded; {remedy}"
    return f"{path}{at}: {type(error).__name__}: {' '.join(str(error).split())}"


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
