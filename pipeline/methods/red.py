"""RED, Random Ensemble Defence (anonymous submission): unlike members, one drawn for every query.

The objective is in pipeline/methods/_red.py, the draw is `combine: random_one` (Eq. 2), one
member for a whole call as released; `random_each` draws for every image. A draw is no defence
against its own expectation, so a row with the same members averaged stands beside it.

As printed (`red_printed`) the members become constant: ten times the length of each image's loss
gradient outweighs CE, which is at most log(classes). The default is therefore the released form: CE
summed over members, similarity on clean images only and of unordered pairs, twice the squared norm
of the gradient of the batch mean (smaller by the batch size squared), on half clean and half
adversarial images. Its README says that networks start from ImageNet weights, its commands leave
`--pretrained` out, so there are two readings: `red_pretrained` starts from the user's own file
(`weights:`), for the weights cannot be shipped, and the others from scratch (kaiming, fan_in), as
the commands do. Its checkpoint is that of the lowest training loss.
"""

from dataclasses import dataclass

from pipeline.methods._red import RandomDefence


@dataclass(frozen=True, kw_only=True)
class Red(RandomDefence):
    """Members of the arch itself."""
