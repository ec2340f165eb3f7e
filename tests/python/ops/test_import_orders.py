"""The operators are registered and native whatever is imported first."""

import os
import subprocess
import sys

import pytest

_CHECK = """
import torch, kernel_pytorch
with kernel_pytorch.explain() as calls:
    torch.ops.kpt.act(torch.ones(4), "relu")
print(calls.calls[0].implementation)
"""


@pytest.mark.parametrize(
    "first",
    [
        "from kernel_pytorch.ops import SPECS",
        "from kernel_pytorch.ops.contract import check_accuracy",
        "import kernel_pytorch; import torch",
        "import torch; from kernel_pytorch.backends import cpu",
    ],
)
def test_whatever_comes_first(first):
    done = subprocess.run(
        [sys.executable, "-c", first + _CHECK],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "native\n"), done.stderr
