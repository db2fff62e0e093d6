"""Image formats: those that this installation decodes, and the others that people have."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

# Formats that Pillow names but does not decode itself: EPS would run Ghostscript on the file, which
# no uploaded file should be able to do; the others need a plug-in or are only identified.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

Image.init()
# A decoder alone: pillow-heif would bring an encoder under the GPL.
with contextlib.suppress(ImportError):
    from pi_heif import register_heif_opener

    register_heif_opener()
# Pillow asks one format after the other whether a file is its own; the usual ones come first.
FORMATS = tuple(
    sorted(set(Image.ID) - _NOT_DECODED, key=lambda name: (name not in ("JPEG", "PNG"), name))
)

IMAGE_SUFFIXES = frozenset(
    suffix.lower()
    for suffix, name in Image.registered_extensions().items()
    # Pillow opens MPO, several JPEGs in one file, as JPEG.
    if name in (*FORMATS, "MPO")
)
"""Lower-case suffixes (with the dot) of the files that this installation can decode."""

_HEIF_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
_OTHER_SUFFIXES = """.avif .avifs .jxl .jxr .psb .xcf .svg .eps .exr .dcm .3fr .arw .cr2 .cr3
.crw .dcr .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw
.x3f"""
UNDECODED_SUFFIXES = frozenset((*_HEIF_SUFFIXES, *_OTHER_SUFFIXES.split())) - IMAGE_SUFFIXES
"""Lower-case suffixes of images that this installation cannot decode."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIF_REMEDY = "install pi-heif: pip install 'bottleneck-transformer-flax[heif]'"


def is_heif(content: bytes) -> bool:
    """Whether a file is HEIC or another HEIF, by its first bytes."""
    return content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS


def has_image_suffix(name: str) -> bool:
    """Whether a file's suffix belongs to an image format that this installation decodes."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def count_undecoded(names: Iterable[str]) -> Counter[str]:
    """Number of the images among files that this installation cannot decode, by suffix."""
    suffixes = (Path(name).suffix.lower() for name in names)
    return Counter(suffix for suffix in suffixes if suffix in UNDECODED_SUFFIXES)


def describe_undecoded(counts: Mapping[str, int]) -> str:
    """Name images that this installation cannot decode, and what helps.

    Args:
        counts: number of images by suffix, as ``count_undecoded`` gives it; if empty, so is the
            text.
    """
    if not counts:
        return ""
    if sum(counts.values()) == 1:
        (suffix,) = counts
        remedy = HEIF_REMEDY if suffix in _HEIF_SUFFIXES else "convert it to JPEG or PNG"
        return f"a {suffix} file, which cannot be decoded here; {remedy}"
    found = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(counts.items()))
    heif = counts.keys() & set(_HEIF_SUFFIXES)
    remedies = [HEIF_REMEDY] if heif else []
    if counts.keys() - heif:
        remedies.append(f"convert {'the others' if heif else 'them'} to JPEG or PNG")
    return f"files that cannot be decoded here ({found}); {'; '.join(remedies)}"
