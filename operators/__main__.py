"""The entry point of a Ray job: `ray job submit --working-dir . -- python -m operators -c configs/FILE`."""

import sys

from operators.job.command import main

sys.exit(main())
