"""Every error that a client can meet has its facts in the table, once."""

import pytest

from pipeline_webserver import errors
from pipeline_webserver.api.error_table import CLIENT_DISCONNECTED, ERROR_TABLE, INTERNAL, ErrorFacts

ALL_FACTS = [*ERROR_TABLE.values(), INTERNAL, CLIENT_DISCONNECTED]


def leaves(kind: type[Exception]) -> set[type[Exception]]:
    below = kind.__subclasses__()
    return {leaf for child in below for leaf in leaves(child)} if below else {kind}


def test_the_table_has_every_error_that_a_client_can_meet_and_no_other() -> None:
    assert set(ERROR_TABLE) == leaves(errors.ClientError) | leaves(errors.ServerError)


def test_errors_of_the_client_are_4xx_and_errors_of_the_server_are_5xx() -> None:
    for error, facts in ERROR_TABLE.items():
        assert facts.status // 100 == (4 if issubclass(error, errors.ClientError) else 5)


def test_errors_that_a_retry_can_cure_are_503() -> None:
    refused = {error for error, facts in ERROR_TABLE.items() if facts.status == 503}
    assert refused == leaves(errors.Refused)


def test_a_bug_is_500_and_a_client_that_disconnected_is_499() -> None:
    assert (INTERNAL.status, INTERNAL.error_type) == (500, "internal")
    assert (CLIENT_DISCONNECTED.status, CLIENT_DISCONNECTED.error_type) == (499, "client_disconnected")


def test_no_two_errors_share_a_type() -> None:
    assert len({facts.error_type for facts in ALL_FACTS}) == len(ALL_FACTS)


@pytest.mark.parametrize("facts", ALL_FACTS, ids=lambda facts: facts.error_type)
def test_the_meaning_is_one_sentence(facts: ErrorFacts) -> None:
    assert facts.meaning[0].isupper()
    assert facts.meaning.endswith(".")
    assert ". " not in facts.meaning
