"""The metrics, against the list of names that operators rely on; and the log, whose lines nobody can forge."""

import io
import json
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry.logs import KINDS_MAX, LINES_A_SECOND, JsonFormatter, Sparing, TextFormatter, configure_logging
from gateway.telemetry.metrics import FRESH_MAX, Metrics

PROMISED = """weir_requests weir_request_duration_seconds weir_time_to_first_token_seconds weir_overhead_seconds weir_inflight_requests weir_tokens
weir_queue_wait_seconds weir_lane_tenants weir_refusals weir_backend_up weir_backend_attempts weir_holds_open weir_settle_failures
weir_queue_depth weir_slots weir_slots_used weir_child_restarts weir_ready weir_usage_rejected weir_usage_conflicts weir_usage_backlog
weir_lane_oldest_wait_seconds weir_lane_refusals weir_promotions weir_spills weir_slow_slots weir_backend_slots
weir_usage_oldest_seconds weir_processes weir_displaced weir_leases_alive
weir_journal_failures weir_journal_bytes weir_ledger_imbalance_ncr weir_usage_estimated weir_rate_windows_shared weir_rate_windows_errors
weir_webhooks weir_webhooks_waiting weir_journal_bytes_max weir_jobs_age_seconds weir_clock_ahead_seconds""".split()


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def test_every_promised_metric_is_in_the_exposition() -> None:
    families = {family.name for family in text_string_to_metric_families(Metrics().exposition().decode())}
    assert {name for name in families if name.startswith("weir_")} == set(PROMISED)


def test_counts_are_kept_for_each_combination_of_labels() -> None:
    metrics = Metrics()
    metrics.requests.add(("chat/completions", "m", 200))
    metrics.requests.add(("chat/completions", "m", 200))
    metrics.tokens.add(("m", "b", "input"), 12)
    found = samples(metrics)
    assert found["weir_requests_total", (("code", "200"), ("endpoint", "chat/completions"), ("model", "m"))] == 2
    assert found["weir_tokens_total", (("backend", "b"), ("kind", "input"), ("model", "m"))] == 12


def test_a_duration_on_a_bound_counts_in_that_bucket_and_buckets_are_cumulative() -> None:
    metrics = Metrics()
    for duration_s in (0.005, 0.3, 9999.0):
        metrics.queue_wait.observe(("slow",), duration_s)
    found = samples(metrics)
    counts = {dict(labels)["le"]: value for (name, labels), value in found.items() if name == "weir_queue_wait_seconds_bucket"}
    assert (counts["0.005"], counts["0.25"], counts["0.5"], counts["640"], counts["+Inf"]) == (1, 1, 2, 2, 3)
    assert found["weir_queue_wait_seconds_sum", (("lane", "slow"),)] == pytest.approx(9999.305)


def test_no_duration_is_lost_however_many_there_are_and_whenever_it_is_scraped() -> None:
    metrics = Metrics()
    for number in range(3 * FRESH_MAX + 7):
        metrics.queue_wait.observe(("fast",), number % 3 / 10)  # none, 0.1 and 0.2 s
        if number in (5, FRESH_MAX):
            samples(metrics)
    found = {dict(labels)["le"]: value for (name, labels), value in samples(metrics).items() if name == "weir_queue_wait_seconds_bucket"}
    assert (found["0.005"], found["0.1"], found["+Inf"]) == (FRESH_MAX + 3, 2 * FRESH_MAX + 5, 3 * FRESH_MAX + 7)


def test_a_watched_figure_is_read_when_it_is_scraped() -> None:
    metrics, ups, holds = Metrics(), {("a",): 1.0, ("b",): 0.0}, [3]
    metrics.backend_up.watch(lambda: ups)
    metrics.holds_open.watch(lambda: holds[0])
    metrics.settle_failures.watch(lambda: 2)
    holds[0] = 4
    found = samples(metrics)
    assert found["weir_holds_open", ()] == 4
    assert found["weir_settle_failures_total", ()] == 2
    assert [found["weir_backend_up", (("backend", name),)] for name in "ab"] == [1, 0]


def test_a_label_cannot_break_out_of_the_exposition() -> None:
    metrics = Metrics()
    metrics.refusals.add(('x"} 1\nforged_total 9\\',))
    assert "forged_total" not in {name for name, _ in samples(metrics)}


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("weir.test", logging.WARNING, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_a_json_line_holds_the_message_and_its_extras() -> None:
    line = json.loads(JsonFormatter().format(record("a\nb", request_id="r", error=ValueError("v"))))
    assert (line["level"], line["message"], line["request_id"], line["error"]) == ("warning", "a\nb", "r", "ValueError('v')")


def test_a_text_line_stays_one_line_whatever_a_client_sent() -> None:
    line = TextFormatter().format(record("model `x\r\n\x1b[2Jforged`", param="\u2028"))
    assert line.endswith("model `x\\r\\n\\x1b[2Jforged` param=\\u2028") and line.isprintable()


def test_configured_logging_writes_to_one_stream_and_respects_the_level() -> None:
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers[:], root.level
    try:
        configure_logging("WARNING", "json", stream)
        logging.getLogger("uvicorn.error").warning("kept")
        logging.getLogger("weir").info("dropped")
    finally:
        root.handlers[:], root.level = before[0], before[1]
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["kept"]


def test_of_lines_of_one_kind_so_many_a_second_are_written_and_the_next_says_how_many_were_not() -> None:
    sparing = Sparing()

    def line(second: float, text: str, *values: object) -> logging.LogRecord:
        record = logging.LogRecord("weir", logging.INFO, "", 0, text, values, None)
        record.created = second
        return record

    assert [sparing.filter(line(7.5, "request %s refused", number)) for number in range(30)] == [True] * LINES_A_SECOND + [False] * 10
    assert sparing.filter(line(7.9, "another kind"))
    later = line(8.0, "request %s refused", 31)
    assert sparing.filter(later)
    assert TextFormatter().format(later).endswith("request 31 refused not_shown=10")
    last = line(8.1, "request %s refused", 32)
    assert sparing.filter(last) and "not_shown" not in TextFormatter().format(last)


def test_what_the_log_remembers_of_kinds_is_bounded() -> None:
    sparing = Sparing()
    for number in range(3 * KINDS_MAX):
        assert sparing.filter(logging.LogRecord("weir", logging.INFO, "", 0, f"kind {number}", (), None))
    assert len(sparing._seen) <= KINDS_MAX
