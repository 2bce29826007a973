# SPDX-License-Identifier: Apache-2.0
"""A round's pictures and thumbnails on disk, each with its checksum."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..errors import Damaged
from .files import checksum_of_file, read_record, replacing_folder, to_image, write_record

THUMBNAIL = 320
"""Longest side of a thumbnail in pixels."""

Size = Literal["thumb", "full"]


class Pictures:
    """The folder of a round's pictures; it is there as a whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def drawn(self) -> bool:
        """Whether there are pictures to show."""
        return (self.folder / "info.json").is_file()

    def info(self) -> dict[str, Any]:
        """Number, width and height in pixels, checksums; :class:`Damaged` where the file is missing or damaged."""
        return read_record(self.folder / "info.json", "n", "width", "height")

    def draw(self, pictures: Tensor) -> None:
        """Write pictures ``(n, H, W, 3)`` in 0..1 where there are none yet."""
        height, width = pictures.shape[1:3]
        with replacing_folder(self.folder) as temporary:
            for number, picture in enumerate(pictures):
                image = to_image(picture)
                image.save(temporary / _name(number, "full"), compress_level=1)
                image.thumbnail((THUMBNAIL, THUMBNAIL))
                image.save(temporary / _name(number, "thumb"), quality=90)
            files = {path.name: checksum_of_file(path) for path in sorted(temporary.iterdir())}
            info = {"n": len(pictures), "width": width, "height": height, "files": files}
            write_record(temporary / "info.json", info)

    def broken(self) -> list[Path]:
        """The damaged and missing files, ``info.json`` among them."""
        try:
            files = self.info().get("files", {})
        except Damaged:
            return [self.folder / "info.json"]
        return [self.folder / name for name, written in files.items() if not self._fits(name, written)]

    def _fits(self, name: str, written: str) -> bool:
        try:
            return checksum_of_file(self.folder / name) == written
        except Damaged:
            return False

    def file(self, number: int, size: Size) -> Path | None:
        """Where a picture lies; None where there is none. Raises :class:`Damaged` where it is not as it was written."""
        path = self.folder / _name(number, size)
        if not path.is_file():
            return None
        try:
            written = self.info().get("files", {}).get(path.name)
        except Damaged:
            written = None
        if written is not None and not self._fits(path.name, written):
            raise Damaged(f"{path} is damaged.")
        return path


def _name(number: int, size: Size) -> str:
    return f"{number:04d}{'.jpg' if size == 'thumb' else '.png'}"
