"""JWK sets: which settings say where an issuer's set is, what is wrong with them, and the set of a local file."""

from gateway.config.problems import Report
from gateway.config.tables import Entry
from gateway.core.jwk_sets import SetRules, algorithm_problems, no_keys, read_jwk_set
from gateway.core.keys import KeySet, UnfitKeys
from gateway.issuer_keys import SET_SOURCES, KeySource


def check_sources(entry: Entry, report: Report) -> bool:
    """Check that the keys of an issuer come from where its format says, and say whether they do."""
    settings = entry.settings
    known = len(report.problems)
    given = [name for name in SET_SOURCES if getattr(settings, name) is not None]
    if settings.format != "JWKS":
        for name in given:
            report.problem(entry.place(name), f'is for format = "JWKS", and format is "{settings.format}"; set that')
        return len(report.problems) == known
    for name in ("secret", "secret_file"):
        if getattr(settings, name):
            report.problem(
                entry.place(name), f'is not for format = "JWKS", which needs one of {", ".join(SET_SOURCES)}'
            )
    for name in given[1:]:
        report.problem(entry.place(name), f"is set together with `{given[0]}`; keep one of the two")
    if not given:
        report.problem(entry.place("format"), f'"JWKS" needs one of {", ".join(SET_SOURCES)}')
    if settings.discovery_url is not None and not settings.issuer:
        report.problem(entry.place("discovery_url"), "needs `issuer`, which its document must name exactly")
    for problem in algorithm_problems(_rules(entry)):
        report.problem(entry.place("algorithm"), problem.text)
    return len(report.problems) == known


def find_source(entry: Entry) -> KeySource | None:
    """Return where the set of an issuer is fetched from, None where its keys are in files or are not looked at."""
    settings = entry.settings
    url = settings.jwks_url if settings.discovery_url is None else settings.discovery_url
    if settings.format != "JWKS" or url is None or not settings.validate_signature:
        return None
    issuers = None if settings.discovery_url is None else tuple(settings.issuer)
    return KeySource(url, issuers, _rules(entry), settings.jwks_max_stale)


def set_of_file(entry: Entry, texts: list[str], report: Report) -> KeySet:
    """Return the keys of a local JWK set; none where the set is fetched, or its file could not be read."""
    rules = _rules(entry)
    if not texts:
        return no_keys(rules)
    keys = entry.place("jwks_file")
    try:
        found = read_jwk_set(texts[0].encode(), rules)
    except UnfitKeys as error:
        for problem in error.problems:
            report.problem(keys, problem.text)
        return no_keys(rules)
    for line in found.skipped:
        report.warning(keys, f"{line}; it is skipped")
    return found.keys


def _rules(entry: Entry) -> SetRules:
    settings = entry.settings
    return SetRules(
        tuple(settings.algorithm),
        public=settings.jwks_file is None,
        allow_weak_secret=settings.allow_weak_secret,
    )
