"""The pass over the training images that an average's statistics come from."""

from types import SimpleNamespace

import pytest

from pipeline.training import averaging

RECIPE = {"batch_size": 64, "epochs": 120, "augment": "autoaugment", "augment_after": 60}


@pytest.mark.parametrize("last, policy", [
    (60, "dataset"),
    (61, "autoaugment"),
    (120, "autoaugment"),
])  # fmt: skip
def test_its_images_are_augmented_as_in_the_last_epoch_that_is_averaged(last, policy, monkeypatch):
    asked = []
    monkeypatch.setattr(averaging, "batches", lambda *_, **given: asked.append(given["policy"]))
    spec, run = {"recipe": RECIPE, "seed": 0}, SimpleNamespace(dataset=None)
    averaging.BatchNormPass(spec, run, None, SimpleNamespace(), last)._batches()
    assert asked == [policy]
