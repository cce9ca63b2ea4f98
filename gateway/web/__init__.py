"""The only aiohttp.web: listeners, the login exchange over HTTP, the relay, and health."""
