"""The page of laws names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_tests_that_the_page_of_laws_names_exist():
    page = (ROOT / "docs/how-we-know-it-is-right.md").read_text("utf-8")
    file, missing = "", []
    for named, test in re.findall(r"`([\w/]*\.py|)::(test_\w+)`", page):
        file = named or file
        if f"def {test}(" not in (ROOT / "tests" / file).read_text("utf-8"):
            missing.append(f"{file}::{test}")
    assert file and not missing, missing
