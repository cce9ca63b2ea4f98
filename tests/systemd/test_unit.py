"""The systemd unit: systemd takes it, and README.md beside it installs what it names.

systemd-analyze wants the program of ExecStart to exist, so it looks at a copy in which only the
path of that program is put to an executable file of the test; the rest is the unit as shipped.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.web.server import ServerSettings

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = (SYSTEMD / "matrix-login-gateway.service").read_text()
README = (SYSTEMD / "README.md").read_text()


def values(key: str) -> list[str]:
    """The values of a key, in the order of the unit."""
    return re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)


PROGRAM = values("ExecStart")[0].split()[0]


def verify(unit: str, folder: Path, name: str = "matrix-login-gateway.service") -> subprocess.CompletedProcess[str]:
    """What systemd-analyze says of `unit`; missing it is a skip here and a failure where CI=true."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        reason = "systemd-analyze is not installed (Debian: apt-get install systemd)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    program = folder / "program"
    program.touch(mode=0o755)
    copy = folder / name
    copy.write_text(unit.replace(f"ExecStart={PROGRAM} ", f"ExecStart={program} "))
    # "no" leaves the faults of other units out; a warning about ours still counts as a failure.
    return subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", ["matrix-login-gateway.service", "matrix-login-gateway@1.service"])
def test_systemd_takes_the_unit_without_a_word_alone_and_as_an_instance(tmp_path: Path, name: str) -> None:
    done = verify(UNIT, tmp_path, name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("line", "broken", "complaint"),
    [
        ("Restart=on-failure", "Restrat=on-failure", "Unknown key"),
        ("ProtectSystem=strict", "ProtectSystem=strictly", "Failed to parse"),
        ("LoadCredential=as_token:", "LoadCredential=as_token/", "Credential name"),
        (f"ExecStart={PROGRAM} serve", "ExecStart=/nowhere/program serve", "is not executable"),
        (f"ExecStart={PROGRAM} serve", "#", "no ExecStart"),
    ],
)
def test_systemd_refuses_a_broken_unit(tmp_path: Path, line: str, broken: str, complaint: str) -> None:
    assert UNIT.count(line) == 1
    done = verify(UNIT.replace(line, broken), tmp_path)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_systemd_waits_longer_than_the_gateway_drains() -> None:
    assert int(values("TimeoutStopSec")[0]) > ServerSettings().drain_timeout


def test_the_readme_makes_the_user_of_the_unit() -> None:
    (user,), (group,) = values("User"), values("Group")
    assert group == user
    assert re.search(rf"^sudo useradd --system .* {user}$", README, re.MULTILINE)


def test_the_readme_installs_the_program_of_the_unit() -> None:
    assert f"sudo python3 -m venv {Path(PROGRAM).parents[1]}\n" in README
    assert f"sudo {Path(PROGRAM).parent}/pip install -c requirements.lock .\n" in README


def test_the_readme_puts_every_file_where_the_unit_reads_it() -> None:
    configuration = values("ExecStart")[0].split()[-1]
    credentials = dict(value.split(":") for value in values("LoadCredential"))
    assert Path(configuration).parent == Path("/etc") / values("ConfigurationDirectory")[0]
    installed = re.findall(r"^sudo install .* (/etc/\S+)$", README, re.MULTILINE)
    assert {configuration, *credentials.values()} <= set(installed)
    for name in credentials:
        assert f'"${{CREDENTIALS_DIRECTORY}}/{name}"' in README


def test_the_readme_puts_the_database_into_the_state_directory() -> None:
    state = Path("/var/lib") / values("StateDirectory")[0]
    assert set(re.findall(r"sqlite:///(/\S+)/gateway\.db", README)) == {str(state)}


def test_the_readme_names_no_directory_that_the_unit_does_not_have() -> None:
    theirs = {str(Path(PROGRAM).parents[1]), "/etc/matrix-login-gateway", "/var/lib/matrix-login-gateway"}
    named = set(re.findall(r"/(?:opt|etc|var/lib)/[\w-]*gateway[\w-]*(?=[/\s`\"'.,;)]|$)", README))
    assert named == theirs


def test_the_readme_stops_the_instances_wherever_it_replaces_or_removes_a_unit() -> None:
    for title in ("Upgrade", "Removal"):
        text = README.split(f"## {title}\n")[1].split("\n## ")[0]
        assert "sudo systemctl stop 'matrix-login-gateway@*'\n" in text
        assert re.search(r"^sudo (install|rm) .*/matrix-login-gateway@\.service$", text, re.MULTILINE)
