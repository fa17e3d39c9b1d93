"""`python -m workers FD`: one worker process, started by the supervisor, that speaks over the inherited socket FD."""

import sys

from workers.worker import main

sys.exit(main(int(sys.argv[1])))
