"""README.md is true: its examples run as printed, its tables equal the code, its links lead somewhere.

A missing openssl or Node.js is a skip with the reason, and a failure where CI=true.
"""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import toml
import yaml
from click.testing import CliRunner

from gateway.app import AT_START
from gateway.cli import cli
from gateway.config import Configuration, Settings, load
from gateway.core.identity import UserMapping, identify
from gateway.core.tokens import verify
from gateway.errors import ANSWERS, Refused
from gateway.settings import Table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAS = (ROOT / "config" / "homeservers" / "matrix-authentication-service.md").read_text(encoding="utf-8")
HOMESERVERS = sorted((ROOT / "config" / "homeservers").glob("*.md"))
MAIN_PAGES = [ROOT / "README.md", ROOT / "config" / "README.md", ROOT / "systemd" / "README.md"]
PAGES = [*MAIN_PAGES, *HOMESERVERS]
DEMO = (
    "python3 -m venv .venv && .venv/bin/pip install -q -c requirements.lock '.[demo]'"
    " && .venv/bin/matrix-login-gateway demo\n"
)
TESTS = (
    "python3 -m venv .venv && .venv/bin/pip install -q -U pip"
    " && .venv/bin/pip install -q -c requirements.lock --group test -e '.[demo,postgres]'"
    " && .venv/bin/python -m pytest\n"
)


def section(title: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n", README, re.MULTILINE)
    assert found is not None, title
    rest = README[found.end() :]
    return rest[: next_heading(rest, len(found[1]))]


def next_heading(text: str, level: int) -> int:
    """Where the next heading of that level or above begins; a # in a code block is none."""
    position, in_code = 0, False
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code and re.match(rf"#{{1,{level}}} ", line):
            return position
        position += len(line)
    return position


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language, without the indentation of the list that they stand in."""
    found = re.finditer(rf"^( *)```{language}\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{block[1]}", "", block[2], flags=re.MULTILINE) for block in found]


def rows(text: str) -> list[list[str]]:
    """The rows of all Markdown tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    split = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    heads = set(re.findall(r"^(\| .*)\n\|---", text, re.MULTILINE))
    return [cells for line, cells in zip(lines, split, strict=True) if line not in heads]


def program(name: str) -> str:
    """The path of a program that the examples need."""
    path = shutil.which(name)
    if path is not None:
        return path
    reason = f"{name} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def run(arguments: list[str], folder: Path) -> str:
    """The standard output of a program that succeeds."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def made_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key files that the lines of the section Keys make, run as printed."""
    program("openssl")
    folder = tmp_path_factory.mktemp("keys")
    for block in blocks(section("Keys"), "sh"):
        for line in block.splitlines():
            run(["/bin/sh", "-c", line], folder)
    return folder


@pytest.fixture
def keys(made_keys: Path, tmp_path: Path) -> Path:
    """A folder of the test's own with those key files."""
    return shutil.copytree(made_keys, tmp_path / "keys")


def configured(snippet: str, folder: Path) -> Configuration:
    """The configuration that a TOML block of the README stands for, with what every file needs beside it."""
    table: dict[str, Any] = {
        "homeserver": {"url": "http://127.0.0.1:8008", "server_name": "example.org"},
        "session": {"as_token": "a" * 64},
        **tomllib.loads(snippet),
    }
    path = folder / "gateway.toml"
    path.write_text(toml.dumps(table), encoding="utf-8")
    path.chmod(0o600)
    return load(path, {})


def test_the_first_screen_holds_the_two_commands_each_in_its_own_block() -> None:
    first_screen = README[: README.index("## Quick start")]
    assert blocks(first_screen, "sh") == [DEMO, TESTS]


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_the_reference_has_every_key_with_its_default(name: str) -> None:
    model = Settings.model_fields[name].annotation
    assert isinstance(model, type)
    assert issubclass(model, Table)
    listed = {cells[0].strip("`"): cells[1] for cells in rows(section(f"`[{name}]`"))}
    assert set(listed) == set(model.model_fields)
    needed = {"url": "http://127.0.0.1", "server_name": "x"} if name == "homeserver" else {}
    for key, default in listed.items():
        field = model.model_fields[key]
        if default == "required":
            assert field.is_required(), key
        elif default == "none":
            assert not field.is_required(), key
            assert field.get_default() in (None, []), key
        else:
            written = tomllib.loads(f"value = {default.strip('`')}")["value"]
            assert getattr(model.model_validate({**needed, key: written}), key) == field.get_default(), key


def test_the_reference_has_every_table() -> None:
    assert re.findall(r"^### `\[(\w+)\]`$", README, re.MULTILINE) == list(Settings.model_fields)


def test_what_only_a_restart_changes_is_named() -> None:
    (sentence,) = re.findall(r"\.\s+([^.]*) change at the next start\.", section("Configuration"))
    assert re.findall(r"`(.*?)`", sentence) == [key or f"[{table}]" for table, key in AT_START]


def test_every_answer_has_its_row_in_troubleshooting() -> None:
    listed = [(cells[0], cells[1].strip("`")) for cells in rows(section("Troubleshooting"))]
    assert len(listed) == len(set(listed))
    assert set(listed) == {
        (f"{answer.status} {answer.errcode}", answer.text.replace("{}", "…")) for answer in ANSWERS.values()
    }


def test_every_answer_has_a_cause_and_a_mend() -> None:
    assert all(len(cells) == 4 and all(cells) for cells in rows(section("Troubleshooting")))


def test_every_openssl_line_makes_a_key_that_the_gateway_takes(keys: Path) -> None:
    snippets = blocks(section("Keys"), "toml")
    assert {configured(snippet, keys).settings.jwt.format for snippet in snippets} == {
        "HMAC",
        "B64HMAC",
        "ECDSA",
        "EDDSA",
        "RSA",
        "JWKS",
    }


def test_every_configuration_in_the_readme_is_good(keys: Path) -> None:
    for snippet in blocks(README, "toml") + blocks(MAS, "toml"):
        configuration = configured(snippet, keys)
        assert configuration.issuers[0].key_set.keys or configuration.issuers[0].key_source


MAKING = section("Making tokens")
HMAC, EDDSA, ECDSA = blocks(MAKING, "toml")
PYTHON = dict(zip((HMAC, EDDSA), blocks(section("Python"), "python"), strict=True))
NODE = dict(zip((HMAC, ECDSA), blocks(section("Node.js"), "js"), strict=True))


def check_token(token: str, snippet: str, folder: Path) -> dict[str, Any]:
    """The claims of a token that passes under a configuration, and makes the user alice."""
    configuration = configured(snippet, folder)
    claims = verify(token, configuration.issuers[0].trust, time.time())
    assert identify(claims, configuration.issuers[0].mapping).user_id == "@alice:example.org"
    return claims


@pytest.mark.parametrize("snippet", PYTHON, ids=["HS256", "Ed25519"])
def test_the_python_examples_make_tokens_that_pass(snippet: str, keys: Path) -> None:
    (keys / "example.py").write_text(PYTHON[snippet], encoding="utf-8")
    token = run([sys.executable, "-W", "error", "example.py"], keys).strip()
    check_token(token, snippet, keys)


@pytest.mark.parametrize("snippet", NODE, ids=["HS256", "ES256"])
def test_the_node_examples_make_tokens_that_pass(snippet: str, keys: Path) -> None:
    (keys / "example.js").write_text(NODE[snippet], encoding="utf-8")
    token = run([program("node"), "example.js"], keys).strip()
    check_token(token, snippet, keys)


def test_a_token_of_another_key_does_not_pass(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "jwt.secret").write_text("another secret, as long as it has to be")
    (keys / "example.py").write_text(PYTHON[HMAC], encoding="utf-8")
    token = run([sys.executable, "example.py"], keys).strip()
    with pytest.raises(Refused, match="BAD_SIGNATURE"):
        check_token(token, HMAC, tmp_path)


@pytest.mark.parametrize("cells", rows(section("Users and accounts")), ids=lambda cells: cells[0])
def test_each_template_makes_the_localpart_that_its_row_says(cells: list[str], keys: Path) -> None:
    template, claims, localpart = (cell.strip("`") for cell in cells)
    configuration = configured(HMAC + toml.dumps({"identity": {"localpart": template}}), keys)
    settings = configuration.settings
    mapping = UserMapping.of(settings.identity, settings.jwt, "example.org", issuer_matters=False)
    found: dict[str, Any] = {"sub": "subject", **toml.loads(f"claims = {as_toml(claims)}")["claims"]}
    assert identify(found, mapping).localpart == localpart


def as_toml(members: str) -> str:
    """JSON members as a TOML inline table."""
    return "{" + re.sub(r'("\w+"): ', r"\1 = ", members) + "}"


def test_each_session_method_has_two_files_that_fit(tmp_path: Path) -> None:
    text = section("Session methods") + MAS
    synapse, mas = map(yaml.safe_load, blocks(text, "yaml"))
    by_jwt, by_mas = (configured(block, tmp_path) for block in blocks(text, "toml"))

    theirs, ours = synapse["jwt_config"], by_jwt.settings.session
    assert by_jwt.warnings == by_mas.warnings == ()
    assert (theirs["secret"], theirs["issuer"]) == (by_jwt.session_secret, ours.jwt_issuer)
    assert (theirs["algorithm"], theirs["display_name_claim"]) == (ours.jwt_algorithm, ours.jwt_display_name_claim)
    (client,) = mas["clients"]
    assert (client["client_id"], client["client_secret"]) == (
        by_mas.settings.session.mas_client_id,
        by_mas.session_secret,
    )
    assert mas["policy"]["data"]["admin_clients"] == [client["client_id"]]


def test_the_quick_start_makes_a_configuration_and_a_token_that_passes(tmp_path: Path) -> None:
    commands = [line for block in blocks(section("Quick start"), "sh") for line in block.splitlines()]
    for command in commands:
        if re.match(r"matrix-login-gateway (init|check) ", command):
            run(["/bin/sh", "-c", command], tmp_path)
    (mint,) = (command for command in commands if command.startswith("TOKEN="))
    explain = 'echo "$TOKEN" | matrix-login-gateway token explain -c my-gateway/gateway.toml'
    assert "@alice:example.org" in run(["/bin/sh", "-c", f"{mint}\n{explain}"], tmp_path)
    assert (tmp_path / "my-gateway" / "registration.yaml").is_file()


def leaves(command: click.Command, *names: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its whole name."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, *names, name)
    else:
        yield " ".join(names), command


COMMANDS = dict(leaves(cli))


def test_the_table_of_commands_lists_each_with_all_its_options() -> None:
    listed = [cells[0].strip("`").removeprefix("matrix-login-gateway ") for cells in rows(section("Commands"))]
    found = {}
    for usage in listed:
        name = next(name for name in COMMANDS if usage.split()[: len(name.split())] == name.split())
        found[name] = set(re.findall(r"--?[a-z][a-z-]*", usage))
    assert found == {
        name: {parameter.opts[0] for parameter in command.params if isinstance(parameter, click.Option)}
        for name, command in COMMANDS.items()
    }


def commands_named(page: Path) -> set[str]:
    """The commands of ours that the code of a page runs, without their options."""
    text = page.read_text(encoding="utf-8")
    code = blocks(text, "sh") + re.findall(r"`([^`\n]+)`", text)
    return {usage for part in code for usage in re.findall(r"matrix-login-gateway((?: [a-z]+)+)(?![\w/.])", part)}


@pytest.mark.parametrize("page", MAIN_PAGES, ids=lambda page: page.parent.name)
def test_every_page_names_commands(page: Path) -> None:
    assert commands_named(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    for usage in commands_named(page):
        words = usage.split()
        name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
        assert name is not None, usage
        assert CliRunner().invoke(cli, [*name.split(), "--help"]).exit_code == 0


def test_every_line_that_runs_init_names_the_server() -> None:
    lines = [
        line
        for page in PAGES
        for block in blocks(page.read_text(encoding="utf-8"), "sh")
        for line in block.splitlines()
    ]
    init = [line for line in lines if "matrix-login-gateway init " in line]
    assert len(init) == 2
    assert all(" --server-name " in line for line in init)


def anchors(text: str) -> set[str]:
    """The fragments that GitHub gives the headings of a page."""
    found: dict[str, int] = {}
    result = set()
    in_code = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            in_code = not in_code
        heading = re.match(r"#+ (.*)", line)
        if in_code or heading is None:
            continue
        slug = re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")
        count = found[slug] = found.get(slug, -1) + 1
        result.add(f"{slug}-{count}" if count else slug)
    return result


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_every_relative_link_leads_to_a_file_or_a_heading(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    assert links
    for link in links:
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not fragment or fragment in anchors(target.read_text(encoding="utf-8")), link
