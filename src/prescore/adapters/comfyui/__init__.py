"""prescore's samplers as nodes of ComfyUI; README.md beside this file says how to install them.

Nothing of ComfyUI is imported before it asks for the nodes.
"""

from typing import Any


async def comfy_entrypoint() -> Any:
    """The nodes, as ComfyUI asks for them when it starts."""
    from prescore.adapters.comfyui.nodes import Nodes

    return Nodes()


__all__ = ["comfy_entrypoint"]
