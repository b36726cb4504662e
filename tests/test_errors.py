"""Every error has its place in the tree and in the table."""

from pipeline_webserver import errors
from pipeline_webserver.web.responses import STATUS


def leaves(kind: type[Exception]) -> set[type[Exception]]:
    below = kind.__subclasses__()
    return {leaf for child in below for leaf in leaves(child)} if below else {kind}


def test_the_table_has_a_status_for_every_error_that_a_client_can_meet_and_for_no_other() -> None:
    assert set(STATUS) == leaves(errors.ClientError) | leaves(errors.ServerError)


def test_the_clients_faults_are_4xx_and_ours_are_5xx() -> None:
    for error, (status, _) in STATUS.items():
        assert (status < 500) is issubclass(error, errors.ClientError)


def test_no_two_errors_share_a_name() -> None:
    assert len({error_type for _, error_type in STATUS.values()}) == len(STATUS)


def test_the_tree_at_the_top_of_the_file_is_the_tree() -> None:
    def draw(kind: type[Exception], depth: int = 0) -> list[tuple[int, str]]:
        below = [line for child in kind.__subclasses__() for line in draw(child, depth + 1)]
        return [(depth, kind.__name__), *below]

    assert errors.__doc__ is not None
    drawn = errors.__doc__[errors.__doc__.index("PipelineServerError") :].splitlines()
    names = [((len(line) - len(line.lstrip("│├└─ "))) // 4, line.lstrip("│├└─ ").split()[0]) for line in drawn]
    assert sorted(names) == sorted(draw(errors.PipelineServerError))
