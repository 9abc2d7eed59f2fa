// What a client does: registers, pays, pages, and meets what goes wrong, an outage of the database among it.
// Usage: node scenario.js BASE_URL. It writes a line for what it wants done to the database, and reads one when it is.
import assert from "node:assert/strict";
import { createInterface } from "node:readline";

import createClient from "openapi-fetch";

import type { components, paths } from "./schema.js";

type Schemas = components["schemas"];

const PASSWORD = "correct horse";
const baseUrl = process.argv[2] ?? "";
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function please(wish: string): Promise<void> {
  console.log(wish);
  await lines.next();
}

class Person {
  readonly client;
  id = 0;
  dollars = 0;

  constructor(readonly username: string) {
    const Authorization = `Basic ${Buffer.from(`${username}:${PASSWORD}`).toString("base64")}`;
    this.client = createClient<paths>({ baseUrl, headers: { Authorization } });
  }

  async register(): Promise<this> {
    const body = { username: this.username, password: PASSWORD, full_name: null };
    const { data: user } = await this.client.POST("/users", { body });
    assert.equal(user?.full_name, "Unknown");
    this.id = user.id;
    const { data: accounts } = await this.client.GET("/users/{user_id}/accounts", { params: { path: { user_id: this.id } } });
    this.dollars = accounts?.find((account) => account.currency_id === "USD")?.id ?? 0;
    return this;
  }

  pay(payee: Person, amount: string, key?: string) {
    const header = key === undefined ? {} : { "Idempotency-Key": key };
    return this.client.POST("/users/{user_id}/transfers", {
      params: { path: { user_id: this.id }, header },
      body: { from: this.dollars, to: payee.dollars, amount, comment: null },
    });
  }

  deposit(value: string) {
    return this.client.POST("/api/balances", { body: { user_id: this.id, value } });
  }
}

function isPending(receipt: Schemas["ReceiptBody"] | Schemas["PendingBody"] | undefined): receipt is Schemas["PendingBody"] {
  return receipt !== undefined && "accepted_at" in receipt;
}

const anna = await new Person("anna").register();
const boris = await new Person("boris").register();
assert.equal((await anna.deposit("100")).response.status, 201);

// Pays once, however often it asks.
const first = await anna.pay(boris, "1.50", "rent");
assert.deepEqual((await anna.pay(boris, "1.50", "rent")).data, first.data);
assert.equal(first.data?.balance, 98.48);
await anna.pay(boris, "2.50");

// Pages.
const path = { user_id: anna.id };
const page = await anna.client.GET("/users/{user_id}/transfers", { params: { path, query: { limit: 3 } } });
assert.match(page.response.headers.get("Link") ?? "", /rel="next"/);
const after = page.data?.at(-1)?.id ?? 0;
const rest = await anna.client.GET("/users/{user_id}/transfers", { params: { path, query: { limit: 3, after } } });
assert.equal(rest.response.headers.get("Link"), null);
assert.deepEqual([page.data?.length, rest.data?.length], [3, 2]);

// A token, in a form.
const anonymous = createClient<paths>({ baseUrl });
const { data: token } = await anonymous.POST("/api/auth/token", {
  body: { username: "anna", password: PASSWORD },
  headers: { "Content-Type": "application/x-www-form-urlencoded" },
});
const bearer = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token?.access_token}` } });
const { data: me } = await bearer.GET("/api/users/me");
assert.deepEqual([me?.username, me?.password], ["anna", null]);

// Many at once.
const { data: results } = await anna.client.POST("/users/{user_id}/transfers/bulk", {
  params: { path },
  body: { mode: "each", transfers: [{ from: anna.dollars, to: boris.dollars, amount: 1 }, { from: 0, to: 0, amount: 1 }] },
});
assert.deepEqual(results?.map((result) => ("type" in result ? result.status : "paid")), ["paid", 400]);

// Problems.
const reused = await anna.pay(boris, "2", "rent");
assert.deepEqual([reused.response.status, reused.error?.type], [422, "/problems/idempotency-key-reused"]);
const poor = await anna.pay(boris, "1000");
assert.deepEqual([poor.response.status, poor.error?.type], [402, "/problems/insufficient-funds"]);
const tooMuch = await anna.deposit("-1000");
assert.equal(tooMuch.response.status, 402);
assert.equal(typeof tooMuch.error?.detail, "string");

await please("lose the database");

const pending = await anna.pay(boris, "1.50", "food");
assert.equal(pending.response.status, 202);
assert.ok(isPending(pending.data));
assert.equal((await anna.pay(boris, "1000")).response.status, 402);
const deposit = await anna.deposit("2");
assert.equal(deposit.response.status, 201);
assert.ok(deposit.data !== undefined && "detail" in deposit.data);
assert.equal(deposit.data.detail.value, 2);
const refused = await anna.deposit("-1000");
const detail = refused.error?.detail;
assert.ok(typeof detail === "object");
assert.equal(detail.value, -1000);
const history = await anna.client.GET("/users/{user_id}/transfers", { params: { path } });
assert.equal(history.response.status, 503);
assert.ok(Number(history.response.headers.get("Retry-After")) > 0);
assert.match(history.error?.type ?? "", /^\/problems\//);

await please("bring it back");

const posted = await anna.pay(boris, "1.50", "food");
assert.equal(posted.response.status, 200);
const order = await anna.client.GET("/users/{user_id}/orders/{order_id}", {
  params: { path: { ...path, order_id: pending.data.order_id } },
});
assert.equal(order.data?.status, "posted");
process.exit(0);
