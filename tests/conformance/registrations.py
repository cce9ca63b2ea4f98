"""Writes the registration files that the suite needs, for a homeserver of your own.

python -m tests.conformance.registrations DIRECTORY
"""

import sys
from pathlib import Path

from tests.real_synapse import write_registrations

if __name__ == "__main__":
    for path in write_registrations(Path(sys.argv[1])):
        print(path)
