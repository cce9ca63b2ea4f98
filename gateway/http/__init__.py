"""HTTP/1.1 (RFC 9112) on aiohttp's exported parsers: connections, messages and their bodies, and servers of them.

The rule of this package: octets, messages and time; no route, no Matrix, no configuration.
"""
