"""`python -m wharfinger_operator`: the operator, until SIGTERM."""

import sys

from wharfinger_operator.main import main

sys.exit(main())
