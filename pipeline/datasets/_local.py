"""What data sets of the user's own share: where they lie, and how a picture becomes pixels."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageOps

from pipeline.contracts.dataset import Images, ImageSet, corrupt
from pipeline.contracts.fields import Place
from pipeline.errors import UserError
from pipeline.raw.local import LINK

MODES = {1: "L", 3: "RGB"}  # Pillow's, by number of channels
TEST = ("test", "validation", "valid", "val")  # the first that is there is the test set


@dataclass(frozen=True, kw_only=True)
class LocalSet(ImageSet):
    """files: the user's own file or folder, which `download` links and never changes."""

    files: Place

    remedy: ClassVar[str] = "mend the files, or their entry in `datasets:` of params.yaml"

    def place(self, raw: Path) -> Path:
        """The link to the user's file or folder."""
        return raw / LINK

    def refuse(self, path: Path, what: str) -> UserError:
        """The error for files that are not what the entry says."""
        return corrupt(path, what, self.remedy)


@dataclass(frozen=True, kw_only=True)
class Pictures(LocalSet):
    """Encoded images of any size.

    resize: the shorter side becomes `size` (bicubic) and the middle square stays; without it every
    image must be `size` x `size`.
    """

    resize: bool

    def decode(self, pictures: Iterable[tuple[Path, Any]]) -> Images:
        """Images uint8 [N, channels, size, size] of (where it is from, path or open file)."""
        if self.channels not in MODES:
            raise UserError(
                f"params.yaml: datasets: channels {self.channels}: pictures have 1 or 3"
            )
        found = [self._decode(where, picture) for where, picture in pictures]
        return (
            np.stack(found) if found else np.empty((0, self.channels, self.size, self.size), "u1")
        )

    def _decode(self, where: Path, picture: Any) -> Images:
        try:
            with Image.open(picture) as opened:
                if opened.mode.startswith(("I", "F")):  # which convert would cut off at 255
                    raise ValueError("more than 8 bits a channel; save it with 8")
                image = opened.convert(MODES[self.channels])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise self.refuse(where, f"is no image that can be read ({error})") from error
        square = (self.size, self.size)
        if self.resize:
            image = ImageOps.fit(image, square, Image.Resampling.BICUBIC)
        elif image.size != square:
            shape = f"{image.size[0]}x{image.size[1]}"
            raise self.refuse(where, f"is {shape}, not {self.size}x{self.size} (resize: false)")
        pixels = np.asarray(image, np.uint8).reshape(*square, self.channels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
