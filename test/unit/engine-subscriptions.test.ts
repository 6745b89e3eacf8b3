import { beforeEach, describe, expect, it } from "vitest";

import type { FakeInbound, FakeOutbound } from "./engine-fakes.ts";
import {
  agent,
  answered,
  apps,
  clock,
  command,
  dialogOf,
  expectNothingLeft,
  localTag,
  network,
  receive,
  respond,
  start,
} from "./engine-ua-stage.ts";

beforeEach(() => {
  start();
  apps.verbs.add("subscribe");
  apps.verbs.add("notify");
});

const id = "call-1;from-tag=alice";

/** The peer subscribed with us, and we accepted. */
function subscribed(expires: number): { tag: string; subscribe: FakeInbound } {
  const subscribe = receive("SUBSCRIBE", { headers: ["Event: presence", `Expires: ${expires}`] });
  respond(apps.lastTxn, "202 Accepted", `Expires: ${expires}\r\n`);
  return { tag: localTag(subscribe), subscribe };
}

function send(dialogId: string, method: string, headers = ""): void {
  agent.requestInDialog(command(`${method} sip:placeholder SIP/2.0\r\n${headers}\r\n`), dialogId);
}

function notify(dialogId: string, state: string, event = "presence"): FakeOutbound {
  send(dialogId, "NOTIFY", `Event: ${event}\r\nSubscription-State: ${state}\r\n`);
  return network.last("NOTIFY");
}

/** We subscribe with the peer. */
function subscribing(expires = 600): { outbound: FakeOutbound; dialogId: string; tag: string } {
  const head = `SUBSCRIBE sip:bob@192.0.2.9:5070 SIP/2.0\r\nEvent: presence\r\nExpires: ${expires}\r\nCall-ID: sub-1`;
  agent.requestOutOfDialog(command(`${head}\r\n\r\n`), undefined);
  const outbound = network.last("SUBSCRIBE");
  const dialogId = dialogOf(outbound);
  return { outbound, dialogId, tag: dialogId.split("from-tag=")[1] ?? "" };
}

function receiveNotify(tag: string, state: string, seq = 1, fromTag = "their-tag"): FakeInbound {
  const headers = ["Event: presence", `Subscription-State: ${state}`];
  return receive("NOTIFY", { callId: "sub-1", toTag: tag, fromTag, seq, headers });
}

describe("as notifier (RFC 6665 §4.2)", () => {
  it("the 202 makes the dialog, with our Contact; NOTIFY goes there, and `terminated` ends it", () => {
    const { subscribe } = subscribed(600);
    expect(subscribe.responses[0]?.headers.get("Contact")).toBe("<sip:192.0.2.1:5060>");
    expect(apps.replies.at(-1)).toMatchObject({ type: "sent", dialogId: id });
    const active = notify(id, "active;expires=600");
    expect(active.request.uri).toBe("sip:alice@192.0.2.9:5070");
    expect(active.request.headers.has("Contact")).toBe(true);
    active.respond(200);
    expect(agent.stats().dialogs).toBe(1);
    notify(id, "terminated;reason=timeout").respond(200);
    expectNothingLeft();
  });

  it("expires by itself 64*T1 after its time when nobody says anything", async () => {
    subscribed(60);
    await clock.advance(60_000 + 31_000);
    expect(agent.stats().dialogs).toBe(1);
    await clock.advance(1_000);
    expectNothingLeft();
  });

  it("a refresh begins the time anew, `Expires: 0` leaves time for the last NOTIFY only", async () => {
    const { tag } = subscribed(60);
    await clock.advance(50_000);
    receive("SUBSCRIBE", { toTag: tag, seq: 2, headers: ["Event: presence", "Expires: 60"] });
    respond(apps.lastTxn, "200 OK");
    await clock.advance(90_000);
    expect(agent.stats().dialogs).toBe(1);
    receive("SUBSCRIBE", { toTag: tag, seq: 3, headers: ["Event: presence", "Expires: 0"] });
    respond(apps.lastTxn, "200 OK");
    expect(agent.stats().dialogs).toBe(1);
    await clock.advance(32_000);
    expectNothingLeft();
  });

  it.each([481, 489, 408, 604])("a NOTIFY answered %i ends the subscription", (status) => {
    subscribed(600);
    notify(id, "active").respond(status);
    expectNothingLeft();
  });

  it.each([500, 503, 401])("a NOTIFY answered %i leaves it", async (status) => {
    subscribed(600);
    notify(id, "active").respond(status);
    expect(agent.stats().dialogs).toBe(1);
    await clock.advance(640_000);
    expectNothingLeft();
  });

  it("takes no call in such a dialog, in either direction", async () => {
    const { tag } = subscribed(1);
    for (const [at, method] of ["INVITE", "UPDATE", "INFO", "BYE"].entries()) {
      expect(receive(method, { toTag: tag, seq: 10 + at }).statuses, method).toEqual([481]);
      send(id, method);
      expect(apps.refusals.at(-1)).toBe("Server error: unable to find dialog for dialog id provided");
    }
    await clock.advance(40_000);
    expectNothingLeft();
  });

  it("a refresh of a dialog that is gone: 481; a first SUBSCRIBE without Contact: 400", () => {
    expect(receive("SUBSCRIBE", { toTag: "gone" }).statuses).toEqual([481]);
    expect(receive("SUBSCRIBE", { contact: "<tel:+4930>" }).statuses).toEqual([400]);
    expectNothingLeft();
  });

  it("a refused SUBSCRIBE makes no dialog", () => {
    const refused = receive("SUBSCRIBE", { headers: ["Event: unheard-of"] });
    respond(apps.lastTxn, "489 Bad Event");
    expect(refused.statuses).toEqual([489]);
    expectNothingLeft();
  });
});

describe("as subscriber (RFC 6665 §4.1)", () => {
  it("the 2xx makes the dialog; NOTIFYs are delivered in it; `terminated` ends it", () => {
    const { outbound, dialogId, tag } = subscribing();
    outbound.respond(202);
    expect(apps.deliveries.at(-1)?.dialogId).toBe(dialogId);
    const first = receiveNotify(tag, "active;expires=600");
    expect(apps.deliveries.at(-1)?.dialogId).toBe(dialogId);
    respond(apps.lastTxn, "200 OK");
    expect(first.statuses).toEqual([200]);
    receiveNotify(tag, "terminated;reason=deactivated", 2);
    respond(apps.lastTxn, "200 OK");
    expectNothingLeft();
  });

  it("a NOTIFY before the 2xx waits for it, and comes behind it in the dialog", () => {
    const { outbound, dialogId, tag } = subscribing();
    const early = receiveNotify(tag, "active");
    expect(apps.deliveries).toEqual([]);
    outbound.respond(200);
    expect(apps.deliveries.map((one) => one.text.split("\r\n")[0]?.split(" ")[0])).toEqual(["SIP/2.0", "NOTIFY"]);
    expect(apps.deliveries.at(-1)?.dialogId).toBe(dialogId);
    respond(apps.lastTxn, "200 OK");
    expect(early.statuses).toEqual([200]);
    receiveNotify(tag, "terminated", 2);
    respond(apps.lastTxn, "200 OK");
    expectNothingLeft();
  });

  it("keeps eight such NOTIFYs and no more", async () => {
    const { outbound, tag } = subscribing(1);
    for (let seq = 1; seq <= 20; seq += 1) {
      receiveNotify(tag, "active", seq);
    }
    // Those beyond are handed on as the requests without a dialog that they are.
    expect(apps.deliveries.length).toBe(12);
    outbound.respond(200);
    expect(apps.deliveries.length).toBe(12 + 1 + 8);
    await clock.advance(400_000);
    expectNothingLeft();
  });

  it("refresh by SUBSCRIBE: 2xx begins the time anew, 481 ends it, 423 leaves it", async () => {
    const { outbound, dialogId } = subscribing(60);
    outbound.respond(200, "OK", "their-tag", ["Expires: 60"]);
    await clock.advance(50_000);
    send(dialogId, "SUBSCRIBE", "Event: presence\r\nExpires: 60\r\n");
    network.last("SUBSCRIBE").respond(200, "OK", "their-tag", ["Expires: 120"]);
    await clock.advance(140_000);
    expect(agent.stats().dialogs).toBe(1);
    send(dialogId, "SUBSCRIBE", "Event: presence\r\nExpires: 1\r\n");
    network.last("SUBSCRIBE").respond(423);
    expect(agent.stats().dialogs).toBe(1);
    send(dialogId, "SUBSCRIBE", "Event: presence\r\nExpires: 60\r\n");
    network.last("SUBSCRIBE").respond(481);
    expectNothingLeft();
  });

  it("unsubscribed by `Expires: 0`: over with the last NOTIFY, or 64*T1 later without one", async () => {
    const { outbound, dialogId } = subscribing(600);
    outbound.respond(200);
    send(dialogId, "SUBSCRIBE", "Event: presence\r\nExpires: 0\r\n");
    network.last("SUBSCRIBE").respond(200);
    expect(agent.stats().dialogs).toBe(1);
    await clock.advance(32_000);
    expectNothingLeft();
  });

  it("follows the Contact of NOTIFYs, and a 2xx without a usable one makes no dialog", () => {
    const { outbound, dialogId, tag } = subscribing(600);
    outbound.respond(200, "OK", "their-tag", ["Record-Route: <sip:192.0.2.7;lr>"]);
    receiveNotify(tag, "active");
    respond(apps.lastTxn, "200 OK");
    send(dialogId, "SUBSCRIBE", "Event: presence\r\nExpires: 0\r\n");
    expect(network.last("SUBSCRIBE").request.uri).toBe("sip:alice@192.0.2.9:5070");
    expect(network.last("SUBSCRIBE").request.headers.get("Route")).toBe("<sip:192.0.2.7;lr>");
    network.last("SUBSCRIBE").respond(481);
    expectNothingLeft();
  });
});

describe("several usages of one dialog (RFC 5057)", () => {
  function call(): { tag: string; dialogId: string } {
    const { tag, dialogId } = answered();
    receive("ACK", { toTag: tag });
    return { tag, dialogId };
  }

  it("the end of a subscription does not end the call, whatever its event (drachtio's bug, §2.11)", () => {
    const { tag, dialogId } = call();
    receive("SUBSCRIBE", { toTag: tag, seq: 2, headers: ["Event: dialog", "Expires: 60"] });
    respond(apps.lastTxn, "200 OK");
    notify(dialogId, "terminated", "dialog").respond(200);
    for (const [at, event] of [["Event: weird"], []].entries()) {
      const headers = [...event, "Subscription-State: terminated"];
      receive("NOTIFY", { toTag: tag, seq: 3 + at, headers });
      respond(apps.lastTxn, "200 OK");
    }
    expect(agent.stats().dialogs).toBe(1);
    receive("BYE", { toTag: tag, seq: 9 });
    respond(apps.lastTxn, "200 OK");
    expectNothingLeft();
  });

  it("the end of the call does not end a subscription, be it our BYE or the peer's", async () => {
    for (const ours of [true, false]) {
      start();
      const { tag, dialogId } = call();
      receive("SUBSCRIBE", { toTag: tag, seq: 2, headers: ["Event: dialog", "Expires: 600"] });
      respond(apps.lastTxn, "200 OK");
      if (ours) {
        send(dialogId, "BYE");
        network.last("BYE").respond(200);
      } else {
        receive("BYE", { toTag: tag, seq: 3 });
        respond(apps.lastTxn, "200 OK");
      }
      expect(agent.stats().dialogs).toBe(1);
      expect(receive("INVITE", { toTag: tag, seq: 4 }).statuses).toEqual([481]);
      notify(dialogId, "active", "dialog").respond(200);
      notify(dialogId, "terminated", "dialog").respond(200);
      await clock.advance(40_000);
      expectNothingLeft();
    }
  });

  it("two subscriptions are told apart by package and id, and the last one ends the dialog", () => {
    const { tag } = subscribed(600);
    receive("SUBSCRIBE", { toTag: tag, seq: 2, headers: ["Event: presence;id=7", "Expires: 600"] });
    respond(apps.lastTxn, "200 OK");
    notify(id, "terminated", "presence;id=7").respond(200);
    expect(agent.stats().dialogs).toBe(1);
    notify(id, "terminated").respond(200);
    expectNothingLeft();
  });

  it("REFER makes a subscription that outlives the call until its last NOTIFY", () => {
    const { tag, dialogId } = call();
    send(dialogId, "REFER", "Refer-To: <sip:x@192.0.2.9>\r\n");
    network.last("REFER").respond(202);
    send(dialogId, "BYE");
    network.last("BYE").respond(200);
    expect(agent.stats().dialogs).toBe(1);
    const last = receive("NOTIFY", { toTag: tag, seq: 5, headers: ["Event: refer", "Subscription-State: terminated"] });
    expect(apps.deliveries.at(-1)?.dialogId).toBe(dialogId);
    respond(apps.lastTxn, "200 OK");
    expect(last.statuses).toEqual([200]);
    expectNothingLeft();
  });

  it("that waits 64*T1 behind the call at most, and is none at all with `Refer-Sub: false`", async () => {
    const { tag, dialogId } = call();
    send(dialogId, "REFER", "Refer-To: <sip:x@192.0.2.9>\r\n");
    network.last("REFER").respond(202);
    receive("BYE", { toTag: tag, seq: 5 });
    respond(apps.lastTxn, "200 OK");
    expect(agent.stats().dialogs).toBe(1);
    await clock.advance(32_000);
    expectNothingLeft();

    const other = call();
    send(other.dialogId, "REFER", "Refer-To: <sip:x@192.0.2.9>\r\nRefer-Sub: false\r\n");
    network.last("REFER").respond(200, "OK", "their-tag", ["Refer-Sub: false"]);
    receive("BYE", { toTag: other.tag, seq: 5 });
    respond(apps.lastTxn, "200 OK");
    expectNothingLeft();
  });

  it("an application that is gone takes its subscriptions along after the grace time", async () => {
    subscribed(3_600);
    apps.connected.delete(1);
    agent.clientGone({ client: 1, tags: "", verbs: [] });
    await clock.advance(30_000);
    expectNothingLeft();
  });

  it("watches sixteen subscriptions of a dialog and no more", async () => {
    const { tag } = subscribed(1);
    for (let sub = 0; sub < 40; sub += 1) {
      receive("SUBSCRIBE", { toTag: tag, seq: 2 + sub, headers: [`Event: presence;id=${sub}`, "Expires: 60"] });
      respond(apps.lastTxn, "200 OK");
    }
    expect(agent.stats().timers).toBe(16);
    await clock.advance(92_000);
    expectNothingLeft();
  });
});
