"""TM_FaceMask: whom to animate, and which part of the picture the voice may move."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..tm_core import talk
from ..tm_core.face.found import Faces
from ..tm_core.weights.loading import TalkingModel
from . import wires
from .host import pictures
from .host.schemas import field, io, schema


class FaceMask(io.ComfyNode):
    """The face of a picture, cropped for the model, and its mask."""

    @classmethod
    def define_schema(cls) -> Any:
        """Schema of TM_FaceMask."""
        return schema(
            node_id="TM_FaceMask",
            display_name="Portrait and Face Mask",
            description="Finds the face, crops the picture round it for the model and marks what the voice may move.",
            inputs=[
                field(wires.Model, "model", tooltip="The model that will draw the face: it says how large the crop is."),
                field(io.Image, "image", tooltip="One picture with a face that looks at the camera, mouth closed. Any size."),
                field(
                    io.Int, "face", default=-1, min=-1, max=31,
                    tooltip="Which face, numbered from 0 row by row from the left as Find Faces does. "
                            "-1: the only one, and an error if there are several."),
                field(
                    wires.Faces, "faces", optional=True,
                    tooltip="Faces that Find Faces found in this picture: it is not searched again, and face counts those."),
                field(
                    io.Mask, "mask", optional=True,
                    tooltip="A mask over the whole picture, white where the voice may move it. It replaces the region that is found."),
                field(
                    io.Boolean, "strict", default=False, optional=True, advanced=True,
                    tooltip="Refuse a face that will hardly talk well, such as a profile or an animal's. Off: a warning in the log."),
            ],
            outputs=[
                wires.Portrait.Output("portrait", display_name="portrait", tooltip="The cropped face and its mask, for the sampler."),
                io.Mask.Output("face_mask", display_name="mask", tooltip="The mask in the crop, to look at."),
                io.Image.Output("crop", display_name="crop", tooltip="The crop as the model sees it, to look at."),
            ],
        )

    @classmethod
    def execute(
        cls, model: TalkingModel, image: Tensor, face: int = -1, mask: Tensor | None = None, faces: Faces | None = None,
        strict: bool = False,
    ) -> Any:
        """Prepare; InputError for no face, or several where none was chosen."""
        subject = talk.prepare_portrait(
            pictures.picture_of(image), model.config, face_index=None if face < 0 else face,
            mask=None if mask is None else pictures.region_of(mask), faces=faces, strict=strict)
        return io.NodeOutput(subject, pictures.mask_of(subject.mask), pictures.image_of(subject.crop.image[None]))
