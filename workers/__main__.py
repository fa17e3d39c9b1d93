"""`python -m workers CONTROL UPSTREAM DOWNSTREAM`: one worker process of the pipeline.

The supervisor starts it; the three are the numbers of inherited sockets.
"""

import sys

from workers.worker import main

sys.exit(main(*map(int, sys.argv[1:])))
