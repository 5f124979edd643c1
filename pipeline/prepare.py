"""Turn verified raw files into the arrays that training reads: python -m pipeline.prepare."""

import argparse
import hashlib
import json
import math
import time
from collections.abc import Collection
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from pipeline.contracts.dataset import Arrays, Images, ImageSet, Labels, stratified
from pipeline.errors import UserError
from pipeline.job.device import times
from pipeline.job.report import report
from pipeline.loading.registry import component_class
from pipeline.plan import Dataset, Plan, load_plan
from pipeline.raw.receipt import OFFICIAL, check_read, check_receipt, check_stated
from pipeline.store.files import Content, safetensors
from pipeline.store.sums import write_together

SPLITS = ("train", "validation", "test")


def prepare(
    data: ImageSet, raw: Path, folder: Path, official: Collection[str] | None = None
) -> bool:
    """Write `<folder>/<split>.safetensors`; False when all three were there already.

    Each file holds images uint8 [N, C, H, W], labels int64 [N] and metadata: dataset, digest (the
    folder's names), classes, mean and std (JSON lists; the training images' channels in [0, 1]).
    Equal raw files and fields give equal bytes, so a killed run is simply run again. `official`
    are the sha256 of the component's official files, where there are such.
    """
    paths = {split: folder / f"{split}.safetensors" for split in SPLITS}
    if all(path.is_file() for path in paths.values()):
        return False

    started = time.monotonic()
    # Verified once, and compared again here: a file may have changed since.
    check_receipt(raw)
    check_stated(raw, data.sha256, official)
    check_read(raw, getattr(import_module(type(data).__module__), "sources", tuple)())
    arrays = _tidy(data, data.load(raw))
    data.check(arrays, raw)
    check_overlap(arrays, folder.parent.name, is_own=official is None)

    kept, held = stratified(arrays.train_labels, data.validation, data.split_seed)
    images, labels = arrays.train_images[kept], arrays.train_labels[kept]
    mean, std = channel_statistics(images)

    metadata = {
        "dataset": folder.parent.name,
        "digest": folder.name,
        "classes": json.dumps(arrays.names),
        "mean": json.dumps(mean),
        "std": json.dumps(std),
    }
    held_images, held_labels = arrays.train_images[held], arrays.train_labels[held]
    files = {
        paths["train"]: _build_content(images, labels, metadata),
        paths["validation"]: _build_content(held_images, held_labels, metadata),
        paths["test"]: _build_content(arrays.test_images, arrays.test_labels, metadata),
    }

    there = [path for path in files if path.is_file()]  # a finished file is never rewritten
    missing = {path: content for path, content in files.items() if path not in there}
    write_together(missing, times(time.monotonic() - started, torch.device("cpu")), there)
    return True


def _tidy(data: ImageSet, arrays: Arrays) -> Arrays:
    """The arrays as they are stored: labels int64, images without strides of their own.

    Raises UserError where labels are no integers [N]: what reads them is wrong, not the files.
    """
    labels = [np.asarray(own) for own in (arrays.train_labels, arrays.test_labels)]
    for own in labels:
        if own.ndim != 1 or not np.issubdtype(own.dtype, np.integer):
            place = type(data).__module__.replace(".", "/")
            raise UserError(
                f"{place}.py: `load` gives labels {own.dtype} {own.shape}; return integers, one "
                "for each image: [N]"
            )
    train, test = (own.astype(np.int64) for own in labels)
    return Arrays(
        np.ascontiguousarray(arrays.train_images),
        train,
        np.ascontiguousarray(arrays.test_images),
        test,
        arrays.names,
    )


def _build_content(images: Images, labels: Labels, metadata: dict[str, str]) -> Content:
    tensors = {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}
    return safetensors(tensors, metadata)


def check_overlap(arrays: Arrays, name: str, *, is_own: bool) -> None:
    """Say how many test images are training images, byte for byte.

    Raises UserError where that is most of a user's own set: its accuracies would be of memory.
    """
    trained = set(map(_sum, arrays.train_images))
    shared = sum(_sum(image) in trained for image in arrays.test_images)
    count = len(arrays.test_images)
    if is_own and shared > count / 2:
        raise UserError(
            f"params.yaml: datasets.{name}: {shared} of its {count} test images are training "
            "images too; give it test images that no training sees"
        )
    if shared:
        print(f"{name}: {shared} of its {count} test images are training images too")


def _sum(image: Images) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def channel_statistics(images: Images) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of [N, C, H, W], as pixels in [0, 1].

    The sums are exact integers, so no machine's order of summation shows in the result.
    """
    mean, std = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256).tolist()
        n = sum(counts)

        first = sum(count * level for level, count in enumerate(counts))
        second = sum(count * level**2 for level, count in enumerate(counts))
        mean.append(first / (255 * n))
        std.append(math.sqrt(n * second - first**2) / (255 * n))
    return mean, std


def check_images(plan: Plan, dataset: Dataset) -> None:
    """Raise UserError where a table asks for more images than were found, before it trains."""
    path = dataset.folder / "test.safetensors"
    try:
        with safe_open(path, "numpy") as file:
            (available,) = file.get_slice("labels").get_shape()
    except SafetensorError as error:
        remedy = f"delete it and run python -m pipeline.prepare {dataset.name}"
        raise UserError(f"{path}: truncated or corrupt ({error}); {remedy}") from error
    for table in plan.tables.values():
        records = [record for cell in table.cells for record in cell.records.values()]
        own = [r.images for r in records if r.victim.dataset == dataset and r.split == "test"]
        if own and max(own) > available:
            raise UserError(
                f"params.yaml: tables.{table.name}.images: {max(own)} asked for, {dataset.name} "
                f"has {available} to test; write images: {available} there"
            )


def main(argv: list[str] | None = None) -> None:
    """python -m pipeline.prepare <entry of datasets:>."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.prepare", description=__doc__)
    parser.add_argument("dataset", help="name of an entry of `datasets:` in params.yaml")
    plan = load_plan()
    entry = plan.dataset(parser.parse_args(argv).dataset)
    data = component_class("datasets", entry.component)(**entry.fields)
    written = prepare(data, entry.raw, entry.folder, OFFICIAL.get(entry.component))
    check_images(plan, entry)
    print(f"{entry.folder}: {'written' if written else 'is up to date, nothing to do'}")


if __name__ == "__main__":
    report(main)
