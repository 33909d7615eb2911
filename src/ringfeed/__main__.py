"""``python -m ringfeed``: the command `ringfeed`."""

import sys

from .cli import main

sys.exit(main())
