"""Print the versions of everything installed beside this script's Python, as pip constraints."""

from importlib.metadata import distributions

NOT_LOCKED = {"pip", "setuptools", "wheel", "bottleneck-transformer-flax"}


def main() -> None:
    print(
        "# Versions that are tested together; pip takes them as constraints. `make lock` writes it."
    )
    versions = {found.name.lower().replace("_", "-"): found.version for found in distributions()}
    for name, version in sorted(versions.items()):
        if name not in NOT_LOCKED:
            # A local version ("+cpu") names a build, not a release.
            print(f"{name}=={version.partition('+')[0]}")


if __name__ == "__main__":
    main()
