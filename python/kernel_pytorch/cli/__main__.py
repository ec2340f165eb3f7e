"""``python -m kernel_pytorch.cli``."""

import sys

from kernel_pytorch.cli import main

sys.exit(main())
