"""Which files are images, which of them can be decoded, and what helps with the others."""

from bottleneck_transformer_flax import image_formats
from bottleneck_transformer_flax.image_formats import (
    IMAGE_SUFFIXES,
    UNDECODED_SUFFIXES,
    count_undecoded,
    describe_undecoded,
)


def test_what_is_decoded_when_it_is_named_has_a_suffix_of_an_image():
    assert {".jpg", ".png", ".mpo", ".webp", ".avif", ".psd", ".heic", ".hif"} <= IMAGE_SUFFIXES
    assert {".cr2", ".nef", ".dng", ".jxl", ".svg", ".eps"} <= UNDECODED_SUFFIXES
    assert not IMAGE_SUFFIXES & UNDECODED_SUFFIXES


def test_what_cannot_be_decoded_is_counted_by_suffix_with_the_remedy(monkeypatch):
    monkeypatch.setattr(image_formats, "UNDECODED_SUFFIXES", UNDECODED_SUFFIXES | {".heic"})
    counts = count_undecoded(["a.heic", "b/c.HEIC", "d.Nef", "e.txt", "f", "g.jpg"])
    install = "install pi-heif: pip install 'bottleneck-transformer-flax[heif]'"
    assert describe_undecoded(counts) == (
        f"files that cannot be decoded here (2 .heic, 1 .nef); {install}; "
        "convert the others to JPEG or PNG"
    )
    assert describe_undecoded({".hif": 2}).endswith(f" here (2 .hif); {install}")
    told = "a .hif file, which cannot be decoded here; "
    assert describe_undecoded({".hif": 1}) == told + install
