"""The node pack as ComfyUI sees it: one entry point and the folder of its web files, nothing else.

The nodes are imported when ComfyUI asks for them, so this module also imports where there is no ComfyUI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """The extension with every node of this pack (nodes/)."""
    from .nodes import comfy_entrypoint as make_extension

    return await make_extension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
