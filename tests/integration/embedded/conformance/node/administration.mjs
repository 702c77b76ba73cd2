// What @azure/service-bus's administration client does with the emulator: one JSON object of
// what it saw. Run as: node administration.mjs CONNECTION_STRING, trusting the emulator's certificate.
import { ServiceBusAdministrationClient } from "@azure/service-bus";

const client = new ServiceBusAdministrationClient(process.argv[2], { retryOptions: { maxRetries: 0 } });
const seen = {};

async function refused(name, call) {
  try {
    await call();
    seen[name] = "was not refused";
  } catch (error) {
    seen[name] = { code: error.code, message: error.message };
  }
}

async function all(pages) {
  const found = [];
  for await (const one of pages) found.push(one);
  return found;
}

const created = await client.createQueue("q1", { lockDuration: "PT45S", userMetadata: "<&> ü" });
seen.created = { ...created, _response: undefined };
await client.createQueue("q2");
const queue = await client.getQueue("q1");
seen.same = JSON.stringify({ ...queue, _response: undefined }) === JSON.stringify(seen.created);
queue.maxDeliveryCount = 4;
queue.status = "SendDisabled";
seen.updated = { ...(await client.updateQueue(queue)), _response: undefined };
seen.exists = [await client.queueExists("q1"), await client.queueExists("nothere")];
seen.listed = (await all(client.listQueues())).map((one) => one.name);
seen.pages = [];
for await (const page of client.listQueues().byPage({ maxPageSize: 2 })) {
  seen.pages.push(page.map((one) => one.name));
}
seen.runtime = { ...(await client.getQueueRuntimeProperties("invoices")), _response: undefined };
seen.counted = (await all(client.listQueuesRuntimeProperties())).map((one) => one.totalMessageCount);
seen.namespace = (await client.getNamespaceProperties()).name;
await refused("conflict", () => client.createQueue("Q1"));
await refused("missing", () => client.getQueue("nothere"));
await refused("missingDelete", () => client.deleteQueue("nothere"));
await refused("wrong", () => client.createQueue("q3", { maxDeliveryCount: 0 }));
await refused("topic", () => client.createTopic("t"));
await refused("subscription", () => client.createSubscription("t", "s"));
await client.deleteQueue("q1");
seen.gone = await client.queueExists("q1");
console.log(JSON.stringify(seen));
