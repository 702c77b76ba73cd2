// The core rules over npm's clients: `node cases.mjs CONNECTION_STRING CASE`; exits 0 when it holds.

import assert from "node:assert/strict";
import { ServiceBusClient } from "@azure/service-bus";
import rhea from "rhea";

const [connectionString, name] = process.argv.slice(2);
const retryOptions = { maxRetries: 0, timeoutInMs: 10_000 };
const client = new ServiceBusClient(connectionString, { retryOptions });
const sender = client.createSender("invoices");
const receiver = client.createReceiver("invoices");
const dead = client.createReceiver("invoices", { subQueueType: "deadLetter" });

async function next(from = receiver) {
  const [message] = await from.receiveMessages(1, { maxWaitTimeInMs: 10_000 });
  assert.ok(message, "no message came");
  return message;
}

async function nothingComes(from = receiver) {
  assert.deepEqual(await from.receiveMessages(1, { maxWaitTimeInMs: 200 }), []);
}

const inAnHour = () => new Date(Date.now() + 3_600_000);
const peeked = () => receiver.peekMessages(20, { fromSequenceNumber: numberOf(1) });
const Long = (await import("long")).default;
const numberOf = (value) => Long.fromNumber(value);

const cases = {
  async a_message_is_received_as_it_was_sent() {
    const applicationProperties = { text: "t", yes: true, n: 7, at: new Date(5000) };
    await sender.sendMessages({
      body: { a: [1, "two"] }, messageId: "m", subject: "s", correlationId: "c",
      contentType: "application/json", applicationProperties, timeToLive: 60_000,
    });
    const message = await next();
    assert.deepEqual(message.body, { a: [1, "two"] });
    assert.equal(message.messageId, "m");
    assert.equal(message.timeToLive, 60_000);
    assert.equal(message.deliveryCount, 0);
    assert.equal(message.sequenceNumber.toNumber(), 1);
    assert.equal(message.applicationProperties.text, "t");
    assert.equal(message.applicationProperties.n, 7);
    assert.equal(+message.applicationProperties.at, 5000);
    await receiver.completeMessage(message);
    assert.deepEqual(await peeked(), []);
  },

  async a_batch_becomes_as_many_messages_as_it_holds() {
    const batch = await sender.createMessageBatch();
    assert.equal(batch.maxSizeInBytes, 262144);
    for (const body of ["a", "b", "c"]) assert.ok(batch.tryAddMessage({ body }));
    await sender.sendMessages(batch);
    const received = [];
    while (received.length < 3) received.push((await next()).body);
    assert.deepEqual(received, ["a", "b", "c"]);
  },

  async a_full_queue_takes_nothing_until_something_is_received() {
    const small = client.createSender("small");
    for (let n = 0; n < 6; n++) await small.sendMessages({ body: Buffer.alloc(200_000) });
    const refused = { code: "QuotaExceeded", retryable: false };
    await assert.rejects(small.sendMessages({ body: "one more" }), refused);
    const emptying = client.createReceiver("small");
    await emptying.completeMessage(await next(emptying));
    await small.sendMessages({ body: "one more" });
  },

  async a_scheduled_message_is_kept_back_and_can_be_cancelled() {
    const [number] = await sender.scheduleMessages({ body: "later" }, inAnHour());
    await nothingComes();
    const [seen] = await peeked();
    assert.equal(seen.state, "scheduled");
    await sender.cancelScheduledMessages(number);
    assert.deepEqual(await peeked(), []);
    await assert.rejects(sender.cancelScheduledMessages(number), { code: "MessageNotFound" });
  },

  async a_scheduled_message_comes_in_its_time_under_a_new_number() {
    await sender.scheduleMessages({ body: "soon" }, new Date(Date.now() + 300));
    const message = await next();
    assert.equal(message.body, "soon");
    assert.equal(message.sequenceNumber.toNumber(), 2);
  },

  async a_deferred_message_is_given_to_who_asks_for_its_number() {
    await sender.sendMessages({ body: "x", messageId: "m" });
    const message = await next();
    await receiver.deferMessage(message);
    await nothingComes();
    assert.equal((await peeked())[0].state, "deferred");
    const [again] = await receiver.receiveDeferredMessages(message.sequenceNumber);
    assert.equal(again.body, "x");
    await receiver.completeMessage(again);
    assert.deepEqual(await peeked(), []);
    await assert.rejects(
      receiver.receiveDeferredMessages(message.sequenceNumber), { code: "MessageNotFound" });
  },

  async abandoning_sets_the_properties_it_names() {
    await sender.sendMessages({ body: "x", applicationProperties: { kept: 1, note: "first" } });
    await receiver.abandonMessage(await next(), { note: "again", added: true });
    const again = await next();
    assert.equal(again.deliveryCount, 1);
    assert.deepEqual({ ...again.applicationProperties }, { kept: 1, note: "again", added: true });
  },

  async deferring_sets_the_properties_it_names() {
    await sender.sendMessages({ body: "x" });
    const message = await next();
    await receiver.deferMessage(message, { why: "waits" });
    const [again] = await receiver.receiveDeferredMessages(message.sequenceNumber);
    assert.deepEqual({ ...again.applicationProperties }, { why: "waits" });
  },

  async a_dead_letter_has_its_reason_description_and_properties() {
    await sender.sendMessages({ body: "x" });
    await receiver.deadLetterMessage(await next(), {
      deadLetterReason: "r", deadLetterErrorDescription: "d", extra: 5,
    });
    const letter = await next(dead);
    assert.equal(letter.deadLetterReason, "r");
    assert.equal(letter.deadLetterErrorDescription, "d");
    assert.equal(letter.applicationProperties.extra, 5);
    await dead.completeMessage(letter);
  },

  async a_lock_can_be_renewed_and_is_lost_when_the_message_is_settled() {
    await sender.sendMessages({ body: "x" });
    const message = await next();
    const before = message.lockedUntilUtc;
    assert.ok((await receiver.renewMessageLock(message)) >= before);
    await receiver.completeMessage(message);
    await assert.rejects(receiver.renewMessageLock(message));
  },

  async receive_and_delete_removes_on_receipt() {
    await sender.sendMessages({ body: "x" });
    const deleting = client.createReceiver("invoices", { receiveMode: "receiveAndDelete" });
    assert.equal((await next(deleting)).body, "x");
    assert.deepEqual(await peeked(), []);
  },

  async a_subscriber_is_given_what_comes() {
    const came = new Promise((resolve, reject) => {
      receiver.subscribe({
        processMessage: async (message) => resolve(message.body), processError: reject,
      });
    });
    await sender.sendMessages({ body: "x" });
    assert.equal(await came, "x");
  },

  async a_duplicate_is_accepted_and_dropped() {
    const once = client.createSender("once");
    for (const body of ["first", "second"]) await once.sendMessages({ body, messageId: "m" });
    const seen = await client.createReceiver("once").peekMessages(5);
    assert.deepEqual(seen.map((message) => message.body), ["first"]);
  },

  async a_message_too_large_is_refused() {
    await assert.rejects(
      sender.sendMessages({ body: Buffer.alloc(300_000) }), { code: "MessageSizeExceeded" });
    await sender.sendMessages({ body: "after" });
    assert.equal((await next()).body, "after");
  },

  async an_unknown_queue_is_not_found() {
    await assert.rejects(
      client.createSender("nowhere").sendMessages({ body: "x" }),
      { code: "MessagingEntityNotFound" });
    await assert.rejects(
      client.createReceiver("nowhere").receiveMessages(1, { maxWaitTimeInMs: 1000 }),
      { code: "MessagingEntityNotFound" });
  },

  async a_session_is_refused_at_once() {
    await assert.rejects(
      client.acceptSession("invoices", "s"), { code: "SessionCannotBeLocked" });
    await assert.rejects(client.acceptNextSession("invoices"), /does not require sessions/);
  },

  async rhea_sends_receives_and_is_answered_with_its_own_outcome() {
    const { host, port } = endpoint();
    const connection = rhea.connect({
      host, port, username: "RootManageSharedAccessKey", password: "key", reconnect: false,
    });
    const settled = await new Promise((resolve, reject) => {
      for (const event of ["connection_error", "sender_error", "receiver_error", "disconnected"]) {
        connection.once(event, (context) => reject(context.error ?? new Error(event)));
      }
      connection.once("sendable", (context) => {
        context.sender.send({ message_id: "m", body: rhea.types.wrap_ubyte(7) });
      });
      connection.on("message", (context) => {
        assert.equal(context.message.body, 7);
        context.delivery.update(false, rhea.message.modified({ undeliverable_here: true }).described());
      });
      connection.on("settled", (context) => {
        if (context.receiver) resolve(context.delivery.remote_state);
      });
      connection.open_sender("invoices");
      connection.open_receiver({
        source: "invoices", autoaccept: false, autosettle: false, rcv_settle_mode: 1,
      });
    });
    assert.equal(settled.constructor.composite_type, "modified");
    connection.removeAllListeners("disconnected");
    connection.close();
    assert.equal((await peeked())[0].state, "deferred");
  },
};

function endpoint() {
  const [, host, port] = /sb:\/\/([^:]+):(\d+)/.exec(connectionString);
  return { host, port: Number(port) };
}

if (name === "--list") {
  console.log(Object.keys(cases).join("\n"));
} else {
  await cases[name]();
}
await client.close();
process.exit(0);
