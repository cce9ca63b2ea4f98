"""The only calls to other servers."""
