"""`python -m loggpt_stream` is `loggpt-stream`."""

import sys

from loggpt_stream.cli import main

sys.exit(main())
