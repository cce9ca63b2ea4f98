#!/usr/bin/env bash
# Dendrite 0.13.8 (Go module github.com/matrix-org/dendrite): an application service's login of a user who was never
# registered is answered 200, with user_id, device_id and access_token, and each use of that token is 500 {"Err": ""}. To be
# told that there is no such user, ask /register/available first, or /account/whoami with the new token. Synapse 1.163 answers
# the same login with 404. Registering the name afterwards brings the token to life.
#
# Seen with Go 1.26:
#   login of nobody: 200, with a token: True
#   whoami with it: 500 {"Err":""}
#   register/available: 200 {"available":true}
#   after the registration of the name, whoami with it: 200
set -euo pipefail
work=$(mktemp -d)
trap 'kill "$(cat "$work/pid" 2>/dev/null)" 2>/dev/null || true; rm -rf "$work"' EXIT
GOBIN="$work" CGO_ENABLED=0 go install github.com/matrix-org/dendrite/cmd/dendrite@v0.13.8
cd "$work"
python3 - <<'PYTHON'
import base64
import json
import os
import pathlib
import socket
import subprocess
import time
import urllib.error
import urllib.request

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
seed = base64.b64encode(os.urandom(32)).decode()
pathlib.Path("key.pem").write_text(
    f"-----BEGIN MATRIX PRIVATE KEY-----\nKey-ID: ed25519:a\n\n{seed}\n-----END MATRIX PRIVATE KEY-----\n"
)
users = [{"exclusive": False, "regex": "^@.*:example\\.org$"}]
registration = {"id": "service", "url": None, "as_token": "the-as-token", "hs_token": "the-hs-token"}
registration |= {"sender_localpart": "service", "namespaces": {"users": users, "aliases": [], "rooms": []}}
pathlib.Path("service.yaml").write_text(json.dumps(registration))
databases = {name: {"database": {"connection_string": f"file:{name}.db"}} for name in (
    "federation_api", "key_server", "media_api", "mscs", "relay_api", "room_server", "sync_api"
)}
settings = {
    "version": 2,
    "global": {
        "server_name": "example.org",
        "private_key": "key.pem",
        "jetstream": {"in_memory": True, "storage_path": "."},
    },
    "app_service_api": {"config_files": ["service.yaml"]},
    "client_api": {"rate_limiting": {"enabled": False}, "registration_disabled": True},
    "user_api": {"account_database": {"connection_string": "file:accounts.db"}},
    **databases,
}
settings["media_api"]["base_path"] = "media"
settings["sync_api"]["search"] = {"enabled": False}
pathlib.Path("dendrite.yaml").write_text(json.dumps(settings))
command = ["./dendrite", "--config", "dendrite.yaml", "--http-bind-address", f"127.0.0.1:{port}"]
server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
pathlib.Path("pid").write_text(str(server.pid))


def ask(method: str, path: str, token: str = "", body: object = None) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/_matrix/client/v3/{path}", method=method)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        octets = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, octets, timeout=10) as answer:
            return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()


try:
    for _ in range(100):
        try:
            ask("GET", "login")
            break
        except OSError:
            time.sleep(0.1)
    identifier = {"type": "m.id.user", "user": "nobody"}
    body = {"type": "m.login.application_service", "identifier": identifier}
    status, text = ask("POST", "login", "the-as-token", body)
    token = json.loads(text).get("access_token", "")
    print(f"login of nobody: {status}, with a token: {bool(token)}")
    hollow = ask("GET", "account/whoami", token)
    print("whoami with it:", *hollow)
    available = ask("GET", "register/available?username=nobody")
    print("register/available:", *available)
    body = {"type": "m.login.application_service", "username": "nobody", "inhibit_login": True}
    assert ask("POST", "register", "the-as-token", body)[0] == 200
    alive, _ = ask("GET", "account/whoami", token)
    print("after the registration of the name, whoami with it:", alive)
    assert (status, bool(token), hollow[0], json.loads(hollow[1]), available[0], alive) == (
        200, True, 500, {"Err": ""}, 200, 200
    )
finally:
    server.terminate()
    server.wait()
PYTHON
