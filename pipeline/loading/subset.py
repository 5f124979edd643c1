"""Which test images: fixed lists, the same for every victim and every transfer set."""

import random

from pipeline.errors import UserError


def subset(images: int, available: int) -> list[int]:
    """The fixed index list: all, or Python's sample with seed 0 (as DVERGE and SoE draw it)."""
    if not 1 <= images <= available:
        raise UserError(
            f"params.yaml: images: {images} asked for, the test split has {available}; mend it"
        )
    if images == available:
        return list(range(available))
    return sorted(random.Random(0).sample(range(available), images))
