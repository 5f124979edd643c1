"""torchvision's list of sources: where official files are and what their md5 is.

The torchvision wheel of the package index carries operators built for CUDA. Beside the CPU wheel
of torch they do not load, and the import then fails on `torchvision::nms`, which it describes to
the compiler without having it. Nothing here calls an operator, so declaring the two is enough.
"""

import importlib
import sys
from types import ModuleType

import torch

from pipeline.errors import UserError
from pipeline.raw.fetch import Files, Source

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # kept, since they vanish with their library


def torchvision_datasets() -> ModuleType:
    """The module torchvision.datasets; raises UserError when torchvision is not installed."""
    return torchvision_module("datasets")


def torchvision_module(name: str) -> ModuleType:
    """A module of torchvision; raises UserError when torchvision is not installed."""
    try:
        return importlib.import_module(f"torchvision.{name}")
    except ImportError as error:
        raise UserError(
            f"torchvision cannot be imported ({error}): it names the data's sources and augments; "
            "install the pins in envs/"
        ) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _declared:
            raise
    _declare_operators()
    return torchvision_module(name)


def _declare_operators() -> None:
    """Declare nms and qnms, and forget the modules that failed half-way for want of them."""
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(name + SIGNATURE)  # type: ignore[no-untyped-call]
    _declared.append(library)

    # A module that failed half-way stays in sys.modules and would be taken for whole.
    for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[module]


SIZES = {"CIFAR10": 170_498_071, "CIFAR100": 169_001_437}  # bytes of the official archives


def cifar_source(name: str) -> Source:
    """The archive of torchvision's CIFAR10 or CIFAR100, or the batches in it."""
    official = getattr(torchvision_datasets(), name)
    folder: str = official.base_folder
    batches = [*official.train_list, *official.test_list]
    batches.append([official.meta["filename"], official.meta["md5"]])

    return Source(
        name=official.filename,
        urls=(official.url,),
        md5=official.tgz_md5,
        size=SIZES[name],
        folder=folder,
        instead=(tuple(Files(path=f"{folder}/{name}", md5=md5) for name, md5 in batches),),
    )
