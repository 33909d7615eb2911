"""The observability of an engine: statistics, a sentence of advice, Prometheus, OpenTelemetry, the log."""

from __future__ import annotations

import gc
import logging
import urllib.request

import numpy as np
import prometheus_client
import pytest
import tensorflow as tf
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from serving import first_number, rows_of, x_of

import ringfeed
from ringfeed.engine.metrics import PHASES, EngineStats, PhaseTimes, idle_shares
from ringfeed.testing import ManualPolicy
from support import wait_until


def served(engine, rows):
    """Return the statistics once the engine has counted all rows: it counts them after it answered them."""
    return wait_until(lambda: (stats := engine.stats()).rows == rows and stats)


def test_the_statistics_are_those_of_the_requests(ring, serve, make_client):
    policy = ManualPolicy(8)
    engine = serve(ring, policy=policy)
    client = make_client(ring.name)
    for batch in (3, 3, 1):
        futures = [client.submit(x_of(number)) for number in range(batch)]
        policy.release(batch)
        assert [future.result() for future in futures] == list(range(batch))
    stats = served(engine, 7)
    assert stats.batch_sizes == {3: 2, 1: 1}
    assert (stats.ring, stats.model, stats.devices) == (ring.name, "first_number", ("CPU:0",))
    assert (stats.batches, stats.failed, stats.expired, stats.withdrawn, stats.ready) == (3, 0, 0, 0, 0)
    assert (stats.slots, stats.producers, stats.memory_limit_rows) == (8, 1, 8)
    assert set(stats.phases) == set(PHASES)
    assert {phase: times.count for phase, times in stats.phases.items()} == {
        "slot": 7, "preprocess": 7, "queue": 7, "copy": 3, "compute": 3, "reply": 3, "total": 7
    }  # fmt: skip
    for times in stats.phases.values():
        assert times.p50_seconds <= times.p90_seconds <= times.p99_seconds
        assert times.mean_seconds == pytest.approx(times.total_seconds / times.count)
    assert stats.phases["total"].total_seconds >= stats.phases["queue"].total_seconds
    assert sum(idle_shares(stats).values()) == pytest.approx(1)
    text = str(stats)
    assert ring.name in text
    assert all(phase in text for phase in PHASES)
    assert stats.advice in text


def test_an_engine_without_requests_has_statistics_too(ring):
    stats = ringfeed.Engine(ring, first_number).stats()
    assert (stats.rows, stats.uptime_seconds) == (0, 0)
    assert "has seen no record yet" in stats.advice


def stats_of(busy=0.0, starved=0.0, batching=0.0, reply=0.0, ready=0, producers=8):
    nothing = PhaseTimes(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    return EngineStats(
        "cams", "m", ("CPU:0",), (1,), 1.0, 1, 1, 0, 0, 0, {1: 1}, dict.fromkeys(PHASES, nothing),
        busy, starved, batching, reply, ready, 100, producers, 32, 0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("stats", "sentence"),
    [
        (stats_of(busy=0.66, starved=0.34), "the model waits 34% of the time for producers: add about 5 workers."),
        (stats_of(busy=0.89, starved=0.11, producers=1), "add about 1 worker."),
        (stats_of(busy=0.001, starved=0.999), "almost no records come"),
        (stats_of(busy=0.8, batching=0.2), "waits 20% of the time for batches to grow: a shorter linger"),
        (stats_of(busy=0.8, reply=0.2), "writing answers takes 20% of the time"),
        (stats_of(busy=1.0, ready=80), "busy 100% of the time and 80 of 100 slots wait for it: add a device"),
        (stats_of(busy=0.95, starved=0.05), "busy 95% of the time: producers and model keep step"),
    ],
)
def test_the_advice_says_what_to_change(stats, sentence):
    assert sentence in stats.advice


# ---- Prometheus --------------------------------------------------------------------------------------


def scraped(registry):
    """Return the values of a scrape by name and labels, as the parser of Prometheus reads them."""
    text = prometheus_client.generate_latest(registry).decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "a family comes twice"
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def test_prometheus_shows_what_stats_says(ring, serve, make_client):
    registry = prometheus_client.CollectorRegistry()
    engine = serve(ring)
    engine.register_metrics(registry)
    assert make_client(ring.name).predict(rows_of(range(20))).tolist() == list(range(20))
    stats = served(engine, 20)
    found = scraped(registry)
    labels = {"ring": ring.name, "model": "first_number", "engine": "0"}

    def value(name, **more):
        return found[f"ringfeed_engine_{name}", frozenset((labels | more).items())]

    assert value("rows_total") == 20
    assert value("batches_total") == value("batch_rows_count") == stats.batches
    assert value("batch_rows_sum") == 20
    assert value("batch_rows_bucket", le="+Inf") == stats.batches
    assert value("failed_rows_total") == value("ready_rows") == value("ring_fill_ratio") == 0
    assert value("memory_limit_rows") == 8
    assert value("device_seconds_total", state="busy") == pytest.approx(stats.busy_seconds)
    for phase, times in stats.phases.items():
        assert value("phase_seconds_count", phase=phase) == times.count
        assert value("phase_seconds_bucket", phase=phase, le="+Inf") == times.count
        assert value("phase_seconds_sum", phase=phase) == pytest.approx(times.total_seconds)
        buckets = [
            (float(dict(each)["le"]), count)
            for (name, each), count in found.items()
            if name == "ringfeed_engine_phase_seconds_bucket" and dict(each)["phase"] == phase
        ]
        counts = [count for _, count in sorted(buckets)]
        assert counts == sorted(counts), "buckets are cumulative"


def test_several_engines_show_themselves_in_one_registry_and_go_from_it(make_ring, serve):
    registry = prometheus_client.CollectorRegistry(auto_describe=True)
    rings = [make_ring(), make_ring()]
    engines = [ringfeed.Engine(ring, first_number) for ring in (*rings, rings[0])]
    for engine in [*engines, engines[0]]:
        engine.register_metrics(registry)
    shown = {dict(labels)["ring"] for _, labels in scraped(registry)}
    assert shown == {ring.name for ring in rings}
    of_engines = {dict(labels)["engine"] for _, labels in scraped(registry)}
    assert len(of_engines) == 3, "engines of one ring are told apart"
    del engines[1], engine
    gc.collect()
    assert {dict(labels)["ring"] for _, labels in scraped(registry)} == {rings[0].name}


def test_a_scrape_over_http_works_and_goes_on_after_the_ring_is_closed(make_ring, serve):
    registry = prometheus_client.CollectorRegistry()
    ring = make_ring()
    engine = serve(ring)
    engine.register_metrics(registry)
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    try:
        engine.stop()
        ring.close()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
            assert f'ringfeed_engine_ring_fill_ratio{{engine="0",model="first_number",ring="{ring.name}"}} 0.0' in (
                answer.read().decode()
            )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# ---- Traces and the log ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exporter():
    """Set OpenTelemetry up once, as a program does."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def test_each_batch_is_a_span_with_its_ring_model_rows_and_device(ring, serve, make_client, exporter):
    policy = ManualPolicy(4)
    serve(ring, policy=policy)
    exporter.clear()
    client = make_client(ring.name)
    for batch in (3, 1):
        futures = [client.submit(x_of(number)) for number in range(batch)]
        policy.release(batch)
        assert [int(future.result()) for future in futures] == list(range(batch))
    spans = wait_until(lambda: len(found := exporter.get_finished_spans()) == 2 and found)
    assert [span.name for span in spans] == ["ringfeed.batch"] * 2
    assert [dict(span.attributes) for span in spans] == [
        {
            "ringfeed.ring": ring.name,
            "ringfeed.model": "first_number",
            "ringfeed.rows": rows,
            "ringfeed.device": "CPU:0",
        }
        for rows in (3, 1)
    ]


def test_a_batch_that_fails_is_a_span_that_says_so(ring, serve, make_client, exporter):
    def fails(x):
        zero = tf.constant(0, tf.int64)
        with tf.control_dependencies([tf.debugging.assert_equal(x[:, 0], zero, message="not nothing")]):
            return tf.identity(x[:, 0])

    serve(ring, fails)
    exporter.clear()
    with pytest.raises(ringfeed.ModelError, match="not nothing"):
        make_client(ring.name).predict(x_of(1))
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert "not nothing" in span.events[0].attributes["exception.message"]


def test_the_log_names_the_ring_at_start_and_end(ring, serve, make_client, caplog):
    with caplog.at_level(logging.INFO, "ringfeed.engine"):
        engine = serve(ring)
        assert np.asarray(make_client(ring.name).predict(x_of(1))) == 1
        engine.stop()
    assert caplog.messages[0].startswith(f"ring '{ring.name}': serving model 'first_number' on CPU:0")
    assert caplog.messages[-1].startswith(f"ring '{ring.name}': stopped: ")
    assert caplog.messages[-1].endswith(engine.stats().advice)


def test_batches_are_marked_for_tensorflows_profiler(ring, serve, make_client, tmp_path):
    serve(ring)
    client = make_client(ring.name)
    client.predict(x_of(1))
    tf.profiler.experimental.start(str(tmp_path))
    try:
        client.predict(x_of(2))
    finally:
        tf.profiler.experimental.stop()
    traces = [path.read_bytes() for path in tmp_path.rglob("*.xplane.pb")]
    assert traces
    assert any(b"ringfeed.batch" in trace for trace in traces)


def test_metrics_are_shown_again_after_they_were_unregistered(ring, serve, make_client):
    engine, registry = serve(ring), prometheus_client.CollectorRegistry()
    collector = engine.register_metrics(registry)
    registry.unregister(collector)
    assert not prometheus_client.generate_latest(registry)
    for _ in range(2):
        engine.register_metrics(registry)
        assert prometheus_client.generate_latest(registry).count(b"\nringfeed_engine_ready_rows{") == 1


def test_the_engine_label_of_an_ended_engine_is_used_again(ring, serve, make_client):
    registry = prometheus_client.CollectorRegistry()
    kept = []
    for _ in range(3):
        engine = ringfeed.Engine(ring, first_number, linger=0.0)
        engine.register_metrics(registry)
        with engine:
            assert make_client(ring).predict(x_of(1)) == 1
            shown = prometheus_client.generate_latest(registry).decode()
            assert 'engine="0"' in shown
            assert 'engine="1"' not in shown
        kept.append(engine)  # a notebook keeps references, too
    two = [serve(ring), serve(ring)]
    for engine in two:
        engine.register_metrics(registry)
    labels = {sample.labels["engine"] for family in registry.collect() for sample in family.samples}
    assert labels == {"0", "1"}
