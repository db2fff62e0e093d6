"""Strict settings for every test: types and shapes checked, promotion explicit, two CPU devices."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook("bottleneck_transformer_flax", "beartype.beartype")
