"""The structure keeps its rules: one-way imports, a pure core, small files, foreign exceptions at the edges."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gateway"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
# From the bottom up; names on one level do not import each other, but inside their own package.
LEVELS = (
    {"__init__", "settings", "sockets"},
    {"errors", "logs", "metrics"},
    {"tasks", "limits", "systemd", "access_log"},
    {"core"},
    {"http"},
    {"storage", "upstream"},
    {"issuer_keys", "attempts"},
    {"issuers", "fetched_keys"},
    {"profile", "kept_sessions"},
    {"provision"},
    {"sign_in", "doctor"},
    {"web"},
    {"config"},
    {"session_method"},
    {"parts"},
    {"app"},
    {"cli"},
    {"__main__"},
)
LONGER: dict[str, int] = {}  # the file and its lines, each with the reason
IMPURE = {"asyncio", "time", "random", "secrets", "os", "socket", "pathlib", "aiohttp", "sqlalchemy", "logging"}
FOREIGN = {"aiohttp", "sqlalchemy", "sqlite3", "joserfc", "alembic"}
# Where the exceptions of other libraries may be caught.
EDGES = (
    "http/",
    "upstream/",
    "storage/",
    "web/",
    "core/jws.py",
    "core/hmac_secrets.py",
    "cli/synapse.py",
    "cli/demo.py",
)


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "gateway":
            yield from (f"gateway.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level(name: str) -> int:
    return next(number for number, names in enumerate(LEVELS) if name in names)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "line",
    ["import gateway.core.headers", "from gateway.core import headers", "from gateway.core.headers import Hop"],
)
def test_an_import_is_seen_however_it_is_written(line: str) -> None:
    assert "gateway.core.headers" in set(imported(ast.parse(line)))


each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


@each_file
def test_imports_go_down_only(path: Path) -> None:
    here = part(path)
    inside = [name.split(".")[1] for name in imported(parsed(path)) if name.startswith("gateway.")]
    inside = ["__init__" if name == "__version__" else name for name in inside]

    assert [name for name in inside if name != here and level(name) >= level(here)] == []


def module(path: Path) -> str:
    return ".".join(("gateway", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module(path): set(imported(parsed(path))) for path in FILES}
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for following in graph.get(name, ()):
                walk(following, (*above, name))
            done.add(name)

    for name in graph:
        walk(name, ())


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda path: path.name)
def test_the_core_decides_and_does_nothing(path: Path) -> None:
    tree = parsed(path)

    assert {name.split(".")[0] for name in imported(tree)} & IMPURE == set()
    assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree))


@each_file
def test_files_and_functions_are_small(path: Path) -> None:
    longest = LONGER.get(str(path.relative_to(PACKAGE)), 300)
    functions = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    assert len(path.read_text(encoding="utf-8").splitlines()) <= longest
    assert [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 40] == []


@each_file
def test_every_file_says_in_a_few_lines_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(parsed(path)) or ""
    longest = 16 if path.parent == PACKAGE and path.name == "__init__.py" else 6

    assert 1 <= len(docstring.splitlines()) <= longest


@each_file
def test_no_file_has_a_name_that_says_nothing(path: Path) -> None:
    assert path.stem not in {"utils", "util", "common", "helpers", "misc", "base", "manager"}


@each_file
def test_foreign_exceptions_are_caught_at_the_edges_alone(path: Path) -> None:
    if str(path.relative_to(PACKAGE)).startswith(EDGES):
        return
    tree = parsed(path)
    foreign = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FOREIGN
        for alias in node.names
    } | FOREIGN
    caught = [
        node.id
        for handler in ast.walk(tree)
        if isinstance(handler, ast.ExceptHandler) and handler.type is not None
        for node in ast.walk(handler.type)
        if isinstance(node, ast.Name)
    ]

    assert [name for name in caught if name in foreign] == []
