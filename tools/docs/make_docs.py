"""Writes the made pages of docs/ and the README's table: tools/bazel run //tools/docs.

The test //tests/tools:test_docs holds the committed files against what this would write.
"""

import os
import pathlib
from collections.abc import Sequence

from absl import app, logging

from tools.docs import gpu_page, pages


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError("takes no arguments")
    root = pathlib.Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."))
    # First what the other pages are made from.
    (root / gpu_page.RUNS).write_text(gpu_page.runs(root), encoding="utf-8")
    made = pages.pages(root)
    readme = root / "README.md"
    made["README.md"] = pages.with_table(readme.read_text(encoding="utf-8"), root)
    for stale in set(root.glob("docs/ops/*.md")) - {root / path for path in made}:
        stale.unlink()
        logging.info("removed %s", stale.relative_to(root))
    for path, text in sorted(made.items()):
        file = root / path
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            logging.info("wrote %s", path)


if __name__ == "__main__":
    app.run(main)
