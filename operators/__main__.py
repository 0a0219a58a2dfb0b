"""The entry point of a Ray job: `ray job submit --working-dir . -- python -m operators -c configs/FILE`."""

import sys

try:
    from operators.job.command import main
except ModuleNotFoundError as error:
    # A traceback would not say that it is another Python than Ray's.
    print(
        f"tidemill: {sys.executable} lacks the package {error.name!r}. A job runs the `python` that the head "
        "finds: start Ray there with the folder of its own Python first in PATH, and the packages of "
        "requirements/ in it",
        file=sys.stderr,
    )
    sys.exit(1)

sys.exit(main())
