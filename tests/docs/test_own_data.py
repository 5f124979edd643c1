"""docs/add-a-data-set.md typed: arrays, folders and Hugging Face files of the user's own."""

import hashlib
import io
import json
import re
import sys

import numpy as np
import pages
import projects
import pytest
import yaml
from PIL import Image
from test_add_pages import accuracies, tiny_table

from pipeline.plan import Plan
from pipeline.share import writer

PAGE = "add-a-data-set.md"
CLASSES = 3


def draw(count, size=8, channels=1, seed=0):
    """Images uint8 [N, H, W, C] whose class is where they are bright, and labels."""
    draws = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = draws.integers(0, 60, (count, size, size, channels), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[label * size // CLASSES : (label + 1) * size // CLASSES] += 150
    return images, labels


def write_npz(path):
    (train, train_of), (test, test_of) = draw(120), draw(30, seed=1)
    parts = {"train_images": train, "train_labels": train_of[:, None], "test_images": test}
    np.savez(path, **parts, test_labels=test_of[:, None], names=np.array(["low", "middle", "high"]))


def write_folders(folder):
    """Pictures larger than the entry's size, and no squares."""
    for split, count in (("train", 90), ("val", 30)):
        pictures = draw(count, 16, 3, seed=count)
        for number, (image, label) in enumerate(zip(*pictures, strict=True)):
            name = folder / split / f"kind{label}" / f"{number:03}.png"
            name.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate([image, image[:, :4]], 1)).save(name)


def encode(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_hub(folder, arrow, names=("low", "middle", "high")):
    """The files of a repository of the hub, or of save_to_disk."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {"image": {"_type": "Image"}, "label": {"names": [*names], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for split, count in (("train", 90), ("test", 30)):
        images, labels = draw(count, 8, 3, seed=count)
        columns = {"image": [encode(i) for i in images], "label": labels}
        table = pyarrow.table(columns).replace_schema_metadata(metadata)
        place = folder / (split if arrow else "data")
        place.mkdir(parents=True, exist_ok=True)
        if arrow:
            with pyarrow.ipc.new_stream(place / "data-00000.arrow", table.schema) as stream:
                stream.write_table(table)
        else:
            half = count // 2
            parquet.write_table(table[:half], place / f"{split}-00000-of-00002.parquet")
            parquet.write_table(table[half:], place / f"{split}-00001-of-00002.parquet")


def digest_of(folder):
    """Of every file below, and their times: what must not move."""
    return {
        p: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_the_page_holds_for_the_params_that_ship(scale):
    """Three classes are fewer than two losses of the core and of the adaptive suite compare."""
    plan = Plan(pages.merged(projects.published() | {"scale": scale}, PAGE))
    (cell, *_) = plan.tables["mine"].cells
    met = {suite: [name for name, _ in record.attacks] for suite, record in cell.records.items()}
    assert "apgd_t" not in met["core"] and {"fab_t", "margin_pgd100"} < {*met["core"]}
    assert "mean_logit_apgd_dlr" in met["adaptive"]  # compares three


@pytest.fixture
def project(tmp_path):
    (tmp_path / "my-data").mkdir()
    params = tiny_table(reference="none")
    params["recipes"]["unified"]["train_images"] = 64
    params["scales"]["demo"]["images"] = 600  # as it ships: the page's own number counts
    return pages.lay(tmp_path / "project", PAGE, params)


def download(project, name):
    """The first refusal, then the sum pasted as it says."""
    words = [sys.executable, "-m", "pipeline.download", name]
    refused = projects.command(project, *words)
    assert refused.returncode == 1 and refused.stdout.count("\n") == 1, refused.stdout
    params = yaml.safe_load((project / "params.yaml").read_text())
    (pasted,) = re.findall(r"write (sha256: \[\w+\])$", refused.stdout.strip())
    params["datasets"][name] |= yaml.safe_load(pasted)
    writer.write(project, params)
    assert "checksum right" in pages.run(project, *words[1:])


def prepared(project, name):
    """Shapes and classes of the prepared arrays."""
    pages.run(project, "-m", "pipeline.prepare", name)
    code = (
        "import torch; from pipeline.plan import load_plan; "
        "from pipeline.loading.images import load_split; d = load_plan().dataset(%r); "
        "s = [load_split(d, n, torch.device('cpu')) for n in ('train', 'validation', 'test')]; "
        "print(*[len(x) for x in s], *s[0].images.shape[1:], *s[0].names)"
    )
    return pages.run(project, "-c", code % name).split()


def test_arrays_of_the_users_own_are_summed_pasted_and_make_a_table(project):
    mine = project.parent / "my-data"
    write_npz(mine / "shapes.npz")
    before = digest_of(mine)
    download(project, "shapes")
    rows = pages.make(project)
    assert set(rows) == {"pgd_at", "trades"} and rows["pgd_at"]["dataset"] == "shapes"
    accuracies(rows, "clean", "pgd10")
    assert prepared(project, "shapes") == ["100", "20", "30", *"188", "low", "middle", "high"]
    assert digest_of(mine) == before

    write_npz(mine / "shapes.npz")  # zip's own times: other bytes
    (mine / "shapes.npz").write_bytes((mine / "shapes.npz").read_bytes() + b"!")
    changed = projects.command(project, sys.executable, "-m", "pipeline.download", "shapes")
    assert changed.returncode == 1 and "has another; if these are the files" in changed.stdout
    assert (mine / "shapes.npz").exists() and len(list(mine.iterdir())) == 1


def test_folders_of_pictures_are_resized_and_numbered_by_name(project):
    write_folders(project.parent / "my-data/birds")
    before = digest_of(project.parent / "my-data")
    download(project, "birds")
    found = prepared(project, "birds")
    assert found == ["70", "20", "30", *"388", "kind0", "kind1", "kind2"]
    assert digest_of(project.parent / "my-data") == before


@pytest.mark.parametrize("arrow", [False, True])
def test_files_of_the_hub_are_read_with_their_names(project, arrow):
    write_hub(project.parent / "my-data/hub", arrow)
    download(project, "hub")
    assert prepared(project, "hub") == ["70", "20", "30", *"388", "low", "middle", "high"]
