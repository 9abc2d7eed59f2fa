"""A crowd is as large as was asked for, and its books are right."""

from bench import crowd
from bench.books import query

USERS = 10


def test_the_crowd_has_what_was_asked_for(empty_database_url: str) -> None:
    crowd.fill(empty_database_url, USERS, transfers=100)
    assert query(empty_database_url, "SELECT count(*) FROM transfers") == [(100,)]
    holders = crowd.holders(USERS, 5)
    owned = "SELECT user_id FROM accounts WHERE id = %(id)s AND currency_id = 'USD'"
    assert [query(empty_database_url, owned, {"id": user.account_id}) for user in holders] == [
        [(user.id,)] for user in holders
    ]
