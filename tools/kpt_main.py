"""Entry of `tools/bazel run //:kpt`: the command line of the package, from the user's folder."""

import os
import sys
from collections.abc import Sequence


def main(command: Sequence[str] = ()) -> None:
    """Runs ``kpt`` with ``command`` before the process's own arguments."""
    # `bazel run` starts in its own folder; paths on the command line are the user's. The first
    # name is tools/bazel's, when it was called from outside the repository.
    for name in ("KPT_WORKING_DIRECTORY", "BUILD_WORKING_DIRECTORY"):
        if name in os.environ:
            os.chdir(os.environ[name])
            break
    from kernel_pytorch import cli

    sys.exit(cli.main([*command, *sys.argv[1:]]))


if __name__ == "__main__":
    main()
