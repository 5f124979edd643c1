import json
import subprocess
import sys
from importlib import import_module

import pytest
from official import (
    REAL,
    md5,
    mnist_files,
    sha256,
    write_files,
)
from projects import published

from pipeline.download import download
from pipeline.raw.receipt import OFFICIAL

DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"


def test_digits_come_from_the_installed_package_even_with_a_mirror(tmp_path):
    sources = import_module("pipeline.datasets.digits").sources()
    download(tmp_path / "digits", sources, [DIGITS_SHA256], str(tmp_path / "no mirror"))
    assert sha256((tmp_path / "digits" / "digits.csv.gz").read_bytes()) == DIGITS_SHA256


@pytest.mark.parametrize(
    ("name", "files", "address"),
    [
        ("mnist", 4, "https://"),
        ("cifar10", 1, "https://"),
        ("cifar100", 1, "https://"),
        ("tiny_imagenet", 1, "http://cs231n.stanford.edu/"),
    ],
)
def test_sources_have_addresses_and_md5(name, files, address):
    sources = import_module(f"pipeline.datasets.{name}").sources()
    assert len(sources) == files
    for source in sources:
        assert source.urls[0].startswith(address) and source.urls[0].endswith(source.name)
        assert len(source.md5) == 32


def test_the_official_sums_are_those_that_ship():
    shipped = published()["datasets"]
    assert {name: tuple(shipped[name]["sha256"]) for name in OFFICIAL} == OFFICIAL


def test_torchvision_imports_beside_any_torch_wheel():
    code = (
        "from pipeline.datasets._torchvision import torchvision_datasets as t; "
        "print(t().CIFAR10.tgz_md5, t() is t())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "c58f30108f718f92721af3b95e74349a True\n"


def test_a_torchvision_that_imports_is_left_alone(tmp_path):
    write_files(tmp_path / "torchvision", {"__init__.py": b"", "datasets.py": b"CIFAR10 = 7"})
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import torch; "
        "from pipeline.datasets._torchvision import torchvision_datasets; "
        "print(torchvision_datasets().CIFAR10); "
        "print(hasattr(torch.ops.torchvision, 'nms'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "7\nFalse\n"


def test_a_torchvision_that_fails_twice_is_not_tried_for_ever(monkeypatch):
    vision = import_module("pipeline.datasets._torchvision")

    def fail(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(vision, "_declared", ["as after a first failure"])
    monkeypatch.setattr(vision.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="nms does not exist"):
        vision.torchvision_datasets()


@pytest.mark.parametrize("layout", ["{}.gz", "MNIST/raw/{}.gz", "{}", "MNIST/raw/{}"])
def test_mnist_files_serve_in_torchvisions_folder_and_unpacked(tmp_path, layout, monkeypatch):
    mnist = import_module("pipeline.datasets.mnist")
    packed, plain = mnist_files(), mnist_files(compress=False)
    monkeypatch.setattr(mnist, "UNPACKED_MD5", {n: md5(c) for n, c in plain.items()})
    sources = [mnist._source([], name, md5(content)) for name, content in packed.items()]
    for name, content in plain.items():
        data = packed[f"{name}.gz"] if layout.endswith(".gz") else content
        write_files(tmp_path / "mnist", {layout.format(name): data})
    download(tmp_path / "mnist", sources, [sha256(c) for c in packed.values()], None)
    rows = json.loads((tmp_path / "mnist" / "verified.json").read_text())
    assert [row["path"] for row in rows] == [layout.format(name) for name in plain]


@pytest.mark.skipif(not (REAL / "MNIST").is_dir(), reason="no real MNIST in ../shared/data")
def test_real_mnist_from_a_mirror_folder_has_torchvisions_sums(tmp_path):
    mnist = import_module("pipeline.datasets.mnist")
    files = {path.name: path.read_bytes() for path in (REAL / "MNIST" / "raw").iterdir()}
    sources = mnist.sources()
    sums = [sha256(files[source.name]) for source in sources]
    download(tmp_path / "mnist", sources, sums, str(REAL / "MNIST" / "raw"))
    assert len(json.loads((tmp_path / "mnist" / "verified.json").read_text())) == 4
