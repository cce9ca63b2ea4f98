"""What is counted is told to Prometheus in its formats, with labels that no client chooses."""

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parsed_text

from gateway import __version__
from gateway.metrics import Live, Metrics

PREFIX = "matrix_login_gateway"


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a name by the values of their labels."""
    text = metrics.exposition("")[0].decode()
    return {
        tuple(sample.labels.values()): sample.value
        for family in parsed_text(text)
        for sample in family.samples
        if sample.name == f"{PREFIX}_{name}"
    }


def test_requests_are_told_by_method_class_of_status_and_whose_answer_it_was() -> None:
    metrics = Metrics()
    answers = {("GET", 200, True): 2, ("GET", 204, True): 1, ("POST", 502, False): 4, ("other", 0, False): 5}
    metrics.traffic.answers.update(answers)

    assert samples(metrics, "requests_total") == {
        ("relayed", "GET", "2xx"): 3,
        ("own", "POST", "5xx"): 4,
        ("none", "other", "none"): 5,
    }


def test_bytes_are_told_each_way() -> None:
    metrics = Metrics()
    metrics.traffic.received, metrics.traffic.sent = 3, 2**40

    assert samples(metrics, "received_bytes_total") == {(): 3}
    assert samples(metrics, "sent_bytes_total") == {(): 2**40}


def test_what_is_so_at_the_moment_is_asked_for_each_time() -> None:
    metrics = Metrics()
    assert samples(metrics, "open_requests") == {(): 0}
    metrics.live = lambda: Live(1, 2, 3, 4, {"https://id.example.org": 60.5}, 5)

    assert samples(metrics, "open_requests") == {(): 1}
    assert samples(metrics, "client_connections") == {(): 2}
    assert samples(metrics, "tasks") == {(): 5}
    assert samples(metrics, "upstream_connections") == {("busy",): 3, ("idle",): 4}
    assert samples(metrics, "key_set_age_seconds") == {("https://id.example.org",): 60.5}


def test_logins_are_told_by_issuer_and_outcome() -> None:
    metrics = Metrics()
    metrics.count_login("https://id.example.org", "ok")
    metrics.count_login("", "undecodable")

    assert samples(metrics, "logins_total") == {
        ("https://id.example.org", "ok"): 1,
        ("none", "undecodable"): 1,
    }


def test_a_step_is_timed_also_when_it_fails() -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match="no"), metrics.login_step("verify"), metrics.database_use("read"):
        raise ValueError("no")

    assert samples(metrics, "login_seconds_count") == {("verify",): 1}
    assert samples(metrics, "database_seconds_count") == {("read",): 1}


def test_the_build_and_the_process_are_told() -> None:
    metrics = Metrics()
    text = metrics.exposition("")[0].decode()

    assert any(__version__ in labels for labels in samples(metrics, "build_info"))
    for name in ("process_open_fds", "process_resident_memory_bytes", "process_start_time_seconds"):
        assert f"\n{name} " in text


def test_two_gateways_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.count_login("", "undecodable")

    assert samples(other, "logins_total") == {}


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html, */*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(accept: str, media_type: str) -> None:
    octets, said = Metrics().exposition(accept)
    parse = parsed_openmetrics if "openmetrics" in said else parsed_text

    assert said.startswith(media_type)
    assert [family.name for family in parse(octets.decode())]
