"""`python -m prescore` is `prescore`."""

import sys

from prescore.cli import main

sys.exit(main())
