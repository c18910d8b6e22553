"""TM_DetectFaces and TM_FaceMasks: the faces of a picture, and a mask for each of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tm_core.errors import InputError
from ..tm_core.face import found
from ..tm_core.face.regions import REGIONS, MaskChoices, Source
from ..tm_core.face.search import LEAST, SMALLEST
from . import wires
from .host import pictures
from .host.schemas import chosen, field, io, schema

MOST = 16
CORNERS, SIZED = ("x0", "y0", "x1", "y1"), ("x", "y", "width", "height")


class DetectFaces(io.ComfyNode):
    """All faces of a picture."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_DetectFaces."""
        return schema(
            node_id="TM_DetectFaces",
            display_name="Find Faces",
            description="Finds every face of a picture, small, tilted and upside-down ones too, row by row from the left.",
            inputs=[
                field(io.Image, "image", tooltip="One picture of any size, with any number of faces."),
                field(
                    io.Int, "smallest", default=SMALLEST, min=LEAST, max=4096,
                    tooltip="Longer side in pixels of the smallest face to look for. Larger is quicker and ignores the background."),
                field(
                    io.Int, "most", default=MOST, min=1, max=256, tooltip="Most faces to keep: the surest ones."),
            ],
            outputs=[
                wires.Faces.Output("faces", display_name="faces", tooltip="The faces in order, for Face Masks."),
                io.Int.Output("count", display_name="count", tooltip="How many there are; 0 is no error."),
                io.Image.Output("overlay", display_name="overlay", tooltip="The picture with each face framed and numbered from 0."),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, smallest: int = SMALLEST, most: int = MOST) -> Any:
        """Find; a picture without a face gives a count of 0."""
        rgb = pictures.picture_of(image)
        faces = found.find_faces(rgb, smallest=smallest, most=most)
        return io.NodeOutput(faces, len(faces.faces), pictures.image_of(found.numbered(rgb, faces)[None]))


class FaceMasks(io.ComfyNode):
    """A mask for each face."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_FaceMasks."""
        return schema(
            node_id="TM_FaceMasks",
            display_name="Face Masks",
            description="Makes one mask for each face: lips, face or head, grown, feathered, none of them on another's face.",
            inputs=[
                field(io.Image, "image", tooltip="The picture the masks are for."),
                field(
                    io.Combo, "region", options=list(REGIONS), default="face",
                    tooltip="lips: the mouth and what moves round it. face: forehead to chin. head: with hair, cut out of the background."),
                field(
                    io.Float, "feather", default=8.0, min=0.0, max=512.0, step=0.5,
                    tooltip="Width of the soft edge in pixels, half of it inside. 0 is a hard edge."),
                field(
                    io.Float, "grow", default=0.0, min=-512.0, max=512.0, step=0.5,
                    tooltip="Pixels by which every mask grows; below 0 it shrinks."),
                field(
                    io.Boolean, "exclusive", default=True,
                    tooltip="Where masks meet, the nearest face has the pixel, so that one voice never moves two mouths."),
                field(
                    wires.Faces, "faces", optional=True, tooltip="From Find Faces. Without faces, masks or boxes the picture is searched."),
                field(
                    io.Mask, "masks", optional=True,
                    tooltip="A mask for each face from anywhere, used in place of the region: only edges and overlaps are changed."),
                field(
                    wires.Boxes, "boxes", optional=True,
                    tooltip="Boxes of any detector in pixels: lists of left, top, right, bottom, or dictionaries of x, y, width, height."),
            ],
            outputs=[
                io.Mask.Output("face_masks", display_name="masks", tooltip="One mask for each face, in order."),
                io.Image.Output("overlay", display_name="overlay", tooltip="The picture with each mask in its colour and with its number."),
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, region: str = "face", feather: float = 8.0, grow: float = 0.0, exclusive: bool = True,
        faces: found.Faces | None = None, masks: Tensor | None = None, boxes: Any = None,
    ) -> Any:
        """Mask; InputError where nothing is found, or more than one source is connected."""
        choices = MaskChoices(region=chosen("region", region, REGIONS), feather=feather, grow=grow, exclusive=exclusive)
        made, shown = found.mask_faces(pictures.picture_of(image), sources_of(faces, masks, boxes), choices)
        return io.NodeOutput(torch.from_numpy(made), pictures.image_of(shown[None]))


def sources_of(faces: found.Faces | None, masks: Tensor | None, boxes: Any) -> found.Faces | list[Source] | None:
    """The one thing that is connected, as the engine takes it; None for nothing."""
    given = [name for name, value in (("faces", faces), ("masks", masks), ("boxes", boxes)) if value is not None]
    if len(given) > 1:
        raise InputError(" and ".join(given), "connected", "faces come from one place", "disconnect all but one")
    if masks is not None:
        return list(masks.reshape(-1, *masks.shape[-2:]).detach().to("cpu", torch.float32).numpy())
    return faces if boxes is None else [box_of(box, i) for i, box in enumerate(listed(boxes))]


def listed(boxes: Any) -> Iterable[Any]:
    """One box, or boxes nested in lists as detectors hand them over, one after the other."""
    if isinstance(boxes, dict) or (isinstance(boxes, list | tuple | np.ndarray | Tensor) and len(boxes) == 4 and _flat(boxes)):
        return [boxes]
    if not isinstance(boxes, list | tuple | np.ndarray | Tensor):
        raise InputError("boxes", type(boxes).__name__, "is no list of boxes", "give lists of left, top, right, bottom in pixels")
    return [box for part in boxes for box in listed(part)]


def _flat(values: Any) -> bool:
    return all(np.ndim(v) == 0 and not isinstance(v, dict) for v in values)


def box_of(box: Any, index: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a box in either form."""
    if not isinstance(box, dict):
        x0, y0, x1, y1 = (float(v) for v in box)
        return x0, y0, x1, y1
    if all(key in box for key in CORNERS):
        return float(box["x0"]), float(box["y0"]), float(box["x1"]), float(box["y1"])
    if not all(key in box for key in SIZED):
        raise InputError(f"box {index}", sorted(box), "a box has x, y, width and height", "connect boxes of that form")
    x, y = float(box["x"]), float(box["y"])
    return x, y, x + float(box["width"]), y + float(box["height"])
