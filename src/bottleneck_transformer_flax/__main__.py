"""``python -m bottleneck_transformer_flax`` is the command line ``botnet``."""

import sys

from bottleneck_transformer_flax.cli import main

if __name__ == "__main__":
    sys.exit(main())
