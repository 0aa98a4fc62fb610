"""Pictures of Anthropic's image blocks as the parts that chat has: one place, whatever the contract of pictures is."""

from serve_app.api.dialects.messages.schemas import ImageBlock
from serve_app.errors import UnsupportedParameter


def refuse_image(block: ImageBlock, param: str) -> None:
    """Raises UnsupportedParameter."""
    raise UnsupportedParameter(f"{param}: image blocks are not supported: these models read text only.", param=param)
