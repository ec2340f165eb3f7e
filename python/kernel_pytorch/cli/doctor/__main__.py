"""``python -m kernel_pytorch.cli.doctor``."""

import sys

from kernel_pytorch.cli.doctor import main

sys.exit(main())
