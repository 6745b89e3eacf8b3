// Calls that the application makes: drachtio.md §7.4, 6 to 8, 10, 12, 18 and 20.
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";

import { RawCallee, replyText, sdp, tagOf, unique } from "../../integration/engine-support.ts";
import type { Case, Observed } from "../case.ts";
import { accept, event, outcome, type SrfMessage, type World } from "../world.ts";

async function refused(
  world: World,
  status: number,
  reason: string,
  headers: readonly string[] = [],
): Promise<Observed> {
  const { dialog, callee } = await world.calling();
  callee.reply(180, "Ringing");
  callee.reply(status, reason, { headers });
  const ack = await world.peer.request("ACK");
  callee.reply(status, reason, { headers });
  const again = await world.peer.request("ACK");
  return {
    "createUAC()": await outcome(dialog, 5_000),
    "ACK in the INVITE's transaction": ack.header("Via") === callee.invite.header("Via"),
    "ACK again for a repetition": again.header("Via") === ack.header("Via"),
  };
}

const refusal = (status: number): Observed => ({
  "createUAC()": status,
  "ACK in the INVITE's transaction": true,
  "ACK again for a repetition": true,
});

/** A port of 127.0.0.1 that nobody listens on. */
async function closedPort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** What becomes of a cancelled INVITE that the callee never answers. */
async function unansweredEnd(world: World, dialog: Promise<unknown>): Promise<string | number> {
  const came = await outcome(dialog, world.afterPatienceMs + 5_000);
  // Of equal runs on a drachtio-server some end in the one and some in the other: timers of its own race.
  return world.server.personality === "real" && (came === 408 || came === "never")
    ? "408 or never (either passes)"
    : came;
}

export const callingCases: readonly Case[] = [
  { id: "6.1", title: "486", run: async (world) => refused(world, 486, "Busy Here"), engine: refusal(486) },
  { id: "6.2", title: "603", run: async (world) => refused(world, 603, "Decline"), engine: refusal(603) },
  {
    id: "6.3",
    title: "302",
    run: async (world) => refused(world, 302, "Moved Temporarily"),
    engine: refusal(302),
  },
  {
    id: "6.4",
    title: "407: the INVITE with credentials has the same Call-ID and From tag and the next CSeq",
    run: async (world) => {
      const { dialog, callee } = await world.calling({ auth: { username: "u", password: "p" } });
      callee.reply(407, "Proxy Authentication Required", {
        headers: ['Proxy-Authenticate: Digest realm="r", nonce="n", qop="auth"'],
      });
      await world.peer.request("ACK");
      const retry = await world.peer.request("INVITE");
      const second = new RawCallee(world.peer, retry);
      second.reply(200, "OK", { body: sdp(4000) });
      const established = await dialog;
      await world.peer.request("ACK");
      const ended = established.destroy();
      accept(world.peer, await world.peer.request("BYE"));
      await ended;
      const number = (text: string): number => parseInt(text, 10);
      return {
        "same Call-ID": retry.header("Call-ID") === callee.invite.header("Call-ID"),
        "same From tag": tagOf(retry.header("From")) === tagOf(callee.invite.header("From")),
        "CSeq one higher": number(retry.header("CSeq")) === number(callee.invite.header("CSeq")) + 1,
        credentials: retry.header("Proxy-Authorization") !== "",
      };
    },
    engine: { "same Call-ID": true, "same From tag": true, "CSeq one higher": true, credentials: true },
  },
  {
    id: "6.5",
    title: "no answer ever",
    run: async (world) => {
      const { dialog } = await world.calling();
      return { "createUAC()": await outcome(dialog, world.afterPatienceMs) };
    },
    engine: { "createUAC()": 408 },
  },
  {
    id: "6.6",
    title: "a TCP connection that is refused",
    run: async (world) => {
      const srf = await world.application();
      const calling = srf.createUAC(`sip:a@127.0.0.1:${await closedPort()};transport=tcp`, { localSdp: sdp(5000) });
      return { "createUAC()": await outcome(calling, world.afterPatienceMs) };
    },
    engine: { "createUAC()": 503 },
  },
  {
    id: "6.7",
    title: "a UDP port that nobody listens on",
    run: async (world) => {
      const srf = await world.application();
      const calling = srf.createUAC(`sip:a@127.0.0.1:${await closedPort()}`, { localSdp: sdp(5000) });
      return { "createUAC()": await outcome(calling, world.afterPatienceMs) };
    },
    engine: { "createUAC()": 503 },
  },
  {
    id: "7.1",
    title: "the 200 comes again: so does the ACK",
    run: async (world) => {
      const { dialog, callee, ack } = await world.outgoing();
      callee.reply(200, "OK", { body: sdp(4000) });
      const again = await world.peer.request("ACK");
      const ended = dialog.destroy();
      accept(world.peer, await world.peer.request("BYE"));
      await ended;
      return {
        "ACK again": again.header("CSeq") === ack.header("CSeq"),
        "a branch of its own": ack.header("Via") !== callee.invite.header("Via"),
      };
    },
    engine: { "ACK again": true, "a branch of its own": true },
  },
  {
    id: "8.1",
    title: "a second 200 with another To tag: a fork",
    run: async (world) => {
      const { dialog, callee } = await world.outgoing();
      world.peer.send(
        replyText(callee.invite, 200, "OK", { tag: "fork-2", contact: `<${world.peer.uri}>`, body: sdp(4002) }),
        world.sipPort,
      );
      const toFork = (one: { header(name: string): string }): boolean => tagOf(one.header("To")) === "fork-2";
      const ack = await world.seen((one) => one.method === "ACK" && toFork(one), 1_000);
      const bye = await world.seen((one) => one.method === "BYE" && toFork(one), 1_000);
      accept(world.peer, bye);
      const ended = dialog.destroy();
      accept(world.peer, await world.peer.request("BYE"));
      await ended;
      return { "second leg acknowledged": ack !== undefined, "second leg ended": bye !== undefined };
    },
    engine: { "second leg acknowledged": true, "second leg ended": true },
    strict: { "second leg acknowledged": false, "second leg ended": false },
    real: { "second leg acknowledged": false, "second leg ended": false },
  },
  {
    id: "10.1",
    title: "CANCEL before any response waits for the first one",
    run: async (world) => {
      const { req, dialog, callee } = await world.calling();
      req.cancel();
      const early = await world.seen((one) => one.method === "CANCEL");
      callee.reply(180, "Ringing");
      const cancel = await world.peer.request("CANCEL");
      accept(world.peer, cancel);
      callee.reply(487, "Request Terminated");
      await world.peer.request("ACK");
      return {
        "goes out early": early !== undefined,
        "same branch": cancel.header("Via") === callee.invite.header("Via"),
        "createUAC()": await outcome(dialog, 5_000),
      };
    },
    engine: { "goes out early": false, "same branch": true, "createUAC()": 487 },
  },
  {
    id: "10.2",
    title: "CANCEL crossed by the 200",
    run: async (world) => {
      const { req, dialog, callee, provisional } = await world.calling();
      callee.reply(180, "Ringing");
      await world.seen(() => provisional.length > 0);
      req.cancel();
      const cancel = await world.peer.request("CANCEL");
      callee.reply(200, "OK", { body: sdp(4000) });
      world.peer.reply(cancel, 481, "Call/Transaction Does Not Exist");
      const destroyed = dialog.then(
        async (established) => (await event(established, "destroy", 5_000)) !== undefined,
        () => false,
      );
      const ack = await world.seen((one) => one.method === "ACK", 2_000);
      const bye = await world.seen((one) => one.method === "BYE", 2_000);
      accept(world.peer, bye);
      return {
        "createUAC()": await outcome(dialog, 2_000),
        ACK: ack !== undefined,
        BYE: bye?.header("Reason").replaceAll(" ;", ";") ?? "none",
        "destroy event": await destroyed,
      };
    },
    engine: {
      "createUAC()": "success",
      ACK: true,
      BYE: 'SIP;cause=200;text="ACK-BYE due to cancel race condition"',
      "destroy event": true,
    },
  },
  {
    id: "10.3",
    title: "a callee that ignores the CANCEL",
    slow: true,
    run: async (world) => {
      const { req, dialog, callee, provisional } = await world.calling();
      callee.reply(180, "Ringing");
      await world.seen(() => provisional.length > 0);
      req.cancel();
      await world.peer.request("CANCEL");
      return { "createUAC()": await unansweredEnd(world, dialog) };
    },
    engine: { "createUAC()": 487 },
    strict: { "createUAC()": "never" },
    real: { "createUAC()": "408 or never (either passes)" },
  },
  {
    id: "10.4",
    title: "a callee that answers the CANCEL only",
    slow: true,
    run: async (world) => {
      const { req, dialog, callee, provisional } = await world.calling();
      callee.reply(180, "Ringing");
      await world.seen(() => provisional.length > 0);
      req.cancel();
      accept(world.peer, await world.peer.request("CANCEL"));
      return { "createUAC()": await unansweredEnd(world, dialog) };
    },
    engine: { "createUAC()": 487 },
    strict: { "createUAC()": "never" },
    real: { "createUAC()": "408 or never (either passes)" },
  },
  {
    id: "12.2",
    title: "an INVITE without SDP: the 200 is not acknowledged by itself, and the ACK carries the answer",
    run: async (world) => {
      const srf = await world.application();
      const calling = srf.createUAC(world.peer.uri, { noAck: true }) as unknown as Promise<{
        sdp: string;
        ack(answer: string): Promise<unknown>;
      }>;
      const callee = new RawCallee(world.peer, await world.peer.request("INVITE"));
      callee.reply(200, "OK", { body: sdp(4000) });
      const offered = await calling;
      const early = await world.seen((one) => one.method === "ACK");
      callee.reply(200, "OK", { body: sdp(4000) });
      const acked = offered.ack(sdp(5000));
      const ack = await world.peer.request("ACK");
      const dialog = (await acked) as { destroy(): Promise<unknown> };
      const ended = dialog.destroy();
      accept(world.peer, await world.peer.request("BYE"));
      await ended;
      return {
        "offer arrives": offered.sdp === sdp(4000),
        "ACK by itself": early !== undefined,
        "answer in the ACK": ack.body === sdp(5000),
      };
    },
    engine: { "offer arrives": true, "ACK by itself": false, "answer in the ACK": true },
  },
  {
    id: "18.2",
    title: "a callee behind two proxies: the route of the 200, reversed, for ACK and BYE",
    run: async (world) => {
      const near = `<sip:127.0.0.1:${world.peer.port};lr;hop=1>`;
      const far = "<sip:192.0.2.9;lr;hop=2>";
      const { dialog, ack } = await world.outgoing([`Record-Route: ${far}, ${near}`]);
      const ended = dialog.destroy();
      const bye = await world.peer.request("BYE");
      accept(world.peer, bye);
      await ended;
      const route = (one: { headers(name: string): string[] }): boolean =>
        one.headers("Route").join(",").replaceAll(" ", "") === `${near},${far}`;
      return { "Route of the ACK": route(ack), "Route of the BYE": route(bye) };
    },
    engine: { "Route of the ACK": true, "Route of the BYE": true },
  },
  {
    id: "20.1",
    title: "the headers of an INVITE for which the application gives none",
    run: async (world) => {
      const { dialog, callee } = await world.calling();
      const { invite } = callee;
      callee.reply(486, "Busy Here");
      await world.peer.request("ACK");
      await outcome(dialog, 5_000);
      const own = `127.0.0.1:${world.sipPort}`;
      return {
        "Max-Forwards": invite.header("Max-Forwards"),
        "rport asked for": /;rport(?:;|$)/.test(invite.header("Via")),
        Contact: invite.header("Contact").replace(own, "OWN"),
        From: invite
          .header("From")
          .replace(own, "OWN")
          .replace(/;tag=.*/, ""),
        To: invite.header("To").replace(`127.0.0.1:${world.peer.port}`, "PEER"),
        "Content-Type": invite.header("Content-Type"),
        "dialled URI": invite.startLine === `INVITE ${world.peer.uri} SIP/2.0`,
      };
    },
    engine: {
      "Max-Forwards": "70",
      "rport asked for": true,
      Contact: "<sip:OWN>",
      From: "<sip:OWN>",
      To: "<sip:peer@PEER>",
      "Content-Type": "application/sdp",
      "dialled URI": true,
    },
  },
  {
    id: "20.2",
    title: "`localhost` behind an @ becomes our own address, elsewhere it stays",
    run: async (world) => {
      const { dialog, callee } = await world.calling({
        headers: {
          From: '"Nm" <sip:123@localhost>',
          "P-Asserted-Identity": "<sip:456@localhost>",
          Subject: "789@localhost",
          Via: "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx",
          Route: "<sip:192.0.2.1;lr>",
          "x-lower-case": "1",
          callReason: "1",
        },
      });
      const { invite } = callee;
      callee.reply(486, "Busy Here");
      await world.peer.request("ACK");
      await outcome(dialog, 5_000);
      const own = `127.0.0.1:${world.sipPort}`;
      return {
        From: invite
          .header("From")
          .replace(own, "OWN")
          .replace(/;tag=.*/, ""),
        "P-Asserted-Identity": invite.header("P-Asserted-Identity").replace(own, "OWN"),
        Subject: invite.header("Subject"),
        "Via and Route of the application": invite.headers("Via").length > 1 || invite.header("Route") !== "",
        "callReason of the application": /^(callreason): 1$/im.exec(invite.text)?.[1] ?? "none",
        "spelling of an X- header is kept": invite.text.includes("\r\nx-lower-case: 1\r\n"),
      };
    },
    engine: {
      From: '"Nm" <sip:123@OWN>',
      "P-Asserted-Identity": "<sip:456@OWN>",
      Subject: "789@localhost",
      "Via and Route of the application": false,
      "callReason of the application": "callReason",
      "spelling of an X- header is kept": true,
    },
    real: { "callReason of the application": "CallReason" },
  },
  {
    id: "20.3",
    title: "an INVITE to the server's own address",
    run: async (world) => {
      const srf = await world.application();
      const calling = srf.createUAC(`sip:me@127.0.0.1:${world.sipPort}`, { localSdp: sdp(5000) });
      return { "createUAC()": await outcome(calling, 5_000) };
    },
    engine: { "createUAC()": "can not send request to myself" },
  },
  {
    id: "28.1",
    title: "an INVITE with the tags of a dialog that the server does not know takes the dialog over",
    run: async (world) => {
      const callId = unique("old");
      const srf = await world.application();
      const calling = srf.createUAC(world.peer.uri, {
        localSdp: sdp(5000),
        headers: {
          "Call-ID": callId,
          CSeq: "1100 INVITE",
          From: "<sip:bot@localhost>;tag=our-old-tag",
          To: `<${world.peer.uri}>;tag=their-old-tag`,
        },
      });
      calling.catch(() => undefined);
      const invite = await world.peer.request("INVITE");
      const callee = new RawCallee(world.peer, invite);
      callee.reply(200, "OK", { body: sdp(4000) });
      const dialog = await calling;
      await world.peer.request("ACK");
      const destroyed = event<SrfMessage>(dialog, "destroy", 5_000);
      const to = invite.header("To");
      const bye = [
        `BYE sip:127.0.0.1:${world.sipPort} SIP/2.0`,
        `Via: SIP/2.0/UDP 127.0.0.1:${world.peer.port};branch=z9hG4bK${unique("b")}`,
        "Max-Forwards: 70",
        `From: ${to}`,
        `To: ${invite.header("From")}`,
        `Call-ID: ${callId}`,
        "CSeq: 7 BYE",
        "Content-Length: 0",
      ];
      world.peer.send(`${bye.join("\r\n")}\r\n\r\n`, world.sipPort);
      const answer = await world.peer.take("answer", (one) => one.status >= 200 && one.method === "BYE");
      return {
        "Call-ID, tags and CSeq are kept":
          invite.header("Call-ID") === callId &&
          tagOf(invite.header("From")) === "our-old-tag" &&
          tagOf(to) === "their-old-tag" &&
          invite.header("CSeq") === "1100 INVITE",
        "id of the dialog": dialog.id === `${callId};from-tag=our-old-tag`,
        "answer to the peer's BYE": answer.status,
        "destroy event": (await destroyed) !== undefined,
      };
    },
    engine: {
      "Call-ID, tags and CSeq are kept": true,
      "id of the dialog": true,
      "answer to the peer's BYE": 200,
      "destroy event": true,
    },
  },
];
