"""What is unwise in settings that work."""

from gateway.config.problems import Report
from gateway.config.tables import JwtSettings
from gateway.core.keys import MIN_SECRET_BYTES


def advise(jwt: JwtSettings, report: Report) -> None:
    """Warn of what lets in more than an operator may think, and of keys that do nothing."""
    if not jwt.enable:
        report.warning(("jwt", "enable"), "is false; the gateway only passes requests on")
        return
    if not jwt.validate_signature:
        report.warning(("jwt", "validate_signature"), "is false; everybody can log in as anybody")
    if not jwt.require_exp:
        report.warning(("jwt", "require_exp"), "is false; a token without exp logs in for ever")
    if not jwt.issuer:
        report.warning(("jwt", "issuer"), "is empty; any token signed with this key is accepted, whoever issued it")
    if jwt.allow_weak_secret:
        need = max((MIN_SECRET_BYTES.get(name, 0) for name in jwt.algorithm), default=0)
        report.warning(
            ("jwt", "allow_weak_secret"), f"is true; {', '.join(jwt.algorithm)} needs {need} bytes or more"
        )
    if jwt.email_claim:
        report.warning(
            ("jwt", "email_claim"), "is not used; no homeserver lets an application service set an address"
        )
    if jwt.avatar_claim:
        report.warning(("jwt", "avatar_claim"), "only mxc:// addresses are set; others are left alone")
