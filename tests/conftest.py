"""Marks tests as `fast`: everything but the slow tests listed here, within a minute on two cores.

A module counts as fast until it is listed. List one whose tests start stores, servers, browsers or many processes, load
large models, or take more than a few seconds together; `--durations=20` shows them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SLOW = (
    "attack",
    "chunkers/test_text.py",
    "cli/test_alerts.py",
    "cli/test_display.py::test_nothing_shown_can_command_a_terminal",
    "cli/test_documents.py",
    "cli/test_evaluate.py",
    "cli/test_images.py",
    "cli/test_live.py",
    "cli/test_live_beside.py",
    "cli/test_names.py",
    "cli/test_pipelines.py",
    "cli/test_stopping.py",
    "cli/test_unattended.py::test_the_line_for_cron_says_nothing_unless_something_failed",
    "cli/test_unattended.py::test_the_service_does_a_run_and_logs_it",
    "docs",
    "embedders/test_clip.py",
    "embedders/test_clip_torch.py",
    "embedders/test_cross_encoder.py",
    "embedders/test_encoders.py",
    "embedders/test_exported.py",
    "embedders/test_int8.py",
    "embedders/test_onnx.py",
    "embedders/test_pickled.py",
    "embedders/test_token_vectors.py",
    "engine/test_eta.py",
    "jobs/test_evaluate.py",
    "jobs/test_following.py",
    "jobs/test_progress_file.py",
    "jobs/test_reuse.py",
    "jobs/test_versions.py",
    "ledger/test_files.py",
    "parsers/test_documents.py::test_pdf_flate_bomb_ends_at_the_limit_of_memory",
    "parsers/test_documents.py::test_zip_bomb",
    "parsers/test_isolation.py",
    "parsers/test_text.py::test_a_hole_of_200_mb_in_a_log_takes_constant_memory",
    "parsers/test_text.py::test_a_line_of_300_mb_takes_constant_memory",
    "reliability/test_alert_kills.py",
    "reliability/test_alerts.py",
    "reliability/test_bytes.py",
    "reliability/test_chaos.py",
    "reliability/test_crashes.py",
    "reliability/test_deliveries.py",
    "reliability/test_faults.py",
    "reliability/test_first_runs.py",
    "reliability/test_live.py",
    "reliability/test_live_beside.py",
    "reliability/test_live_buckets.py",
    "reliability/test_live_folders.py",
    "reliability/test_live_kills.py",
    "reliability/test_live_troubles.py",
    "reliability/test_model.py",
    "reliability/test_pipeline.py",
    "reliability/test_pipelines.py",
    "reliability/test_reindex.py",
    "reliability/test_reindex_stores.py",
    "reliability/test_removals.py",
    "reliability/test_restored.py",
    "reliability/test_several.py",
    "server",
    "shards/test_admitting.py",
    "shards/test_embedding.py",
    "shards/test_kills.py",
    "shards/test_loading.py",
    "shards/test_proving.py",
    "shards/test_search.py",
    "shards/test_skypilot.py",
    "shards/test_store.py",
    "sinks/chroma",
    "sinks/elastic",
    "sinks/fanout",
    "sinks/milvus",
    "sinks/pgvector",
    "sinks/pinecone",
    "sinks/qdrant",
    "sinks/test_delta.py",
    "sinks/test_delta_s3.py",
    "sinks/test_functions.py",
    "sinks/test_lance.py",
    "sinks/test_parquet.py",
    "sinks/test_shrinking.py",
    "sinks/test_sqlite.py",
    "sinks/test_suite_itself.py",
    "sinks/test_testing.py",
    "sinks/test_words.py",
    "sinks/weaviate",
    "sources/hackernews",
    "sources/test_archives.py::test_many_members_in_flat_memory",
    "sources/test_local.py::test_a_large_folder_is_listed_in_constant_memory",
    "sources/test_rows.py",
    "sources/test_urls.py",
    "sources/test_watch.py",
    "support/test_pages.py",
    "test_benchmarks.py",
    "test_image_pipeline.py",
    "workers/test_runs.py",
)
"""Folders, modules and tests, as paths from this folder."""
LONGEST = (
    "docs/test_docs.py",
    "sinks/qdrant/test_sink.py",
    "sinks/pinecone/test_sink.py",
    "sinks/test_lance.py",
    "sinks/chroma/test_sink.py",
    "reliability/test_chaos.py",
    "cli/test_stopping.py",
    "sinks/milvus/test_sink.py",
    "reliability/test_reindex_stores.py",
    "jobs/test_following.py",
    "reliability/test_live_beside.py",
    "server/test_server.py",
)
"""Modules of half a minute and more, the longest first."""


def is_slow(path: Path, test: str | None = None) -> bool:
    """Tell whether a module, or a test of it, is listed by itself or with its folder."""
    parts = path.relative_to(TESTS).parts
    names = {"/".join(parts[: end + 1]) for end in range(len(parts))}
    return bool(names & set(SLOW)) or (test is not None and f"{'/'.join(parts)}::{test}" in SLOW)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave slow modules out of `-m fast`: importing their clients would take longer than the fast tests do."""
    inside = config.option.markexpr == "fast" and TESTS in collection_path.parents
    return True if inside and is_slow(collection_path) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest modules begin first, and the short ones last, so that no process waits for another in the end.
    items.sort(key=lambda item: (*(item.path != TESTS / name for name in LONGEST), not is_slow(item.path)))
    for item in items:
        slow = is_slow(item.path, item.name.partition("[")[0])
        if not (slow or item.get_closest_marker("heavy") or item.get_closest_marker("peers")):
            item.add_marker(pytest.mark.fast)
