"""A real PostgreSQL of the tests' own, on a unix socket in a temporary directory; a fresh database for each test."""

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

ADMIN = "postgres"
TEMPLATE = "gateway_template"
# A user whose password is asked for, and what it is; all others are trusted.
LOCKED, PASSWORD = "locked", "a pass%word/@ of the tests"
_HBA = f"local all {LOCKED} scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\nlocal all all trust\n"
_FAST = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "16MB"}
_SOON = 30  # seconds


def find_programs() -> Path | None:
    """The newest that is installed; Debian keeps initdb and postgres out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


def _as_somebody() -> list[str]:
    """What to put before a command: PostgreSQL does not run as root, and this one not longer than the tests."""
    user = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
    return ["setpriv", *user, "--pdeathsig=QUIT"]


def _place() -> str | None:
    """In memory, if there is enough: a database of 7 MB is made for each test."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30 else None


def _give_away(*paths: Path) -> None:
    for path in paths if os.getuid() == 0 else ():
        shutil.chown(path, "nobody", "nogroup")


def _runs(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@dataclass
class PostgresServer:
    """A server that runs until `stop`; it may be killed, frozen and started again meanwhile."""

    programs: Path
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    @property
    def port(self) -> str:
        return self.settings.get("port", "5432")

    def make(self, files: Mapping[str, bytes]) -> None:
        """Make a new cluster, with more files in its directory."""
        data = self.folder / "data"
        data.mkdir(mode=0o700)
        _give_away(self.folder, data)
        self._run("initdb", "-D", str(data), "-U", ADMIN, "-E", "UTF8", "--locale=C", "--no-sync", "-A", "trust")
        (data / "pg_hba.conf").write_text(_HBA)
        for name, content in files.items():
            (data / name).write_bytes(content)
            (data / name).chmod(0o600)
            _give_away(data / name)

    def follow_nobody(self) -> None:
        """Make it a standby server, whose primary is away, from its next start on."""
        signal_file = self.folder / "data" / "standby.signal"
        signal_file.touch()
        _give_away(signal_file)

    def start(self) -> None:
        """Start it and wait until it answers; one that was killed recovers first."""
        self.spawn()
        self.wait()

    def spawn(self) -> None:
        """Start it, in the main thread: it ends with the thread that started it."""
        settings = {**_FAST, "listen_addresses": "", **self.settings}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [
            *_as_somebody(), str(self.programs / "postgres"), "-D", str(self.folder / "data"),
            "-k", str(self.folder), *options,
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self) -> None:
        """Wait until it answers."""
        ends = time.monotonic() + _SOON
        while self._psql("postgres", "SELECT 1").returncode != 0:
            if time.monotonic() > ends:
                raise TimeoutError(self.log)
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill all its processes at once, as a crash of the machine does."""
        assert self._process is not None
        killed = [self._process.pid, *self._children()]
        for process in killed:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()
        # One that is still there would keep its memory from the next.
        while any(_runs(process) for process in killed):
            time.sleep(0.005)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let nothing of it run: connections hang, as to a machine that is gone."""
        assert self._process is not None
        stopped = [self._process.pid, *self._children()]
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in stopped:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def stop(self) -> None:
        """End it at once, without keeping anything."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_SOON)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement as its administrator and return what it prints."""
        done = self._psql(database, statement)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def new_database(self, template: str = TEMPLATE) -> str:
        """Make a database that is a copy of the template; return its URL."""
        name = f"test_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def url(self, database: str, user: str = ADMIN) -> str:
        return f"postgresql://{user}@/{database}?host={quote(str(self.folder), safe='')}"

    def _children(self) -> list[int]:
        assert self._process is not None
        listed = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(number) for number in listed.read_text().split()]

    def _psql(self, database: str, statement: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.programs / "psql"), "-XqtA", "-v", "ON_ERROR_STOP=1", "-h", str(self.folder), "-p", self.port,
             "-U", ADMIN, "-d", database, "-c", statement],
            capture_output=True, text=True, timeout=_SOON, check=False,
        )  # fmt: skip

    def _run(self, program: str, *arguments: str) -> None:
        command = [*_as_somebody(), str(self.programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running_postgres(programs: Path, files: Mapping[str, bytes] = {}, **settings: str) -> Iterator[PostgresServer]:
    """Run a server of its own."""
    with tempfile.TemporaryDirectory(prefix="postgres-", dir=_place(), ignore_cleanup_errors=True) as name:
        folder = Path(name)
        server = PostgresServer(programs, folder, settings)
        server.make(files)
        try:
            server.start()
            server.sql(f"CREATE ROLE {LOCKED} LOGIN PASSWORD '{PASSWORD}'")
            yield server
        finally:
            server.stop()
