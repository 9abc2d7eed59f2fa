"""schemathesis reads the OpenAPI document and tries the live service: all its checks, links and all.

It runs as a program of its own, against a service that the whole module shares, once without credentials, once
with a user's and once with an admin's. The seed is in its output; `--schemathesis-seed` repeats a run, and
`--schemathesis-examples` says how many requests of each kind it makes.
"""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiopypay import throttling
from tests import ledger
from tests.client import Caller, basic
from tests.conftest import SUPERUSER_PASSWORD, register_apart

SECONDS_MAX = 600
EXAMPLES = 5

# Each request comes from elsewhere, as a trusted proxy would tell it: nobody registers too often.
HOOKS = """\
import itertools
import ipaddress
import schemathesis

ADDRESSES = map(str, map(ipaddress.IPv4Address, itertools.count(10 << 24)))

@schemathesis.hook
def before_call(context, case, kwargs):
    case.headers["X-Forwarded-For"] = next(ADDRESSES)

# An optional field that is empty was not sent; the document does not spell that out in each of their schemas.
@schemathesis.hook
def filter_query(context, query):
    return "" not in (query or {}).values()

@schemathesis.hook
def filter_body(context, body):
    return not isinstance(body, dict) or "" not in body.values()

# A problem is one of those that stand beside the status.
@schemathesis.check
def problem_is_declared(context, response, case):
    declared = case.operation.definition.raw["responses"].get(str(response.status_code))
    if declared and response.headers.get("content-type") == ["application/problem+json"]:
        examples = declared["content"]["application/problem+json"]["examples"].values()
        assert response.json()["type"] in [example["value"]["type"] for example in examples], response.text
"""

# What is said by the database, or by settings, and not by the schema: a valid document may be refused for it.
CONFIGURATION = """\
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409]

[checks.missing_required_header]
expected-statuses = [400, 401, 403, 404]

# It leads elsewhere.
[[operations]]
include-operation-id = ["get_root"]
[operations.checks.positive_data_acceptance]
expected-statuses = [302]

# Ids that are no account's, one account twice, too many decimals (400), funds (402), a key used before (422).
[[operations]]
include-operation-id = ["post_transfer"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 402, 403, 404, 409, 422]

# Text that is no CSV, a mode in the query beside JSON, and in mode `all` what is said of a transfer.
[[operations]]
include-operation-id = ["post_transfers"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 402, 403, 404, 409, 422]
# In mode `each` a transfer that is malformed is a problem of its own among the results.
[operations.checks.negative_data_rejection]
expected-statuses = ["2xx", 400, 401, 403, 404, 409, 413, 415, 422, 429]

# A currency that does not exist (400), a key used before (422).
[[operations]]
include-operation-id = ["post_account"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 403, 404, 409, 422]

# As with transfers.
[[operations]]
include-operation-id = ["post_balance"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 402, 403, 404, 409, 422]

# A rate with too many decimals.
[[operations]]
include-operation-id = ["post_currency", "patch_currency"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 403, 404, 409]

# A password that is shorter than APP_PASSWORD_MIN_LENGTH.
[[operations]]
include-operation-id = ["patch_user"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 403, 404, 409]

[[operations]]
include-operation-id = ["post_user", "post_registration"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 409]
"""


@pytest.fixture(scope="module", autouse=True)
def _guessing_is_free() -> Iterator[None]:
    """Else it would soon be all that is answered: the credentials of the examples are wrong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throttling, "FREE", 10**9)
        patch.setattr(throttling, "FAILURES_PER_MINUTE", 10**9)
        yield


@pytest.fixture(scope="module")
def caller(shared_base_url: str, shared_database_url: str) -> Caller:
    """A user with money and another one to pay it to."""
    payer = register_apart(shared_base_url, shared_database_url, "payer")
    register_apart(shared_base_url, shared_database_url, "payee")
    ledger.deposit(shared_database_url, payer.accounts["USD"], "1000000")
    return payer


@pytest.mark.parametrize("who", ["nobody", "user", "admin"])
def test_the_service_does_what_its_document_says(
    shared_base_url: str, caller: Caller, tmp_path: Path, pytestconfig: pytest.Config, who: str
) -> None:
    configuration = tmp_path / "schemathesis.toml"
    user_id, credentials = {
        "nobody": (None, None),
        "user": (caller.id, basic(caller.username, caller.password)),
        "admin": (1, basic("superuser", SUPERUSER_PASSWORD)),
    }[who]
    own = f'[parameters]\n"path.user_id" = {user_id}\n\n' if user_id else ""
    hooks = tmp_path / "hooks.py"
    hooks.write_text(HOOKS)
    configuration.write_text(f'hooks = "{hooks}"\n{own}{CONFIGURATION}')
    seed = pytestconfig.getoption("--schemathesis-seed")
    examples = pytestconfig.getoption("--schemathesis-examples")
    # Whoever is not let in is told so, whatever they send: the cases at the edges of each field are for the others.
    phases = "examples,fuzzing,stateful" if who == "nobody" and not examples else "examples,coverage,fuzzing,stateful"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration), "run"]
    command += [
        f"{shared_base_url}/openapi.json",
        "--checks",
        "all",
        "--max-examples",
        str(examples or EXAMPLES),
        "--phases",
        phases,
    ]
    command += ["--seed", str(random.randrange(2**32) if seed is None else seed), "--request-timeout", "10"]
    command += ["--no-color", "--warnings", "off", "--suppress-health-check", "all", "--max-failures", "20"]
    if credentials:
        command += ["--header", f"Authorization: {credentials}"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    sys.stdout.write(run.stdout[-20_000:] + run.stderr)
    assert run.returncode == 0
