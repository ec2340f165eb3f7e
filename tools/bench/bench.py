"""Entry of `tools/bazel run //tools/bench`: the same as `kpt bench`."""

from tools import kpt_main

if __name__ == "__main__":
    kpt_main.main(["bench"])
