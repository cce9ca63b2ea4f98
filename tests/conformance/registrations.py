"""Writes the registration files that the suite needs, for a homeserver of your own.

python -m tests.conformance.registrations DIRECTORY
"""

import json
import sys
from pathlib import Path

from tests.real_synapse import BRIDGE_REGISTRATION, NARROW_REGISTRATION, REGISTRATION

if __name__ == "__main__":
    for registration in (REGISTRATION, NARROW_REGISTRATION, BRIDGE_REGISTRATION):
        path = Path(sys.argv[1]) / f"{registration['id']}.yaml"
        path.write_text(json.dumps(registration))
        print(path)
