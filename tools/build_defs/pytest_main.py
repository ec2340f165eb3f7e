"""Runs pytest on the files named on the command line, the way Bazel wants a test to run.

Writes the JUnit file Bazel asks for and honours --test_filter (a pytest -k expression).
"""

import os
import sys

import pytest


def main() -> int:
    # tmp_path lies where Bazel wants a test's files: the sandbox's own /tmp is special to some.
    if "TEST_TMPDIR" in os.environ:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", os.environ["TEST_TMPDIR"])
    args = ["-p", "no:cacheprovider", "-q", "-ra", *sys.argv[1:]]
    if "XML_OUTPUT_FILE" in os.environ:
        args += ["--junitxml", os.environ["XML_OUTPUT_FILE"]]
    if os.environ.get("TESTBRIDGE_TEST_ONLY"):
        args += ["-k", os.environ["TESTBRIDGE_TEST_ONLY"]]
    return pytest.main(args)


if __name__ == "__main__":
    sys.exit(main())
