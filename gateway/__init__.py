"""JSON Web Token login for any Matrix homeserver, as a gateway in front of it.

errors, tasks, limits         what is refused, what runs beside a request, how often one may try
logs, access_log, metrics     what is told of it, in lines and in numbers
settings, config/             file and environment to checked settings, all problems in one report
core/                         decisions: plain functions and frozen values, no I/O, no clock
sockets, systemd, http/       what the system knows of a connection; what systemd is told; HTTP/1.1, without a route
storage/                      the only SQL
upstream/                     the only calls to other servers
attempts                      what is known of a login, and how its end is told to log and audit
issuers, *_keys               whose tokens are believed, and where the keys that verify them come from
sign_in, profile              the story of a login: verify, identify, provide an account, open a session; its profile
kept_sessions                 sessions that have to be ended elsewhere than at the homeserver
web/                          the only routes: their table, login, relay, health; listeners
parts, app                    builds everything, and runs it
doctor, cli/                  what is wrong between gateway and homeserver; the commands
"""

__version__ = "0.1.0"
