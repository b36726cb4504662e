"""How many workers uvicorn has. Shutdown and exit are tried by real processes, in `tests.e2e`."""

from collections.abc import Mapping, Sequence

import pytest

from pipeline_webserver.web.uvicorn_process import worker_count, worker_count_of


@pytest.mark.parametrize(
    ("arguments", "environment", "count"),
    [
        (["server:app"], {}, 1),
        (["server:app", "--workers", "4", "--port", "80"], {}, 4),
        (["--workers=4", "server:app"], {}, 4),
        (["server:app"], {"WEB_CONCURRENCY": "3"}, 3),
        (["server:app", "--workers", "2"], {"WEB_CONCURRENCY": "3"}, 2),
        (["server:app", "--reload"], {}, 1),
        (["-k", "of another program"], {}, 1),
        ([], {}, 1),
    ],
)
def test_the_number_of_workers_is_uvicorns(
    arguments: Sequence[str], environment: Mapping[str, str], count: int
) -> None:
    assert worker_count_of(arguments, environment) == count


def test_a_process_without_a_parent_is_no_worker() -> None:
    assert worker_count() == 1
