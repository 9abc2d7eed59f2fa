"""POST /users/{user_id}/transfers/bulk: many transfers in one request, each for itself or all together."""

import asyncio
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from multidict import CIMultiDict

from tests import ledger
from tests.client import Answer, Caller, Service

NOWHERE = 10**9


def pays(payer: Caller, payee: Caller, amount: Any, **members: Any) -> dict[str, Any]:
    """A transfer of a bulk, in dollars."""
    return {"from": payer.accounts["USD"], "to": payee.accounts["USD"], "amount": amount, **members}


async def send(caller: Caller, mode: str, transfers: Sequence[Any], **options: Any) -> Answer:
    """Sends a bulk in JSON."""
    document = {"mode": mode, "transfers": list(transfers)}
    return await caller.post(f"/users/{caller.id}/transfers/bulk", document=document, **options)


async def send_csv(caller: Caller, query: str, text: str | bytes, **options: Any) -> Answer:
    """Sends a bulk in CSV."""
    body = text.encode() if isinstance(text, str) else text
    headers = {"Content-Type": "text/csv; charset=utf-8"}
    return await caller.post(f"/users/{caller.id}/transfers/bulk{query}", body=body, headers=headers, **options)


def told(answer: Answer) -> list[Any]:
    """What became of each transfer: the balance on its receipt, or the kind of its problem."""
    return [
        result["balance"] if "order_id" in result else result["type"].removeprefix("/problems/")
        for result in answer.ok()
    ]


def booked(service: Service) -> int:
    """How many payments there are."""
    return int(
        ledger.value(service.database_url, "SELECT count(*) FROM transfers WHERE kind IN ('payment', 'internal')")
    )


class TestEach:
    async def test_each_is_answered_with_the_receipt_that_it_would_get_alone(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        answer = await send(alice, "each", [pays(alice, bob, 10), pays(bob, alice, 1), pays(alice, bob, "5.50")])
        first, refused, third = answer.ok()
        assert (first["status"], first["balance"]) == ("posted", Decimal("89.90"))
        assert [row["kind"] for row in first["transfers"]] == ["payment", "commission"]
        assert refused["type"] == "/problems/forbidden"
        assert refused["status"] == 403
        assert refused["instance"] == answer.headers["X-Request-ID"]
        assert third["balance"] == Decimal("84.34")
        stored = (await alice.get(f"/users/{alice.id}/orders/{first['order_id']}")).ok()
        assert stored["transfers"] == first["transfers"]
        alone = (await alice.pay(bob, 1)).ok()
        assert alone.keys() == first.keys()
        ledger.assert_ledger_balances(service.database_url)

    async def test_the_rules_are_those_of_a_transfer_alone(self, service: Service, alice: Caller, bob: Caller) -> None:
        mine, theirs = alice.accounts["USD"], bob.accounts["USD"]
        transfers = [
            {"from": mine, "to": theirs, "amount": "1000"},
            {"from": mine, "to": NOWHERE, "amount": "1"},
            {"from": NOWHERE, "to": theirs, "amount": "1"},
            {"from": theirs, "to": mine, "amount": "1"},
            {"from": mine, "to": mine, "amount": "1"},
            {"from": mine, "to": bob.accounts["EUR"], "amount": "1"},
            {"from": mine, "to": theirs, "amount": "1.001"},
            {"from": mine, "to": theirs, "amount": "0"},
        ]
        before = ledger.counts(service.database_url)
        for transfer, result in zip(transfers, (await send(alice, "each", transfers)).ok(), strict=True):
            alone = (await alice.transfer(transfer["from"], transfer["to"], transfer["amount"])).json()
            assert result | {"instance": ""} == alone | {"instance": ""}
        assert ledger.counts(service.database_url) == before

    async def test_each_stands_on_what_those_before_it_left(self, alice: Caller, bob: Caller) -> None:
        answer = await send(alice, "each", [pays(alice, bob, 60), pays(alice, bob, 60), pays(alice, bob, 39)])
        assert told(answer) == [Decimal("39.40"), "insufficient-funds", Decimal("0.01")]

    @pytest.mark.parametrize(
        ("transfer", "field"),
        [
            ({"to": 1, "amount": 1}, "from"),
            ({"from": 1, "to": 1, "amount": "1e2"}, "amount"),
            ({"from": 1, "to": 1, "amount": 1e-7}, "amount"),
            ({"from": 1, "to": 1, "amount": None}, "amount"),
            ({"from": 1, "to": 1, "amount": {"x": 1}}, "amount"),
            ({"from": 1, "to": 1, "amount": 1, "colour": "red"}, "colour"),
            ({"from": 1, "to": 1, "amount": 1, "key": "two words"}, "key"),
            ({"from": 1, "to": 1, "amount": 1, "key": 7}, "key"),
            ({"from": 1, "to": 1, "amount": 1, "comment": "x" * 256}, "comment"),
            ({"from": True, "to": 1, "amount": 1}, "from"),
            ("transfer", None),
            (["from", 1], None),
            (None, None),
            ({}, "from"),
        ],
    )
    async def test_what_is_malformed_is_the_problem_of_its_own_transfer(
        self, alice: Caller, bob: Caller, transfer: Any, field: str | None
    ) -> None:
        answer = await send(alice, "each", [pays(alice, bob, 1), transfer, pays(alice, bob, 1)])
        first, malformed, third = answer.ok()
        assert (first["balance"], third["balance"]) == (Decimal("98.99"), Decimal("97.98"))
        assert (malformed["status"], malformed["type"]) == (400, "/problems/invalid-request")
        assert malformed.get("field") == field

    async def test_a_repeated_member_is_malformed(self, alice: Caller, bob: Caller) -> None:
        transfer = json.dumps(pays(alice, bob, 1)).replace('"amount": 1', '"amount": 1, "amount": 2')
        body = f'{{"mode": "each", "transfers": [{transfer}]}}'.encode()
        answer = await alice.post(
            f"/users/{alice.id}/transfers/bulk", body=body, headers={"Content-Type": "application/json"}
        )
        [malformed] = answer.ok()
        assert malformed["field"] == "amount"

    async def test_amounts_never_pass_through_a_float(self, alice: Caller, bob: Caller) -> None:
        transfer = json.dumps(pays(alice, bob, "here")).replace('"here"', "0.29")
        body = f'{{"mode": "each", "transfers": [{transfer}]}}'
        answer = await alice.post(
            f"/users/{alice.id}/transfers/bulk", body=body.encode(), headers={"Content-Type": "application/json"}
        )
        [receipt] = answer.ok()
        assert b'"amount":0.29' in answer.body
        assert receipt["balance"] == Decimal("99.70")

    async def test_when_all_are_malformed_nothing_is_placed(self, service: Service, alice: Caller) -> None:
        before = ledger.counts(service.database_url)
        answer = await send(alice, "each", [{}, {"amount": 1}])
        assert [result["status"] for result in answer.ok()] == [400, 400]
        assert ledger.counts(service.database_url) == before

    async def test_a_thousand_keep_their_order(self, service: Service, alice: Caller, bob: Caller) -> None:
        transfers = [pays(alice, bob, "0.05" if number % 10 else "500") for number in range(1000)]
        results = (await send(alice, "each", transfers)).ok()
        assert [result["status"] for result in results] == [
            402 if number % 10 == 0 else "posted" for number in range(1000)
        ]
        balances = [result["balance"] for result in results if "balance" in result]
        assert balances == [Decimal(100) - number * Decimal("0.06") for number in range(1, 901)]
        ledger.assert_ledger_balances(service.database_url)


class TestAll:
    async def test_all_are_booked(self, service: Service, alice: Caller, bob: Caller) -> None:
        assert told(await send(alice, "all", [pays(alice, bob, 10)] * 3)) == [
            Decimal("89.90"),
            Decimal("79.80"),
            Decimal("69.70"),
        ]
        assert booked(service) == 3
        ledger.assert_ledger_balances(service.database_url)

    async def test_or_none_and_the_problem_names_the_first_that_cannot_be(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        before = ledger.counts(service.database_url)
        problem = (
            await send(
                alice, "all", [pays(alice, bob, 40), pays(alice, bob, 40), pays(alice, bob, 40), pays(bob, alice, 1)]
            )
        ).problem(402, "insufficient-funds", field="transfers[2]")
        assert problem["index"] == 2
        assert "19.20 USD" in problem["detail"]
        # What is malformed is told before anything is judged.
        assert (await send(alice, "all", [pays(alice, bob, 1000), pays(alice, bob, "x")])).problem(400)["index"] == 1
        assert ledger.counts(service.database_url) == before
        assert await alice.balance() == Decimal("100.00")

    @pytest.mark.parametrize(
        ("index", "change", "status", "field"),
        [
            (0, {"to": NOWHERE}, 400, "transfers[0].to"),
            (1, {"from": NOWHERE}, 400, "transfers[1].from"),
            (2, {"amount": "x"}, 400, "transfers[2].amount"),
            (1, {"amount": "1.001"}, 400, "transfers[1].amount"),
            (1, {"colour": "red"}, 400, "transfers[1].colour"),
        ],
    )
    async def test_the_field_leads_to_the_transfer(
        self, service: Service, alice: Caller, bob: Caller, index: int, change: dict[str, Any], status: int, field: str
    ) -> None:
        before = ledger.counts(service.database_url)
        transfers = [pays(alice, bob, 1) for _ in range(3)]
        transfers[index] |= change
        problem = (await send(alice, "all", transfers)).problem(status, field=field)
        assert problem["index"] == index
        assert ledger.counts(service.database_url) == before

    async def test_what_is_not_an_object_is_named(self, alice: Caller, bob: Caller) -> None:
        problem = (await send(alice, "all", [pays(alice, bob, 1), 5])).problem(400, field="transfers[1]")
        assert problem["index"] == 1

    async def test_another_users_account_is_forbidden(self, alice: Caller, bob: Caller) -> None:
        problem = (await send(alice, "all", [pays(alice, bob, 1), pays(bob, alice, 1)])).problem(403, "forbidden")
        assert problem["index"] == 1

    async def test_money_that_arrives_within_can_be_spent_within(self, alice: Caller) -> None:
        other = await alice.open_account("USD")
        mine = alice.accounts["USD"]
        transfers = [
            {"from": mine, "to": other, "amount": 100},
            {"from": other, "to": mine, "amount": 100},
            {"from": mine, "to": other, "amount": 1},
        ]
        assert told(await send(alice, "all", transfers)) == [0, 0, 99]


class TestDocument:
    @pytest.mark.parametrize(
        ("document", "field"),
        [
            ({"transfers": [{}]}, "mode"),
            ({"mode": "some", "transfers": [{}]}, "mode"),
            ({"mode": None, "transfers": [{}]}, "mode"),
            ({"mode": "each"}, "transfers"),
            ({"mode": "each", "transfers": []}, "transfers"),
            ({"mode": "each", "transfers": {}}, "transfers"),
            ({"mode": "each", "transfers": "x"}, "transfers"),
            ({"mode": "each", "transfers": None}, "transfers"),
            ({"mode": "each", "transfers": [{}] * 1001}, "transfers"),
            ({"mode": "each", "transfers": [{}], "colour": "red"}, "colour"),
            ({}, "mode"),
            ([], None),
        ],
    )
    async def test_what_is_malformed_as_a_whole_is_400(self, alice: Caller, document: Any, field: str | None) -> None:
        answer = await alice.post(
            f"/users/{alice.id}/transfers/bulk",
            body=json.dumps(document).encode(),
            headers={"Content-Type": "application/json"},
        )
        answer.problem(400, "invalid-request", field=field)

    @pytest.mark.parametrize("body", [b"{", b"mode=each", b'{"mode": "each", "mode": "all", "transfers": [{}]}', b""])
    async def test_what_is_no_json_is_400(self, alice: Caller, body: bytes) -> None:
        answer = await alice.post(
            f"/users/{alice.id}/transfers/bulk", body=body, headers={"Content-Type": "application/json"}
        )
        answer.problem(400, "invalid-request")

    @pytest.mark.parametrize("media_type", ["application/x-www-form-urlencoded", "text/plain", "application/csv"])
    async def test_other_types_are_415(self, alice: Caller, media_type: str) -> None:
        answer = await alice.post(
            f"/users/{alice.id}/transfers/bulk", body=b"mode=each", headers={"Content-Type": media_type}
        )
        answer.problem(415, "unsupported-media-type", field="Content-Type")

    @pytest.mark.parametrize("chunked", [False, True])
    async def test_256_kib_are_taken_and_more_are_413(self, alice: Caller, bob: Caller, chunked: bool) -> None:
        text = json.dumps({"mode": "each", "transfers": [pays(alice, bob, 1)]})
        for length, status in ((256 * 1024, 200), (256 * 1024 + 1, 413)):
            body = text.ljust(length).encode()
            payload = _chunks(body) if chunked else body
            answer = await alice.post(
                f"/users/{alice.id}/transfers/bulk", body=payload, headers={"Content-Type": "application/json"}
            )
            assert answer.status == status

    @pytest.mark.parametrize("chunked", [False, True])
    async def test_the_other_routes_keep_their_16_kib(self, alice: Caller, bob: Caller, chunked: bool) -> None:
        body = json.dumps(pays(alice, bob, 1)).ljust(16 * 1024 + 1).encode()
        answer = await alice.post(
            f"/users/{alice.id}/transfers",
            body=_chunks(body) if chunked else body,
            headers={"Content-Type": "application/json"},
        )
        answer.problem(413, "payload-too-large")

    async def test_it_is_for_the_user_alone(self, service: Service, alice: Caller, bob: Caller) -> None:
        document = {"mode": "each", "transfers": [pays(alice, bob, 1)]}
        (await service.post(f"/users/{alice.id}/transfers/bulk", document=document)).problem(401)
        (await bob.post(f"/users/{alice.id}/transfers/bulk", document=document)).problem(403)

    async def test_the_mode_of_json_is_in_the_document(self, alice: Caller, bob: Caller) -> None:
        document = {"mode": "each", "transfers": [pays(alice, bob, 1)]}
        for query, field in (("mode=each", "mode"), ("mode=x", "mode"), ("colour=red", "colour")):
            answer = await alice.post(f"/users/{alice.id}/transfers/bulk?{query}", document=document)
            answer.problem(400, field=field)


async def _chunks(body: bytes) -> Any:
    yield body


class TestCsv:
    async def test_the_columns_may_come_in_any_order(self, alice: Caller, bob: Caller) -> None:
        mine, theirs = alice.accounts["USD"], bob.accounts["USD"]
        answer = await send_csv(
            alice, "?mode=each", f'amount,to,from,comment\r\n10,{theirs},{mine},\r\n1.50,{theirs},{mine},"a, b"\r\n'
        )
        assert [result["transfers"][0]["comment"] for result in answer.ok()] == ["External payment", "a, b"]
        assert told(answer) == [Decimal("89.90"), Decimal("88.38")]

    @pytest.mark.parametrize("ending", ["\n", "\r\n"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    async def test_line_endings_empty_lines_and_a_byte_order_mark(
        self, alice: Caller, bob: Caller, ending: str, mark: str
    ) -> None:
        row = f"{alice.accounts['USD']},{bob.accounts['USD']},1"
        text = mark + ending.join(["from,to,amount", row, "", row, ""])
        assert told(await send_csv(alice, "?mode=all", text)) == [Decimal("98.99"), Decimal("97.98")]

    @pytest.mark.parametrize("mode", ["each", "all"])
    async def test_a_row_of_nothing_but_commas_is_an_empty_row(
        self, service: Service, alice: Caller, bob: Caller, mode: str
    ) -> None:
        row = f"{alice.accounts['USD']},{bob.accounts['USD']}"
        text = f",,,\nfrom,to,amount,comment\n,,,\n{row},1,\n,,,\n,\n{row},1,\n,,,\n"
        first = await send_csv(alice, f"?mode={mode}", text, key="may")
        assert told(first) == [Decimal("98.99"), Decimal("97.98")]
        assert (await send_csv(alice, f"?mode={mode}", text, key="may")).ok() == first.ok()
        assert booked(service) == 2
        problem = (await send_csv(alice, "?mode=all", f"from,to,amount\n,,\n{row},1\n,,\n{row},x\n")).problem(400)
        assert (problem["index"], problem["detail"][:15]) == (1, "line 5: amount:")

    async def test_empty_rows_do_not_count(self, alice: Caller, bob: Caller) -> None:
        row = f"{alice.accounts['USD']},{bob.accounts['USD']},0.01\n"
        text = "from,to,amount\n" + ",,\n" * 1500 + row + ",,\n" * 1500 + row
        assert len(told(await send_csv(alice, "?mode=each", text, key="may"))) == 2

    async def test_a_key_is_a_column(self, service: Service, alice: Caller, bob: Caller) -> None:
        row = f"{alice.accounts['USD']},{bob.accounts['USD']},1"
        text = f"from,to,amount,key\n{row},rent\n{row},\n"
        first = (await send_csv(alice, "?mode=each", text)).ok()
        second = (await send_csv(alice, "?mode=each", text)).ok()
        assert first[0] == second[0]
        assert booked(service) == 3

    @pytest.mark.parametrize(
        ("query", "text", "line", "field"),
        [
            ("?mode=each", "from,to\n1,2\n", "line 1", "amount"),
            ("?mode=each", "from,to,amount,colour\n1,2,3,red\n", "line 1", "colour"),
            ("?mode=each", "from,to,amount,to\n1,2,3,2\n", "line 1", "to"),
            ("?mode=each", "from,to,amount,\n1,2,3,\n", "line 1", "column 4"),
            ("?mode=each", "from, ,amount\n1,2,3\n", "line 1", "column 2"),
            ("?mode=each", "\n,,\nfrom,to,Amount\n1,2,3\n", "line 3", "Amount"),
            ("?mode=each", "from,to,сумма\n1,2,3\n", "line 1", "сумма"),
            ("?mode=each", "from;to;amount\n1;2;3\n", "are from, to, amount", "from;to;amount"),
            ("?mode=each", "from,to,amount\n,,\n", "line 2", None),
            ("?mode=each", "", "line 1", "from"),
            ("?mode=each", "from,to,amount\n", "line 2", None),
            ("?mode=each", 'from,to,amount\n1,2,"3"x\n', "line 2", None),
            ("?mode=each", 'from,to,amount\n1,2,3\n1,2,"3\n\n', "line 3", None),
            ("?mode=each", "from,to,amount\n" + "1,2,3\n" * 1001, "line 1002", None),
            ("", "from,to,amount\n1,2,3\n", "query", "mode"),
            ("?mode=some", "from,to,amount\n1,2,3\n", "each or all", "mode"),
            ("?mode=each&mode=all", "from,to,amount\n1,2,3\n", "repeated", "mode"),
        ],
    )
    async def test_what_is_malformed_as_a_whole_is_400_and_names_the_line(
        self, alice: Caller, query: str, text: str, line: str, field: str | None
    ) -> None:
        problem = (await send_csv(alice, query, text)).problem(400, "invalid-request", field=field)
        assert line in problem["detail"]

    async def test_a_row_that_is_malformed_is_its_own_problem_and_names_the_line(
        self, alice: Caller, bob: Caller
    ) -> None:
        mine, theirs = alice.accounts["USD"], bob.accounts["USD"]
        text = (
            f'from,to,amount,comment\n{mine},{theirs},1,"two\nlines"\n{mine},{theirs},1e2,\n{mine},{theirs}\n'
            f"{mine},{theirs},1000,\n{mine},,1,\n{mine},{theirs},1,\n"
        )
        results = (await send_csv(alice, "?mode=each", text)).ok()
        assert results[0]["transfers"][0]["comment"] == "two\nlines"
        assert [result["status"] for result in results] == ["posted", 400, 400, 402, 400, "posted"]
        for result, line, field in zip(results[1:5], (4, 5, 6, 7), ("amount", None, None, "to"), strict=True):
            assert result["detail"].startswith(f"line {line}: ")
            assert result.get("field") == field

    async def test_all_or_none_names_the_line(self, service: Service, alice: Caller, bob: Caller) -> None:
        before = ledger.counts(service.database_url)
        row = f"{alice.accounts['USD']},{bob.accounts['USD']}"
        problem = (await send_csv(alice, "?mode=all", f"from,to,amount\n{row},60\n{row},60\n")).problem(402)
        assert (problem["index"], problem["detail"][:7]) == (1, "line 3:")
        problem = (await send_csv(alice, "?mode=all", f"from,to,amount\n{row},60\n{row},x\n")).problem(400)
        assert (problem["index"], problem["field"], problem["detail"][:15]) == (1, "amount", "line 3: amount:")
        assert ledger.counts(service.database_url) == before

    async def test_bad_utf_8_is_the_problem_of_its_row(self, alice: Caller, bob: Caller) -> None:
        row = f"{alice.accounts['USD']},{bob.accounts['USD']},1".encode()
        text = b"from,to,amount,comment\n" + row + b",\xff\n" + row + "\u20ac\n".encode().join([b",", b""])
        malformed, receipt = (await send_csv(alice, "?mode=each", text)).ok()
        assert malformed["field"] == "comment"
        assert receipt["transfers"][0]["comment"] == "\u20ac"

    async def test_it_is_bounded(self, alice: Caller, bob: Caller) -> None:
        row = f"{alice.accounts['USD']},{bob.accounts['USD']},0.01\n"
        assert len((await send_csv(alice, "?mode=each", "from,to,amount\n" + row * 1000)).ok()) == 1000
        (await send_csv(alice, "?mode=each", "from,to,amount\n".ljust(256 * 1024 + 1))).problem(413)

    async def test_json_and_csv_are_one_content(self, service: Service, alice: Caller, bob: Caller) -> None:
        first = await send(alice, "each", [pays(alice, bob, "10.0")], key="bulk")
        row = f"{alice.accounts['USD']},{bob.accounts['USD']},10,"
        assert (await send_csv(alice, "?mode=each", f"from,to,amount,comment\n{row}\n", key="bulk")).ok() == first.ok()
        assert booked(service) == 1


class TestUnsent:
    async def test_what_is_null_or_empty_was_not_sent(self, service: Service, alice: Caller, bob: Caller) -> None:
        members: list[dict[str, Any]] = [{"comment": None}, {"comment": ""}, {"key": None}, {"key": ""}, {}]
        answer = await send(alice, "each", [pays(alice, bob, 1, **fields) for fields in members], key="may")
        assert [result["transfers"][0]["comment"] for result in answer.ok()] == ["External payment"] * 5
        again = await send(alice, "each", [pays(alice, bob, 1, **fields) for fields in members], key="may")
        assert again.ok() == answer.ok()
        assert booked(service) == 5

    async def test_in_all_or_none_it_is_the_same_content(self, service: Service, alice: Caller, bob: Caller) -> None:
        first = await send(alice, "all", [pays(alice, bob, 1, comment=None), pays(alice, bob, 2, key="")], key="may")
        assert first.ok() == (await send(alice, "all", [pays(alice, bob, 1), pays(alice, bob, 2)], key="may")).ok()
        assert booked(service) == 2


class TestItemKeys:
    async def test_a_retry_gets_the_original_receipts(self, service: Service, alice: Caller, bob: Caller) -> None:
        transfers = [pays(alice, bob, 10, key="a"), pays(alice, bob, 20, key="b")]
        first = (await send(alice, "each", transfers)).ok()
        assert (await send(alice, "each", transfers)).ok() == first
        assert (await send(alice, "all", transfers)).ok() == first
        assert (await send(alice, "each", transfers[::-1])).ok() == first[::-1]
        assert booked(service) == 2

    async def test_a_key_is_that_of_a_transfer_alone(self, service: Service, alice: Caller, bob: Caller) -> None:
        alone = (await alice.pay(bob, "10", key="rent")).ok()
        [in_bulk] = (await send(alice, "each", [pays(alice, bob, "10.00", key="rent")])).ok()
        assert in_bulk == alone
        [in_bulk] = (await send(alice, "all", [pays(alice, bob, 5, key="food")])).ok()
        assert (await alice.pay(bob, 5, key="food")).ok() == in_bulk
        (await alice.pay(bob, 6, key="food")).problem(422)
        assert booked(service) == 2

    async def test_another_content_under_a_key_is_its_own_problem(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        (await alice.pay(bob, 10, key="rent")).ok()
        answer = await send(alice, "each", [pays(alice, bob, 11, key="rent"), pays(alice, bob, 1)])
        reused, receipt = answer.ok()
        assert (reused["status"], reused["field"]) == (422, "key")
        assert receipt["balance"] == Decimal("88.89")
        assert booked(service) == 2

    async def test_another_content_under_a_key_is_the_problem_of_all(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        (await alice.pay(bob, 10, key="rent")).ok()
        answer = await send(alice, "all", [pays(alice, bob, 1), pays(alice, bob, 11, key="rent")])
        assert answer.problem(422, "idempotency-key-reused", field="transfers[1].key")["index"] == 1
        assert booked(service) == 1

    @pytest.mark.parametrize("mode", ["each", "all"])
    async def test_the_same_key_and_content_twice_is_one_order(
        self, service: Service, alice: Caller, bob: Caller, mode: str
    ) -> None:
        first, second = (
            await send(alice, mode, [pays(alice, bob, 10, key="a"), pays(alice, bob, "10.0", key="a")])
        ).ok()
        assert first == second
        assert booked(service) == 1

    async def test_the_same_key_with_two_contents_is_a_problem(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        transfers = [pays(alice, bob, 10, key="a"), pays(alice, bob, 11, key="a"), pays(alice, bob, 1)]
        problem = (await send(alice, "all", transfers)).problem(422, field="transfers[1].key")
        assert problem["index"] == 1
        assert booked(service) == 0
        receipt, reused, other = (await send(alice, "each", transfers)).ok()
        assert (receipt["status"], reused["status"], other["status"]) == ("posted", 422, "posted")
        assert booked(service) == 2

    async def test_many_contents_under_one_key_are_judged_at_once(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        transfers = [pays(alice, bob, f"{1 + number / 100:.2f}", key="a") for number in range(1000)]
        first, *others = (await send(alice, "each", transfers)).ok()
        assert first["status"] == "posted"
        assert {(other["status"], other["field"]) for other in others} == {(422, "key")}
        assert booked(service) == 1

    async def test_what_is_booked_counts_as_done_and_the_rest_is_judged(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        (await alice.pay(bob, 90, key="rent")).ok()
        transfers = [pays(alice, bob, 90, key="rent"), pays(alice, bob, 5, key="food")]
        assert told(await send(alice, "all", transfers)) == [Decimal("9.10"), Decimal("4.05")]
        transfers.append(pays(alice, bob, 90, key="fun"))
        assert (await send(alice, "all", transfers)).problem(402)["index"] == 2
        assert booked(service) == 2

    async def test_a_refusal_does_not_burn_the_key(self, service: Service, alice: Caller, bob: Caller) -> None:
        transfers = [pays(alice, bob, 60, key="a"), pays(alice, bob, 60, key="b")]
        (await send(alice, "all", transfers)).problem(402)
        assert told(await send(alice, "each", transfers)) == [Decimal("39.40"), "insufficient-funds"]
        ledger.deposit(service.database_url, alice.accounts["USD"], "100")
        assert told(await send(alice, "all", transfers)) == [Decimal("39.40"), Decimal("78.80")]
        (await alice.pay(bob, 60, key="b")).ok()
        assert booked(service) == 2


class TestRequestKey:
    @pytest.mark.parametrize("mode", ["each", "all"])
    async def test_a_retry_gets_the_original_receipts(
        self, service: Service, alice: Caller, bob: Caller, mode: str
    ) -> None:
        transfers = [pays(alice, bob, 10), pays(alice, bob, 10), pays(alice, bob, 5, key="own")]
        first = (await send(alice, mode, transfers, key="bulk")).ok()
        assert len({result["order_id"] for result in first}) == 3
        assert (await send(alice, mode, transfers, key="bulk")).ok() == first
        assert booked(service) == 3

    async def test_what_was_refused_is_judged_anew(self, service: Service, alice: Caller, bob: Caller) -> None:
        transfers = [pays(alice, bob, 60), pays(alice, bob, 60), {"amount": "x"}]
        first = await send(alice, "each", transfers, key="bulk")
        assert told(first) == [Decimal("39.40"), "insufficient-funds", "invalid-request"]
        ledger.deposit(service.database_url, alice.accounts["USD"], "100")
        second = await send(alice, "each", transfers, key="bulk")
        assert told(second) == [Decimal("39.40"), Decimal("78.80"), "invalid-request"]
        assert second.ok()[0] == first.ok()[0]
        assert booked(service) == 2

    async def test_another_content_is_the_problem_of_the_whole(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        one = pays(alice, bob, 1)
        refused = pays(alice, bob, 1000)
        # What is booked of it stands in the fourth place alone.
        (await send(alice, "each", [refused, refused, refused, one], key="bulk")).ok()
        before = ledger.counts(service.database_url)
        for mode, transfers in (
            ("all", [refused, refused, refused, one]),
            ("each", [one, one, one, one]),
            ("each", [one]),
            ("each", [refused, refused, refused, one, one]),
            ("each", [refused, refused, refused, pays(alice, bob, "1.01")]),
            ("each", [pays(alice, bob, 1, key=str(number)) for number in range(4)]),
            ("each", [refused, refused, refused, one | {"comment": "x"}]),
            ("each", [refused, refused, refused, one, {}]),
            ("all", [one, one]),
        ):
            answer = await send(alice, mode, transfers, key="bulk")
            answer.problem(422, "idempotency-key-reused", field=None)
        assert ledger.counts(service.database_url) == before
        assert (await send(alice, "each", [refused, refused, refused, one], key="bulk")).ok()[3]["status"] == "posted"

    async def test_a_key_that_made_a_transfer_alone_is_used(self, service: Service, alice: Caller, bob: Caller) -> None:
        (await alice.pay(bob, 1, key="rent")).ok()
        (await send(alice, "each", [pays(alice, bob, 1)], key="rent")).problem(422, "idempotency-key-reused")
        assert booked(service) == 1

    async def test_a_key_that_made_a_bulk_is_used_for_a_transfer_alone(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        (await send(alice, "each", [pays(alice, bob, 1), pays(alice, bob, 2)], key="rent")).ok()
        for amount in (1, 5):
            (await alice.pay(bob, amount, key="rent")).problem(422, "idempotency-key-reused")
        assert booked(service) == 2

    async def test_a_transfer_may_have_the_key_of_the_request(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        transfers = [pays(alice, bob, 1, key="k"), pays(alice, bob, 2)]
        first = (await send(alice, "each", transfers, key="k")).ok()
        assert (await send(alice, "each", transfers, key="k")).ok() == first
        assert booked(service) == 2

    @pytest.mark.parametrize("first", ["1000", "x"])
    async def test_it_is_used_whichever_of_its_transfers_were_booked(
        self, service: Service, alice: Caller, bob: Caller, first: str
    ) -> None:
        transfers = [pays(alice, bob, first), pays(alice, bob, 1)]
        bulk = (await send(alice, "each", transfers, key="rent")).ok()
        before = ledger.counts(service.database_url)
        (await alice.pay(bob, 1, key="rent")).problem(422, "idempotency-key-reused")
        deposit = {"user_id": alice.id, "value": 1}
        (await alice.post("/api/balances", form=deposit, key="rent")).problem(422, "idempotency-key-reused")
        (await alice.post(f"/users/{alice.id}/accounts/EUR", key="rent")).problem(422, "idempotency-key-reused")
        other = (await send(alice, "each", [pays(alice, bob, 1, key="rent")])).ok()
        assert (other[0]["status"], other[0]["field"]) == (422, "key")
        group = [pays(alice, bob, 1), pays(alice, bob, 1, key="rent")]
        assert (await send(alice, "all", group)).problem(422)["index"] == 1
        assert ledger.counts(service.database_url) == before
        assert (await send(alice, "each", transfers, key="rent")).ok()[1] == bulk[1]

    async def test_what_was_refused_under_the_key_of_the_request_is_judged_anew(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        transfers = [pays(alice, bob, 100, key="k"), pays(alice, bob, 2)]
        assert told(await send(alice, "each", transfers, key="k")) == ["insufficient-funds", Decimal("97.98")]
        (await alice.pay(bob, 100, key="k")).problem(422)
        ledger.deposit(service.database_url, alice.accounts["USD"], "100")
        booked_now = (await send(alice, "each", transfers, key="k")).ok()[0]
        assert (await alice.pay(bob, 100, key="k")).ok() == booked_now
        assert booked(service) == 2

    @pytest.mark.parametrize("key", ["", "x" * 256, "two words"])
    async def test_a_malformed_key_is_400(self, alice: Caller, bob: Caller, key: str) -> None:
        (await send(alice, "each", [pays(alice, bob, 1)], key=key)).problem(400, field="Idempotency-Key")

    async def test_the_longest_key_is_taken(self, alice: Caller, bob: Caller) -> None:
        first = await send(alice, "all", [pays(alice, bob, 1)] * 2, key="x" * 255)
        assert (await send(alice, "all", [pays(alice, bob, 1)] * 2, key="x" * 255)).ok() == first.ok()

    async def test_keys_belong_to_their_caller(self, service: Service, alice: Caller, bob: Caller) -> None:
        ledger.deposit(service.database_url, bob.accounts["USD"], "100")
        (await send(alice, "each", [pays(alice, bob, 1)], key="bulk")).ok()
        (await send(bob, "each", [pays(bob, alice, 1)] * 2, key="bulk")).ok()
        assert booked(service) == 3

    async def test_without_a_key_each_request_is_another(self, service: Service, alice: Caller, bob: Caller) -> None:
        for _ in range(2):
            (await send(alice, "each", [pays(alice, bob, 1)])).ok()
        assert booked(service) == 2


class TestConcurrency:
    @pytest.mark.parametrize("mode", ["each", "all"])
    async def test_concurrent_retries_book_once(self, service: Service, alice: Caller, bob: Caller, mode: str) -> None:
        transfers = [pays(alice, bob, 1), pays(alice, bob, 2, key="own")]
        answers = await asyncio.gather(*(send(alice, mode, transfers, key="bulk") for _ in range(10)))
        assert len({answer.body for answer in answers}) == 1
        assert booked(service) == 2

    async def test_of_many_concurrent_requests_with_one_key_one_is_booked(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        transfers = [pays(alice, bob, 1), pays(alice, bob, 10**9), pays(alice, bob, 2, key="own")]
        told = await asyncio.gather(*(send(alice, "each", transfers, key="bulk") for _ in range(60)))
        answers = [[(result["status"], result.get("order_id")) for result in one.ok()] for one in told]
        assert all(answer == answers[0] for answer in answers)
        assert [status for status, _ in answers[0]] == ["posted", 402, "posted"]
        assert booked(service) == 2

    async def test_of_concurrent_contents_under_one_key_one_is_booked(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        answers = await asyncio.gather(
            *(
                send(alice, "each", [pays(alice, bob, 1 + number % 2)] * (1 + number % 2), key="bulk")
                for number in range(10)
            )
        )
        assert sorted(answer.status for answer in answers) == [200] * 5 + [422] * 5
        assert booked(service) in (1, 2)

    async def test_of_a_bulk_and_a_payment_under_its_key_one_is_booked(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        bulk = [pays(alice, bob, 1000), pays(alice, bob, 1)]
        for number in range(5):
            answers = await asyncio.gather(
                # What they wait for, so that they are judged together.
                alice.pay(bob, 1),
                send(alice, "each", bulk, key=f"k{number}"),
                alice.pay(bob, 1, key=f"k{number}"),
                send(alice, "each", [pays(alice, bob, 2, key=f"k{number}"), pays(alice, bob, 2)]),
            )
            single = answers[2].status
            item = answers[3].ok()[0]["status"]
            results = [answers[1].status, single, item]
            assert sorted(map(str, results)) in (["200", "422", "422"], ["422", "422", "posted"]), results
        ledger.assert_ledger_balances(service.database_url)

    async def test_groups_and_single_payments_with_the_same_keys(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        """Whatever comes first: a group is booked whole or not at all, and a key once."""
        for number in range(5):
            group = [pays(alice, bob, 1, key=f"a{number}"), pays(alice, bob, 2, key=f"b{number}")]
            broken = [pays(alice, bob, 1, key=f"a{number}"), pays(alice, bob, 1000, key=f"c{number}")]
            single, first, refused, second = await asyncio.gather(
                alice.pay(bob, 1, key=f"a{number}"),
                send(alice, "all", group),
                send(alice, "all", broken),
                send(alice, "all", group[::-1]),
            )
            assert first.ok() == second.ok()[::-1]
            assert first.ok()[0] == single.ok()
            refused.problem(402, "insufficient-funds")
        assert booked(service) == 10
        ledger.assert_ledger_balances(service.database_url)

    async def test_bulks_and_single_payments_on_the_same_accounts(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        carol = await service.register("carol")
        ledger.deposit(service.database_url, bob.accounts["USD"], "100")
        people = [alice, bob, carol]

        async def work(number: int) -> tuple[int, bool]:
            payer, payee = people[number % 3], people[(number + 1 + number % 2) % 3]
            amount = f"{1 + number % 7}.{number % 10}0"
            if number % 3 == 0:
                return int((await payer.pay(payee, amount)).status == 200), True
            mode = "all" if number % 2 else "each"
            answer = await send(payer, mode, [pays(payer, payee, amount)] * (2 + number % 5))
            if answer.status != 200:
                return 0, mode == "all"
            posted = [result["status"] == "posted" for result in answer.ok()]
            return sum(posted), mode == "each" or all(posted)

        results = await asyncio.gather(*(work(number) for number in range(120)))
        assert all(is_right for _, is_right in results)
        assert booked(service) == sum(count for count, _ in results)
        ledger.assert_ledger_balances(service.database_url)

    @pytest.mark.parametrize("mode", ["each", "all"])
    async def test_a_large_one_beside_others_is_booked_once_and_keeps_nobody_waiting(
        self, service: Service, alice: Caller, bob: Caller, mode: str
    ) -> None:
        """In mode `each` it is cut for them, and its retry is, too."""
        # Bob is about, with little to do.
        ledger.deposit(service.database_url, bob.accounts["USD"], "100")
        assert (await bob.pay(alice, "0.10")).status == 200
        transfers = [pays(alice, bob, "0.01") for _ in range(300)]
        bulks = [asyncio.create_task(send(alice, mode, transfers, key="bulk")) for _ in range(3)]
        payments = 0
        while not all(bulk.done() for bulk in bulks):
            payments += (await bob.pay(alice, "0.10")).status == 200
        first, *others = [bulk.result().ok() for bulk in bulks]
        assert all(other == first for other in others)
        assert [result["status"] for result in first] == ["posted"] * 300
        assert len({result["order_id"] for result in first}) == 300
        assert booked(service) == 301 + payments
        assert payments > 0
        ledger.assert_ledger_balances(service.database_url)

    async def test_a_bulk_that_waits_for_a_lock_is_busy_whole(
        self, service: Service, alice: Caller, bob: Caller
    ) -> None:
        carol = await service.register("carol")
        connection = ledger.connect(service.database_url)
        connection.autocommit = False
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT FROM accounts WHERE id = %s FOR UPDATE", (carol.accounts["USD"],))
                together, singly = await asyncio.gather(
                    send(alice, "all", [pays(alice, bob, 1), pays(alice, carol, 1)]),
                    send(alice, "each", [pays(alice, bob, 1), pays(alice, carol, 1)]),
                )
        finally:
            connection.close()
        together.problem(503, "database-busy")
        assert told(singly) == [Decimal("98.99"), "database-busy"]
        assert booked(service) == 1


class TestPoison:
    """A transfer that PostgreSQL itself rejects."""

    @pytest.fixture(autouse=True)
    async def poison(self, service: Service) -> None:
        """From now on the comment `poison` breaks a constraint."""
        await ledger.alter(
            service.database_url, "ALTER TABLE transfers ADD CONSTRAINT no_poison CHECK (comment <> 'poison')"
        )

    async def test_it_takes_no_other_with_it(self, service: Service, alice: Caller, bob: Caller) -> None:
        transfers = [pays(alice, bob, 1) for _ in range(9)]
        transfers[4] |= {"comment": "poison"}
        results = (await send(alice, "each", transfers)).ok()
        assert [result["status"] for result in results] == ["posted"] * 4 + [500] + ["posted"] * 4
        assert booked(service) == 8
        ledger.assert_ledger_balances(service.database_url)

    async def test_or_all_of_its_group(self, service: Service, alice: Caller, bob: Caller) -> None:
        transfers = [pays(alice, bob, 1) for _ in range(9)]
        transfers[4] |= {"comment": "poison"}
        refused, single, group = await asyncio.gather(
            send(alice, "all", transfers), alice.pay(bob, 1), send(alice, "all", [pays(alice, bob, 1)] * 2)
        )
        refused.problem(500, "internal-error")
        single.ok()
        group.ok()
        assert booked(service) == 3
        ledger.assert_ledger_balances(service.database_url)


async def test_a_client_that_goes_away_changes_nothing(service: Service, alice: Caller, bob: Caller) -> None:
    """The bulk was sent whole, nobody waits for the answer: a retry finds it, or is what books it, once."""
    transfers = [pays(alice, bob, "0.01")] * 500
    for key in ("a", "b", "c"):
        leaving = asyncio.create_task(send(alice, "all", transfers, key=key))
        # Some turns of the loop, so that it is on its way.
        await alice.list_accounts()
        leaving.cancel()
        await asyncio.wait([leaving])
        assert len((await send(alice, "all", transfers, key=key)).ok()) == 500
    assert booked(service) == 1500
    ledger.assert_ledger_balances(service.database_url)


async def test_a_repeated_key_is_refused(alice: Caller, bob: Caller) -> None:
    headers = CIMultiDict([("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    answer = await send(alice, "each", [pays(alice, bob, 1)], headers=headers)
    answer.problem(400, field="Idempotency-Key")
