"""The made pages say what the declarations and records say now, and links lead somewhere."""

import os.path
import pathlib
import re

from tools.docs import pages

# Not resolved: the files beside this one, not what a link of it leads to.
ROOT = pathlib.Path(__file__).parents[2]
HINT = "run: tools/bazel run //tools/docs"


def test_made_pages_are_current():
    for path, text in pages.pages(ROOT).items():
        assert (ROOT / path).exists(), f"{path} is missing; {HINT}"
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path} is stale; {HINT}"


def test_no_page_of_an_operator_that_is_gone():
    made = pages.pages(ROOT)
    for file in (ROOT / "docs/ops").glob("*.md"):
        assert f"docs/ops/{file.name}" in made, f"{file.name} belongs to no operator; {HINT}"


def test_readme_table_is_current():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert pages.with_table(readme, ROOT) == readme, f"README.md's table is stale; {HINT}"


def test_links_lead_to_files():
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
    for file in files:
        for link in re.findall(r"\]\(([^)#\s]+)", file.read_text(encoding="utf-8")):
            if "://" not in link:
                target = os.path.normpath(file.parent / link)
                assert os.path.exists(target), f"{file.relative_to(ROOT)} links to {link}"
