"""``python -m ddm``."""

import sys

from ddm.cli import main

sys.exit(main())
