import { beforeEach, expect, it } from "vitest";

import {
  agent,
  answered,
  apps,
  calling,
  clock,
  command,
  counters,
  dialogOf,
  expectNothingLeft,
  localTag,
  network,
  receive,
  respond,
  start,
} from "./engine-ua-stage.ts";

// An application or its connection that goes away between two steps of a call.

beforeEach(() => {
  start();
});

/** The connection breaks; another application takes its place. */
function replaced(): void {
  apps.connected.delete(1);
  apps.connected.add(2);
  agent.clientGone({ client: 1, tags: "", verbs: ["invite"] });
}

it("an answer that waited for a PRACK goes with its application: the next one answers the call", async () => {
  apps.verbs.add("prack");
  const invite = receive("INVITE", { headers: ["Supported: 100rel"] });
  const sdp = "v=0\r\n";
  respond(apps.lastTxn, "183 Session Progress", "Require: 100rel\r\n", 1, sdp);
  respond(apps.lastTxn, "200 OK");
  expect(invite.statuses).toEqual([183]);
  replaced();
  const again = apps.deliveries.at(-1);
  expect(again).toMatchObject({ client: 2 });
  expect(apps.lastLine).toContain("INVITE");
  // The PRACK is for whoever has the INVITE now, and is not kept for an application that is gone.
  const rseq = invite.responses[0]?.headers.get("RSeq") ?? "";
  const prack = receive("PRACK", { seq: 2, toTag: localTag(invite), headers: [`RAck: ${rseq} 1 INVITE`] });
  expect(apps.deliveries.at(-1)).toMatchObject({ client: 2 });
  respond(apps.lastTxn, "200 OK", "", 2);
  expect(prack.statuses).toEqual([200]);
  expect(invite.statuses).toEqual([183]);
  respond(again?.txnId ?? "", "486 Busy Here", "", 2);
  expect(invite.statuses).toEqual([183, 486]);
  await clock.advance(64_000);
  expectNothingLeft();
});

it("a connection that is breaking counts for nothing: the request waits for the next one", async () => {
  const deliver = apps.deliver.bind(apps);
  apps.deliver = () => false;
  agent.clientGone({ client: 9, tags: "", verbs: ["invite"] });
  const invite = receive("INVITE");
  expect(invite.statuses).toEqual([]);
  apps.deliver = deliver;
  agent.routed("invite");
  expect(apps.lastLine).toContain("INVITE");
  respond(apps.lastTxn, "486 Busy Here");
  expect(invite.statuses).toEqual([486]);
  await clock.advance(64_000);
  expectNothingLeft();
});

it("the callee hangs up before the application's ACK: his 2xx is acknowledged all the same", async () => {
  const { outbound } = calling();
  outbound.respond(200);
  const dialogId = dialogOf(outbound);
  const ownTag = dialogId.split("from-tag=")[1] ?? "";
  const callId = dialogId.split(";")[0] ?? "";
  const bye = receive("BYE", { callId, fromTag: "their-tag", toTag: ownTag });
  expect(network.sent.map(({ message }) => message.method)).toEqual(["ACK"]);
  respond(apps.lastTxn, "200 OK");
  expect(bye.statuses).toEqual([200]);
  // The application's own comes too late, and a repetition of the 2xx gets the engine's once more.
  agent.requestInDialog(command("ACK sip:placeholder SIP/2.0\r\n\r\n"), dialogId);
  outbound.respond(200);
  expect(network.sent.map(({ message }) => message.method)).toEqual(["ACK", "ACK"]);
  await clock.advance(64_000);
  expect(counters.get("ackTimeouts")).toBe(0);
  expectNothingLeft();
});

it("what came in a dialog while the connection was breaking goes to the heir at once", async () => {
  const { tag, dialogId } = answered();
  receive("ACK", { toTag: tag });
  const deliver = apps.deliver.bind(apps);
  apps.deliver = () => false;
  const message = receive("INFO", { seq: 2, toTag: tag });
  apps.deliver = deliver;
  replaced();
  expect(apps.lastLine).toContain("INFO");
  expect(apps.deliveries.at(-1)).toMatchObject({ client: 2, dialogId });
  respond(apps.lastTxn, "200 OK", "", 2);
  expect(message.statuses).toEqual([200]);
  agent.requestInDialog(command("BYE sip:placeholder SIP/2.0\r\n\r\n", 2), dialogId);
  network.last("BYE").respond(200);
  await clock.advance(64_000);
  expectNothingLeft();
});
