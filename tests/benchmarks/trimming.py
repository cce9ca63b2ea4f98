"""The gateway's command, which at SIGUSR2 gives back all memory that nothing uses: so what is left then is kept.

python -m tests.benchmarks.trimming serve -c FILE
"""

import ctypes
import gc
import signal

from gateway.cli import main


def trim(*_: object) -> None:
    """Collect garbage, and have glibc give its free pages back, which it keeps where a used one lies above them."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, trim)
    main()
