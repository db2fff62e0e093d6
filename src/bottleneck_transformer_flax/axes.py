"""Array types, and the one legend of the axis letters used in every shape in this package.

======  =====================================================================
``b``   batch
``h``   height of an image or of a grid of positions (rows)
``w``   width of an image or of a grid of positions (columns)
``c``   channels
``n``   attention heads
``d``   size of one attention head
``q``   query positions, h·w of them, row by row
``k``   key positions, h·w of them, row by row; ``classes`` is spelt out
======  =====================================================================

Images are NHWC with RGB channels; sizes are (height, width).
"""

from jax import Array
from jaxtyping import Bool, Float, Int, Shaped, UInt8

__all__ = ["Array", "Bool", "Float", "Int", "Shaped", "UInt8"]
