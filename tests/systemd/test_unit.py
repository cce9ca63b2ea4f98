"""The systemd units: systemd takes them and finds them closed, and README.md beside them installs what they name.

systemd-analyze wants the program of ExecStart to exist, so it looks at a copy in which only the
path of that program is put to an executable file of the test; the rest is the unit as shipped.
"""

import re
import subprocess
from pathlib import Path

import pytest

from gateway.web.settings import ServerSettings
from tests.supervisor import program

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = (SYSTEMD / "matrix-login-gateway.service").read_text()
SOCKET = (SYSTEMD / "matrix-login-gateway.socket").read_text()
README = (SYSTEMD / "README.md").read_text()


def values(key: str) -> list[str]:
    """The values of a key, in the order of the unit."""
    return re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)


PROGRAM = values("ExecStart")[0].split()[0]


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What systemd-analyze says."""
    return subprocess.run(
        [program("systemd-analyze"), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def verify(unit: str, folder: Path, name: str = "matrix-login-gateway.service") -> subprocess.CompletedProcess[str]:
    """What systemd-analyze says of `unit`, and of the socket with it."""
    stand_in = folder / "program"
    stand_in.touch(mode=0o755)
    copy = folder / name
    copy.write_text(unit.replace(f"ExecStart={PROGRAM} ", f"ExecStart={stand_in} "))
    copy.with_suffix(".socket").write_text(SOCKET)
    # "no" leaves the faults of other units out; a warning about ours still counts as a failure.
    return analyze("verify", "--man=no", "--recursive-errors=no", str(copy), str(copy.with_suffix(".socket")))


@pytest.mark.parametrize("name", ["matrix-login-gateway.service", "matrix-login-gateway@1.service"])
def test_systemd_takes_the_units_without_a_word_alone_and_as_an_instance(tmp_path: Path, name: str) -> None:
    done = verify(UNIT, tmp_path, name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_finds_the_service_closed() -> None:
    """Exposure from 0 to 10; network sockets alone, which it is for, make 0.9."""
    unit = str(SYSTEMD / "matrix-login-gateway.service")
    done = analyze("security", "--offline=true", "--no-pager", "--threshold=15", unit)
    assert done.returncode == 0, done.stdout
    assert float(done.stdout.split("Overall exposure level for matrix-login-gateway.service: ")[1].split()[0]) <= 1.5


def test_the_socket_is_where_the_gateway_would_listen_itself() -> None:
    assert re.findall(r"^ListenStream=(.*)$", SOCKET, re.MULTILINE) == ServerSettings().listen


def test_systemd_makes_the_user_and_the_directories(tmp_path: Path) -> None:
    (tmp_path / "etc" / "matrix-login-gateway").mkdir(parents=True)
    secret = tmp_path / "etc" / "matrix-login-gateway" / "as_token"
    secret.write_text("secret")
    for tool, options in (("systemd-sysusers", ()), ("systemd-tmpfiles", ("--create",))):
        file = SYSTEMD / f"{tool.removeprefix('systemd-')}.d" / "matrix-login-gateway.conf"
        subprocess.run([program(tool), f"--root={tmp_path}", *options, str(file)], capture_output=True, check=True)
    (user,) = (tmp_path / "etc" / "passwd").read_text().splitlines()
    name, _, uid, gid, _, home, shell = user.split(":")
    assert (name, home, shell) == (values("User")[0], "/var/lib/matrix-login-gateway", "/usr/sbin/nologin")
    state, configuration = tmp_path / home[1:], secret.parent
    assert (state.stat().st_uid, state.stat().st_mode & 0o777) == (int(uid), int(values("StateDirectoryMode")[0], 8))
    assert (configuration.stat().st_uid, configuration.stat().st_gid) == (0, int(gid))
    assert configuration.stat().st_mode & 0o777 == int(values("ConfigurationDirectoryMode")[0], 8)
    assert secret.stat().st_mode & 0o777 == 0o600


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


@pytest.mark.parametrize("tool", ["sysusers", "tmpfiles"])
def test_the_readme_makes_the_user_and_the_directories(tool: str) -> None:
    (user,), (group,) = values("User"), values("Group")
    assert group == user
    name = "matrix-login-gateway.conf"
    assert f"sudo install -D -m 0644 systemd/{tool}.d/{name} /etc/{tool}.d/{name}\n" in README
    assert re.search(rf"^sudo systemd-{tool} (--create )?{name}$", README, re.MULTILINE)
    assert f" {user}" in (SYSTEMD / f"{tool}.d" / name).read_text()


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
        assert re.search(r"^sudo systemctl stop 'matrix-login-gateway@\*(\.service)?'$", text, re.MULTILINE)
        assert re.search(r"^sudo (install|rm) .*/matrix-login-gateway@\.service\b", text, re.MULTILINE)
