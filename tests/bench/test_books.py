"""Books that are not right end the run."""

import pytest
from psycopg2.extensions import make_dsn

from aiopypay.embedded.roles import ADMINISTRATOR
from bench import crowd
from bench.books import check, query
from bench.errors import BenchError

REFUSED = """
INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, reason)
VALUES (gen_random_uuid(), 2, '', 'refused', now(), 'not covered')
"""


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("UPDATE accounts SET amount = amount + 1 WHERE id = 4", "do not sum to zero"),
        ("UPDATE accounts SET amount = amount + id - 5.5 WHERE id IN (4, 7)", "not the sums of their transfers"),
        (REFUSED, "refused at settling"),
    ],
)
def test_damage_is_found(empty_database_url: str, damage: str, complaint: str) -> None:
    crowd.fill(empty_database_url, users=10, transfers=100)
    check(empty_database_url)
    query(make_dsn(empty_database_url, user=ADMINISTRATOR), damage)
    with pytest.raises(BenchError, match=complaint):
        check(empty_database_url)
