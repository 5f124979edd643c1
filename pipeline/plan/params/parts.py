"""Which methods may learn from a batch in parts (a recipe's `micro_batch`) as from the whole of it.

A batch in parts is equal where losses are an image's own and every update descends their mean. So
it is for a method that writes `loss` alone. Of those that write `step` these are known to be; a
method cannot say so itself, since its code is part of its runs' names.
"""

IMAGE_BY_IMAGE = (
    "adp",
    "at_aka",
    "barre",
    "cat_aka",
    "fat",
    "gal",
    "igat",
    "mce",
    "more",
    "rslad",
    "soe",
    "stat",
)

WHOLE = {
    "awp": "moves the weights by the gradient of the whole batch before it learns",
    "ccg": "augments the whole batch a second time",
    "dverge": "takes an image's target from its neighbour in the batch",
    "gairat": "gives weights that have mean 1 in the batch",
    "ps_red": "attacks one half of the batch and takes the gradient of its mean",
    "red": "attacks one half of the batch and takes the gradient of its mean",
    "trs": "attacks one half of the batch and takes the gradient of its mean",
}


def why_whole(component: str, writes_step: bool) -> str:
    """Why a method must see a whole batch at once; nothing where it need not."""
    if not writes_step or component in IMAGE_BY_IMAGE:
        return ""
    return WHOLE.get(
        component, "writes a `step` of its own, which may look at the batch as a whole"
    )


# Members of these meet in their loss: trained apart they would be another method's
TOGETHER = (
    "adp",
    "aute",
    "cat_aka",
    "dverge",
    "gal",
    "igat",
    "more",
    "ps_red",
    "red",
    "soe",
    "trs",
)
