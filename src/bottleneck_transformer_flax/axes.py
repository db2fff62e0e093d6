"""Array types, and the legend of axis letters for every shape in this package.

======  =====================================================================
``b``   batch
``h``   height of an image or of a grid of positions (rows)
``w``   width of an image or of a grid of positions (columns)
``c``   channels
``n``   attention heads
``d``   size of one head of queries and keys, and of values where they are equal
``v``   size of one head of values
``q``   query positions, h·w of them, row by row
``k``   key positions, h·w of them, row by row
======  =====================================================================

Images are NHWC with RGB channels; sizes are (height, width).
"""

from jax import Array
from jaxtyping import Bool, Float, Int, Shaped, UInt8

__all__ = ["Array", "Bool", "Float", "Int", "Shaped", "UInt8"]
