"""Tiny files in the official formats, and a server that can misbehave, for the data set tests."""

import contextlib
import gzip
import hashlib
import io
import pickle
import resource
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.raw.fetch import Files, Source
from pipeline.raw.receipt import receipt_row, write_receipt

COMMON = {"split_seed": 0, "augment": "none", "padding": 0, "sha256": ["unused"]}
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def md5(content):
    return hashlib.md5(content).hexdigest()


def legacy_pickle(content):
    """As the official files: an old protocol and numpy's old module name."""
    return pickle.dumps(content, protocol=3).replace(b"numpy._core.", b"numpy.core.")


def cifar_files(train, per_class=6, classes=10, fine=False):
    """Member name -> bytes of a CIFAR folder whose batches `train` are random images."""
    random = np.random.default_rng(0)
    key = "fine_labels" if fine else "labels"
    files = {}
    for name in [*train, "test" if fine else "test_batch"]:
        labels = [label for label in range(classes) for _ in range(per_class)]
        data = random.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        files[name] = legacy_pickle({"data": data, key: labels})
    names = {("fine_" if fine else "") + "label_names": [f"class {i}" for i in range(classes)]}
    files["meta" if fine else "batches.meta"] = legacy_pickle(names)
    return files


def write_files(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def tar_of(members):
    """A .tar.gz whose bytes, which stand in tests' names, do not depend on the time."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(content, tarfile.TarInfo) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            known = isinstance(name, zipfile.ZipInfo)  # which has its own date
            archive.writestr(name if known else zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def archive_source(name, content, folder, members):
    """The source of an archive whose top folder holds `members`."""
    files = tuple(Files(path=f"{folder}/{m}", md5=md5(data)) for m, data in members.items())
    urls = (f"http://127.0.0.1:1/{name}",)  # nobody listens there
    return Source(name=name, urls=urls, md5=md5(content), folder=folder, instead=(files,))


def idx(array):
    head = (0x0800 + array.ndim).to_bytes(4, "big")
    return head + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def mnist_files(compress=True):
    random = np.random.default_rng(0)
    files = {}
    for part, count in (("train", 60), ("t10k", 20)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        files[f"{part}-images-idx3-ubyte"] = idx(images)
        files[f"{part}-labels-idx1-ubyte"] = idx(labels)
    if not compress:
        return files
    return {f"{name}.gz": gzip.compress(content) for name, content in files.items()}


def jpeg(mode="RGB", seed=0, size=64):
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def tiny_files(classes=("n02", "n01", "n03"), train=4, test=2):
    files = {"wnids.txt": "\n".join(classes).encode()}
    rows = []
    for c, name in enumerate(classes):
        for i in range(train):
            mode = "L" if i == 0 else "RGB"  # a few official images are grey
            files[f"train/{name}/images/{name}_{i}.JPEG"] = jpeg(mode, 100 * c + i)
        for i in range(test):
            image = f"val_{len(rows)}.JPEG"
            files[f"val/images/{image}"] = jpeg("RGB", 900 + 10 * c + i)
            rows.append(f"{image}\t{name}\t0\t0\t1\t1")
    files["val/val_annotations.txt"] = "\n".join(rows).encode()
    return files


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append((self.path, asked))
        content = server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start >= len(content) and start:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        limit = server.cuts.pop(0) if server.cuts else len(content)
        self.wfile.write(content[start:][:limit])

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    """Serves `files` (path -> bytes); each of `cuts` ends one reply after so many bytes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.cuts, self.asked, self.ranges = {}, [], [], True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serving():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def full_disk(limit):
    """No file may grow past `limit` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def one_line(*parts):
    """The block fails with a UserError of one line that has all parts."""
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message


def tree(folder):
    """Relative path -> bytes of every file below a folder, its lock aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def raw_of(root, name, files, under=""):
    """A raw folder of official-format files with its receipt."""
    raw = root / "raw" / name
    write_files(raw / under, files)
    paths = [f"{under}/{file}" if under else file for file in files]
    write_receipt(raw, [receipt_row(raw, path, {}) for path in paths])
    return raw
