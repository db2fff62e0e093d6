"""What several test files of this folder use: what is saved, and what is on the hub."""

from bottleneck_transformer_flax.checkpoints.hub import download_repository
from bottleneck_transformer_flax.checkpoints.pretrained_files import CARD, CONFIG, FILES, WEIGHTS
from training.tiny import CROPPED

NAMES = ("fourmi", "蜂", 'čat "quoted" \\ 🐈')
PREPROCESSING = CROPPED.replace(crop=0.8, mean=(0.1, 0.2, 0.3), interpolation="lanczos")
ANT = "lab/ant-1.0"
CONTENT = {CONFIG: b"{}", WEIGHTS: bytes(range(256)) * 40, CARD: b"# ant", "other.bin": b"other"}


def fetch(repository=ANT, files=FILES, required=(CONFIG, WEIGHTS)):
    return download_repository(repository, files, required=required)
