"""Entry of `tools/bazel run //:kpt`: the command line of the package, from the user's folder."""

import os
import sys


def main() -> None:
    # `bazel run` starts in its own folder; paths on the command line are the user's.
    if "BUILD_WORKING_DIRECTORY" in os.environ:
        os.chdir(os.environ["BUILD_WORKING_DIRECTORY"])
    from kernel_pytorch import cli

    sys.exit(cli.main())


if __name__ == "__main__":
    main()
