"""The JWK sets of the issuers, fetched once."""

from gateway.doctor import Finding
from gateway.errors import Refused
from gateway.fetched_keys import fetch_once
from gateway.issuer_keys import KeySource


async def examine_key_set(source: KeySource, issuer: str) -> Finding:
    """Return whether the JWK set of an issuer can be fetched and used; `issuer` is its name, "" where it has none."""
    name = f"key set of {issuer}" if issuer else "key set"
    try:
        found = await fetch_once(source)
    except Refused as refused:
        mend = f"see that {source.url} answers here, and what the issuer publishes there"
        return Finding(name, "fail", refused.reason, mend)
    says = f"{len(found.keys.keys)} keys that can verify" if len(found.keys.keys) > 1 else "a key that can verify"
    if found.exposed:
        return Finding(name, "fail", "; ".join(found.exposed), "tell the issuer at once: whoever reads it can sign")
    if found.skipped:
        mend = "nothing, unless tokens are signed with one of those that are skipped"
        return Finding(name, "warn", f"{says}; skipped are {'; '.join(found.skipped)}", mend)
    return Finding(name, "pass", says)
