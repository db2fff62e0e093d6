"""What the backward pass finds in memory, and what it computes again."""

KEPT = "kept for the backward pass"
"""The name of what takes long to compute: results of convolutions, products and attention.

All between them (norms, activations, sums) is computed again in the backward pass, which takes less
time than writing it to memory and reading it back, and less than half of the memory.
"""
