// What happens inside a call: drachtio.md §7.4, 13 to 17, 19, 21, 22, 25.
import { RawCallee, RawTcpPeer, replyText, sdp, tagOf, unique } from "../../integration/engine-support.ts";
import type { Case } from "../case.ts";
import {
  accept,
  deferred,
  event,
  outcome,
  type SrfDialog,
  type SrfInstance,
  type SrfMessage,
  type SrfReply,
  type World,
} from "../world.ts";

async function hangUp(world: World, dialog: SrfDialog): Promise<void> {
  const ended = dialog.destroy();
  accept(world.peer, await world.peer.request("BYE", world.afterPatienceMs));
  await ended;
}

const final = (method: string) => (one: { status: number; method: string }) =>
  one.status >= 200 && one.method === method;

export const dialogCases: readonly Case[] = [
  {
    id: "11.1",
    title: "createB2BUA: the caller hears 183 with the callee's SDP, the Reason of its CANCEL reaches the callee",
    run: async (world) => {
      const failed = deferred<string | number>();
      await world.application((app) => {
        app.invite((req, res) => {
          const bridging = app.createB2BUA(req, res, world.peer.uri, { localSdpA: sdp(5000), localSdpB: sdp(5002) });
          void outcome(bridging, 30_000).then(failed.resolve);
        });
      });
      const call = world.call();
      call.send("INVITE", { body: sdp(4000) });
      const branch = call.lastBranch;
      const callee = new RawCallee(world.peer, await world.peer.request("INVITE"));
      callee.reply(183, "Session Progress", { body: sdp(4002) });
      const progress = await world.peer.take(
        "183",
        (one) => one.status === 183 && one.header("Call-ID") === call.callId,
      );
      call.send("CANCEL", { branch, headers: ['Reason: SIP;cause=200;text="elsewhere"'] });
      await world.peer.response(200, "CANCEL");
      const refused = await world.peer.take("487", (one) => one.status === 487);
      call.send("ACK", { branch, toTag: tagOf(refused.header("To")) });
      const cancel = await world.peer.take(
        "CANCEL",
        (one) => one.status === 0 && one.method === "CANCEL" && one.header("Call-ID") !== call.callId,
      );
      accept(world.peer, cancel);
      callee.reply(487, "Request Terminated");
      await world.peer.request("ACK");
      return {
        "SDP in the 183": progress.body !== "",
        Reason: cancel.header("Reason").replaceAll(" ", ""),
        "answer to INVITE": refused.status,
        "createB2BUA()": await failed.promise,
      };
    },
    engine: {
      "SDP in the 183": true,
      Reason: 'SIP;cause=200;text="elsewhere"',
      "answer to INVITE": 487,
      "createB2BUA()": 487,
    },
  },
  {
    id: "12.3",
    title: "createB2BUA with an INVITE without SDP: the callee's offer goes to the caller, its answer to the callee",
    run: async (world) => {
      const bridged = deferred<string | number>();
      await world.application((app) => {
        app.invite((req, res) => {
          void outcome(app.createB2BUA(req, res, world.peer.uri, {}), 10_000).then(bridged.resolve);
        });
      });
      const call = world.call();
      call.send("INVITE", {});
      const callee = new RawCallee(world.peer, await world.peer.request("INVITE"));
      callee.reply(200, "OK", { body: sdp(6000) });
      const ok = await world.peer.take("200", (one) => one.status === 200 && one.header("Call-ID") === call.callId);
      call.toTag = tagOf(ok.header("To"));
      call.send("ACK", { body: sdp(4000) });
      const ack = await world.peer.request("ACK");
      const came = await bridged.promise;
      await call.bye();
      callee.send("BYE");
      await world.peer.take("200", ({ status, method, header }) => {
        return status === 200 && method === "BYE" && header("Call-ID") === callee.invite.header("Call-ID");
      });
      return {
        "INVITE has no SDP": callee.invite.body === "",
        "offer reaches the caller": ok.body === sdp(6000),
        "answer in the ACK": ack.body === sdp(4000),
        "createB2BUA()": came,
      };
    },
    engine: {
      "INVITE has no SDP": true,
      "offer reaches the caller": true,
      "answer in the ACK": true,
      "createB2BUA()": "success",
    },
  },
  {
    id: "13.1",
    title: "a re-INVITE of the peer",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      dialog.on("modify", (_req: SrfMessage, res: SrfReply) => {
        res.send(200, { body: sdp(5010, 2) });
      });
      call.send("INVITE", { body: sdp(4010, 2) });
      const ok = await world.peer.take("200", (one) => one.status === 200 && one.header("CSeq") === "2 INVITE");
      const again = await world.seen((one) => one.text === ok.text, 2_000);
      call.send("ACK");
      await call.bye();
      return {
        "SDP of the application": ok.body === sdp(5010, 2),
        Contact: ok.header("Contact") !== "",
        "200 is repeated until the ACK": again !== undefined,
      };
    },
    engine: { "SDP of the application": true, Contact: true, "200 is repeated until the ACK": true },
    real: { "200 is repeated until the ACK": false },
  },
  {
    id: "13.2",
    title: "a re-INVITE of the application",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const modified = dialog.modify(sdp(5010, 2));
      const invite = await world.peer.request("INVITE");
      world.peer.reply(invite, 200, "OK", { body: sdp(4010, 2) });
      const answer = await modified;
      await world.peer.request("ACK");
      await call.bye();
      return { "SDP sent": invite.body === sdp(5010, 2), answer: answer === sdp(4010, 2) };
    },
    engine: { "SDP sent": true, answer: true },
  },
  {
    id: "13.3",
    title: "a re-INVITE of the application that gets 183 and then 200",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const asked = dialog.request({ method: "INVITE", body: sdp(5010, 2) });
      const invite = await world.peer.request("INVITE");
      world.peer.reply(invite, 183, "Session Progress");
      world.peer.reply(invite, 200, "OK", { body: sdp(4010, 2) });
      const ack = await world.seen((one) => one.method === "ACK", 3_000);
      const came = await outcome(asked, 1_000);
      await call.bye();
      return { "200 is acknowledged": ack !== undefined, "request()": came };
    },
    engine: { "200 is acknowledged": true, "request()": "success" },
    real: { "200 is acknowledged": false },
  },
  {
    id: "13.4",
    title: "a re-INVITE of the peer while ours is open",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const asked = dialog.request({ method: "INVITE", body: sdp(5010, 2) });
      const invite = await world.peer.request("INVITE");
      call.send("INVITE", { body: sdp(4010, 2) });
      const answer = await world.peer.take("answer", (one) => one.status >= 200 && one.header("CSeq") === "2 INVITE");
      call.send("ACK", answer.status === 200 ? {} : { branch: call.lastBranch });
      world.peer.reply(invite, 200, "OK", { body: sdp(4000) });
      await outcome(asked, 5_000);
      await world.peer.request("ACK");
      await call.bye();
      return { answer: answer.status };
    },
    engine: { answer: 491 },
    strict: { answer: 200 },
    real: { answer: 200 },
  },
  {
    id: "13.5",
    title: "a second re-INVITE of the peer before the first is answered",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const replies: SrfReply[] = [];
      dialog.on("modify", (_req: SrfMessage, res: SrfReply) => {
        replies.push(res);
      });
      call.send("INVITE", { body: sdp(4010, 2) });
      const first = call.lastBranch;
      await world.peer.take("100", (one) => one.status === 100 && one.header("CSeq") === "2 INVITE");
      call.send("INVITE", { body: sdp(4012, 3) });
      const second = call.lastBranch;
      const answer = await world.seen((one) => one.status >= 200 && one.header("CSeq") === "3 INVITE");
      if (answer !== undefined) call.send("ACK", { branch: second });
      for (const res of replies) res.send(488);
      await world.peer.take("488", (one) => one.status === 488 && one.header("CSeq") === "2 INVITE");
      call.send("ACK", { branch: first, seq: 2 });
      if (answer === undefined) {
        await world.peer.take("488", (one) => one.status === 488 && one.header("CSeq") === "3 INVITE");
        call.send("ACK", { branch: second, seq: 3 });
      }
      await call.bye();
      return { "answer at once": answer?.status ?? "none", "re-INVITEs delivered": replies.length };
    },
    engine: { "answer at once": 500, "re-INVITEs delivered": 1 },
    strict: { "answer at once": "none", "re-INVITEs delivered": 2 },
    real: { "answer at once": "none", "re-INVITEs delivered": 2 },
  },
  {
    id: "13.6",
    title: "a CSeq lower than the last one",
    run: async (world) => {
      const { call } = await world.incoming();
      call.send("INFO", { seq: 9 });
      await world.peer.response(200, "INFO");
      call.send("INFO", { seq: 5 });
      const answer = await world.peer.take("answer", (one) => one.status >= 200 && one.header("CSeq") === "5 INFO");
      call.seq = 9;
      await call.bye();
      return { answer: answer.status };
    },
    engine: { answer: 500 },
    strict: { answer: 200 },
    real: { answer: 200 },
  },
  {
    id: "13.7",
    title: "a re-INVITE of the peer without SDP: the offer goes out in the 200, the answer comes in the ACK",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const offerless = deferred<boolean>();
      dialog.on("modify", (req: SrfMessage, res: SrfReply) => {
        offerless.resolve(req.body === "");
        res.send(200, { body: sdp(5010, 2) });
      });
      const acked = event<SrfMessage>(dialog, "ack", 5_000);
      call.send("INVITE");
      const ok = await world.peer.take("200", (one) => one.status === 200 && one.header("CSeq") === "2 INVITE");
      call.send("ACK", { body: sdp(4010, 2) });
      const ack = await acked;
      await call.bye();
      return {
        "delivered without SDP": await offerless.promise,
        "offer in the 200": ok.body === sdp(5010, 2),
        "answer delivered": ack?.body === sdp(4010, 2),
      };
    },
    engine: { "delivered without SDP": true, "offer in the 200": true, "answer delivered": true },
  },
  {
    id: "13.8",
    title: "a re-INVITE of the application without SDP: the ACK waits for it and carries the answer",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const modified = dialog.modify({ noAck: true }) as Promise<unknown> as Promise<{
        sdp: string;
        ack(answer: string): void;
      }>;
      const invite = await world.peer.request("INVITE");
      world.peer.reply(invite, 200, "OK", { body: sdp(4010, 2) });
      const offered = await modified;
      const early = await world.seen((one) => one.method === "ACK");
      offered.ack(sdp(5010, 2));
      const ack = await world.peer.request("ACK");
      await call.bye();
      return {
        "INVITE has no SDP": invite.body === "",
        "offer arrives": offered.sdp === sdp(4010, 2),
        "ACK by itself": early !== undefined,
        "answer in the ACK": ack.body === sdp(5010, 2),
      };
    },
    engine: { "INVITE has no SDP": true, "offer arrives": true, "ACK by itself": false, "answer in the ACK": true },
  },
  {
    id: "14.1",
    title: "INFO, OPTIONS, MESSAGE and UPDATE of the peer reach the dialog",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const seen: Record<string, number> = {};
      let contact = false;
      for (const method of ["INFO", "OPTIONS", "MESSAGE", "UPDATE"]) {
        dialog.on(method.toLowerCase(), (_req: SrfMessage, res: SrfReply) => {
          res.send(202);
        });
        call.send(method, { body: method === "UPDATE" ? sdp(4010, 2) : "x" });
        const answer = await world.peer.take("answer", final(method));
        seen[method] = answer.status;
        if (method === "UPDATE") contact = answer.header("Contact") !== "";
      }
      await call.bye();
      return { ...seen, "Contact in the 2xx to UPDATE": contact };
    },
    engine: { INFO: 202, OPTIONS: 202, MESSAGE: 202, UPDATE: 202, "Contact in the 2xx to UPDATE": true },
    real: { "Contact in the 2xx to UPDATE": false },
  },
  {
    id: "14.2",
    title: "INFO, OPTIONS, MESSAGE and UPDATE of the application",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const seen: Record<string, boolean> = {};
      for (const method of ["INFO", "OPTIONS", "MESSAGE", "UPDATE"]) {
        const asked = dialog.request({ method, headers: { "Content-Type": "text/plain" }, body: "é" });
        const request = await world.peer.request(method);
        accept(world.peer, request);
        seen[method] = (await outcome(asked, 5_000)) === "success" && request.body === "é";
        if (method === "UPDATE") seen["Contact in UPDATE"] = request.header("Contact") !== "";
      }
      await call.bye();
      return seen;
    },
    engine: { INFO: true, OPTIONS: true, MESSAGE: true, UPDATE: true, "Contact in UPDATE": true },
    real: { "Contact in UPDATE": false },
  },
  {
    id: "14.3",
    title: "an INFO that the application never answers",
    slow: true,
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      dialog.on("info", () => undefined);
      call.send("INFO");
      const answer = await world.seen(final("INFO"), world.afterPatienceMs);
      await call.bye();
      return { answer: answer?.status ?? "none" };
    },
    engine: { answer: 500 },
    real: { answer: "none" },
  },
  {
    id: "14.4",
    title: "an INFO inside a call that still rings",
    run: async (world) => {
      const invited = deferred<SrfReply>();
      await world.application((app) => {
        app.invite((_req, res) => {
          res.send(180);
          invited.resolve(res);
        });
        // A drachtio-server may ask too, when it has answered.
        app.use("info", (_req, res) => res.send(202));
      });
      const call = world.call();
      call.send("INVITE", { body: sdp(4000) });
      const { lastBranch } = call;
      const ringing = await world.peer.response(180, "INVITE");
      call.toTag = tagOf(ringing.header("To"));
      call.send("INFO");
      const answer = await world.peer.take("answer", final("INFO"));
      (await invited.promise).send(486);
      await world.peer.response(486, "INVITE");
      call.send("ACK", { branch: lastBranch, seq: 1 });
      return { answer: answer.status };
    },
    engine: { answer: 202 },
    real: { answer: 500 },
  },
  {
    id: "15.1",
    title: "REFER of the application, and the NOTIFYs that follow",
    run: async (world) => {
      const { dialog, callee } = await world.outgoing();
      const notified: string[] = [];
      dialog.on("notify", (req: SrfMessage, res: SrfReply) => {
        notified.push(req.body);
        res.send(200);
      });
      const asked = dialog.request({ method: "REFER", headers: { "Refer-To": "<sip:x@192.0.2.1>" } });
      const refer = await world.peer.request("REFER");
      world.peer.reply(refer, 202, "Accepted");
      await asked;
      for (const state of ["active", "terminated"]) {
        callee.send("NOTIFY", { headers: ["Event: refer", `Subscription-State: ${state}`], body: `SIP/2.0 ${state}` });
        await world.peer.response(200, "NOTIFY");
      }
      await hangUp(world, dialog);
      return { "Contact in REFER": refer.header("Contact") !== "", NOTIFYs: notified.join(", ") };
    },
    engine: { "Contact in REFER": true, NOTIFYs: "SIP/2.0 active, SIP/2.0 terminated" },
  },
  {
    id: "15.2",
    title: "NOTIFY `terminated` of another event inside a call, and a BYE after it",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const destroyed = event(dialog, "destroy", 1_500);
      call.send("NOTIFY", { headers: ["Event: keep-alive", "Subscription-State: terminated"] });
      const notify = await world.peer.take("answer", final("NOTIFY"));
      call.send("BYE");
      const bye = await world.peer.take("answer", final("BYE"));
      return { NOTIFY: notify.status, BYE: bye.status, "destroy event": (await destroyed) !== undefined };
    },
    engine: { NOTIFY: 200, BYE: 200, "destroy event": true },
    real: { BYE: 481, "destroy event": false },
  },
  {
    id: "15.3",
    title: "REFER of the peer, and the application's NOTIFYs with sipfrag",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const target = deferred<string>();
      dialog.on("refer", (req: SrfMessage, res: SrfReply) => {
        target.resolve(req.get("Refer-To"));
        res.send(202);
      });
      call.send("REFER", { headers: ["Refer-To: <sip:x@192.0.2.1>"] });
      const answer = await world.peer.take("answer", final("REFER"));
      const seen: string[] = [];
      let [whole, typed, contact] = [true, true, true];
      for (const [state, fragment] of [
        ["active;expires=60", "SIP/2.0 100 Trying"],
        ["terminated;reason=noresource", "SIP/2.0 200 OK"],
      ] as const) {
        const asked = dialog.request({
          method: "NOTIFY",
          headers: { Event: "refer", "Subscription-State": state, "Content-Type": "message/sipfrag;version=2.0" },
          body: fragment,
        });
        const notify = await world.peer.request("NOTIFY");
        accept(world.peer, notify);
        seen.push(String(await outcome(asked, 5_000)));
        whole &&= notify.body === fragment && notify.header("Subscription-State").replaceAll(" ;", ";") === state;
        typed &&= notify.header("Content-Type") === "message/sipfrag;version=2.0";
        contact &&= notify.header("Contact") !== "";
      }
      await call.bye();
      return {
        "answer to REFER": answer.status,
        "Refer-To delivered": (await target.promise) === "<sip:x@192.0.2.1>",
        "fragment and state of the NOTIFYs": whole,
        "their Content-Type": typed,
        "their Contact": contact,
        "request()": seen.join(" "),
      };
    },
    engine: {
      "answer to REFER": 202,
      "Refer-To delivered": true,
      "fragment and state of the NOTIFYs": true,
      "their Content-Type": true,
      "their Contact": true,
      "request()": "success success",
    },
    real: { "their Contact": false },
  },
  {
    id: "16.1",
    title: "BYE of the application while its re-INVITE is open",
    run: async (world) => {
      const { dialog } = await world.incoming();
      const asked = outcome(dialog.request({ method: "INVITE", body: sdp(5010, 2) }), 10_000);
      const invite = await world.peer.request("INVITE");
      world.peer.reply(invite, 100, "Trying", { contact: "" });
      const ended = dialog.destroy();
      const cancel = await world.seen((one) => one.method === "CANCEL" && one.status === 0, 2_000);
      accept(world.peer, cancel);
      const bye = await world.peer.request("BYE");
      accept(world.peer, bye);
      world.peer.reply(invite, 487, "Request Terminated", { contact: "" });
      await ended;
      await asked;
      return { "CANCEL first": cancel !== undefined };
    },
    engine: { "CANCEL first": true },
  },
  {
    id: "16.2",
    title: "both sides hang up at once",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const ended = outcome(dialog.destroy(), 10_000);
      const bye = await world.peer.request("BYE");
      call.send("BYE");
      const answer = await world.peer.take("answer", final("BYE"));
      accept(world.peer, bye);
      return { "answer to theirs": answer.status, "destroy()": await ended };
    },
    engine: { "answer to theirs": 200, "destroy()": "success" },
  },
  {
    id: "16.3",
    title: "a BYE of the application that the peer answers 401",
    run: async (world) => {
      const { dialog } = await world.incoming();
      const ended = outcome(dialog.destroy({ auth: { username: "u", password: "p" } }), 10_000);
      const first = await world.peer.request("BYE");
      world.peer.reply(first, 401, "Unauthorized", {
        contact: "",
        headers: ['WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"'],
      });
      const second = await world.seen((one) => one.method === "BYE" && one.header("Authorization") !== "", 2_000);
      accept(world.peer, second);
      return {
        "BYE with credentials": second !== undefined,
        "CSeq one higher":
          second !== undefined && parseInt(second.header("CSeq"), 10) === parseInt(first.header("CSeq"), 10) + 1,
        "destroy()": await ended,
      };
    },
    engine: { "BYE with credentials": true, "CSeq one higher": true, "destroy()": "success" },
  },
  {
    id: "17.1",
    title: "a re-INVITE moves the remote target",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const moved = `sip:moved@127.0.0.1:${world.peer.port}`;
      dialog.on("modify", (_req: SrfMessage, res: SrfReply) => {
        res.send(200, { body: sdp(5010, 2) });
      });
      call.send("INVITE", { body: sdp(4010, 2), contact: `<${moved}>` });
      await world.peer.take("200", (one) => one.status === 200 && one.header("CSeq") === "2 INVITE");
      call.send("ACK");
      const ended = dialog.destroy();
      const bye = await world.peer.request("BYE");
      accept(world.peer, bye);
      await ended;
      return { "BYE goes to the new Contact": bye.startLine.includes(moved) };
    },
    engine: { "BYE goes to the new Contact": true },
    strict: { "BYE goes to the new Contact": false },
    real: { "BYE goes to the new Contact": false },
  },
  {
    id: "19.1",
    title: "a call over TCP: one connection, and an SDP of 6,000 bytes",
    run: async (world) => {
      const tcp = await RawTcpPeer.open(world.closings);
      const srf = await world.application();
      const big = `${sdp(5000)}${"a=candidate:1 1 UDP 1 192.0.2.1 9 typ host\r\n".repeat(130)}`;
      const calling = srf.createUAC(`sip:a@127.0.0.1:${tcp.port};transport=tcp`, { localSdp: big });
      const invite = await tcp.take("INVITE", (one) => one.method === "INVITE");
      const contact = `<sip:a@127.0.0.1:${tcp.port};transport=tcp>`;
      invite.connection?.write(replyText(invite, 200, "OK", { tag: "t", contact, body: sdp(4000) }));
      const dialog = await calling;
      await tcp.take("ACK", (one) => one.method === "ACK");
      const ended = dialog.destroy();
      const bye = await tcp.take("BYE", (one) => one.method === "BYE");
      bye.connection?.write(replyText(bye, 200, "OK", {}));
      await ended;
      return {
        "whole SDP": invite.body === big,
        connections: tcp.connections.length,
        "transport in Contact": invite.header("Contact").includes("transport=tcp"),
      };
    },
    engine: { "whole SDP": true, connections: 1, "transport in Contact": true },
  },
  {
    id: "19.2",
    title: "a peer that closes its half of a TCP connection behind its request",
    run: async (world) => {
      const tcp = await RawTcpPeer.open(world.closings);
      await world.application((app) => {
        app.options((_req, res) => {
          res.send(200);
        });
      });
      const socket = await tcp.dial(world.sipPort);
      socket.end(
        world.call().text("OPTIONS", { via: `Via: SIP/2.0/TCP 127.0.0.1:${tcp.port};branch=z9hG4bK${unique("b")}` }),
      );
      const answer = await tcp.take("200", (one) => one.status === 200, 3_000).catch(() => undefined);
      return {
        answer: answer?.status ?? "none",
        "on the same connection": answer !== undefined && answer.connection === socket,
      };
    },
    engine: { answer: 200, "on the same connection": true },
    real: { answer: "none", "on the same connection": false },
  },
  {
    id: "21.1",
    title: "an INVITE whose Session-Expires is too small",
    run: async (world) => {
      let delivered = 0;
      await world.application((app) => {
        app.invite((req, res) => {
          delivered += 1;
          void app.createUAS(req, res, { localSdp: sdp(5000) }).catch(() => undefined);
        });
      });
      const call = world.call();
      call.send("INVITE", { body: sdp(4000), headers: ["Supported: timer", "Session-Expires: 60;refresher=uac"] });
      const branch = call.lastBranch;
      const answer = await world.peer.take("answer", final("INVITE"));
      call.toTag = tagOf(answer.header("To"));
      if (answer.status === 200) {
        call.send("ACK");
        await call.bye();
      } else call.send("ACK", { branch });
      return {
        answer: answer.status,
        "Session-Expires": answer.header("Session-Expires") || "none",
        "INVITEs delivered": delivered,
      };
    },
    engine: { answer: 422, "Session-Expires": "none", "INVITEs delivered": 0 },
    real: { answer: 200, "Session-Expires": "90;refresher=uac", "INVITEs delivered": 1 },
  },
  {
    id: "21.2",
    title: "Session-Expires of the caller comes back in the 200 and in the 200 to its re-INVITE",
    run: async (world) => {
      const offer = ["Supported: timer", "Session-Expires: 120;refresher=uac"];
      const { call } = await world.incoming(offer);
      const first = world.peer.received.find((one) => one.status === 200 && one.method === "INVITE");
      call.send("INVITE", { body: sdp(4000), headers: offer });
      const second = await world.peer.take("200", (one) => one.status === 200 && one.header("CSeq") === "2 INVITE");
      call.send("ACK");
      await call.bye();
      return {
        "in the first 200": first?.header("Session-Expires") || "none",
        "in the second 200": second.header("Session-Expires") || "none",
      };
    },
    engine: { "in the first 200": "120;refresher=uac", "in the second 200": "120;refresher=uac" },
    real: { "in the second 200": "none" },
  },
  {
    id: "21.3",
    title: "the callee takes Session-Expires 90 and leaves the refreshing to us",
    slow: true,
    run: async (world) => {
      const { dialog } = await world.outgoing(["Session-Expires: 90;refresher=uac"]);
      const refresh = await world.seen((one) => one.method === "INVITE" && one.header("CSeq") !== "", 1);
      const next = refresh ?? (await world.seen((one) => one.method === "INVITE", 60_000));
      if (next !== undefined) {
        world.peer.reply(next, 200, "OK", { body: sdp(4000), headers: ["Session-Expires: 90;refresher=uac"] });
      }
      const ack = await world.seen((one) => one.method === "ACK", 2_000);
      await hangUp(world, dialog);
      return {
        refresh: next === undefined ? "none" : next.method,
        "SDP as it was": next?.body === sdp(5000),
        ACK: ack !== undefined,
      };
    },
    engine: { refresh: "INVITE", "SDP as it was": true, ACK: true },
  },
  {
    id: "22.1",
    title: "a reliable 183 of the application is repeated until the PRACK",
    run: async (world) => {
      const replies = deferred<{ srf: SrfInstance; req: SrfMessage; res: SrfReply }>();
      await world.application((app) => {
        app.invite((req, res) => {
          res.send(183, { headers: { Require: "100rel" }, body: sdp(5000) });
          replies.resolve({ srf: app, req, res });
        });
      });
      const call = world.call();
      call.send("INVITE", { body: sdp(4000), headers: ["Supported: 100rel"] });
      const { seq } = call;
      const progress = await world.peer.response(183, "INVITE");
      const again = await world.seen((one) => one.text === progress.text, 5_000);
      call.toTag = tagOf(progress.header("To"));
      call.send("PRACK", { headers: [`RAck: ${progress.header("RSeq")} ${seq} INVITE`] });
      const pracked = await world.peer.take("answer", final("PRACK"));
      const { srf, req, res } = await replies.promise;
      const answering = srf.createUAS(req, res, { localSdp: sdp(5000) });
      await world.peer.response(200, "INVITE");
      call.send("ACK", { seq });
      await answering;
      await call.bye();
      return { RSeq: progress.header("RSeq") !== "", "183 is repeated": again !== undefined, PRACK: pracked.status };
    },
    engine: { RSeq: true, "183 is repeated": true, PRACK: 200 },
  },
  {
    id: "22.2",
    title: "a reliable 180 of the callee gets a PRACK",
    run: async (world) => {
      const { dialog, callee } = await world.calling({ headers: { Supported: "100rel" } });
      callee.reply(180, "Ringing", { headers: ["Require: 100rel", "RSeq: 7"] });
      const prack = await world.peer.request("PRACK");
      accept(world.peer, prack);
      callee.reply(200, "OK", { body: sdp(4000) });
      const established = await dialog;
      await world.peer.request("ACK");
      await hangUp(world, established);
      return { RAck: prack.header("RAck") === `7 ${parseInt(callee.invite.header("CSeq"), 10)} INVITE` };
    },
    engine: { RAck: true },
  },
  {
    id: "25.1",
    title: "a method nobody knows",
    run: async (world) => {
      const srf = await world.application();
      const call = world.call();
      call.send("NEWMETHOD");
      const answer = await world.seen((one) => one.status >= 200, 1_500);
      await world.heard(srf);
      return { answer: answer?.status ?? "none" };
    },
    engine: { answer: 501 },
    real: { answer: "none" },
  },
  {
    id: "25.2",
    title: "an INVITE without Contact",
    run: async (world) => {
      let delivered = 0;
      await world.application((app) => {
        app.invite((_req, res) => {
          delivered += 1;
          res.send(486);
        });
      });
      const call = world.call();
      call.send("INVITE", { body: sdp(4000), contact: undefined });
      const answer = await world.peer.take("answer", final("INVITE"));
      call.send("ACK", { branch: call.lastBranch, toTag: tagOf(answer.header("To")) });
      return { answer: answer.status, "INVITEs delivered": delivered };
    },
    engine: { answer: 400, "INVITEs delivered": 0 },
    real: { answer: 486, "INVITEs delivered": 1 },
  },
  {
    id: "25.9",
    title: "an INVITE of 10 kB by UDP",
    run: async (world) => {
      await world.application((app) => {
        app.invite((_req, res) => res.send(486));
      });
      const call = world.call();
      call.send("INVITE", { body: `${sdp(4000)}a=x-long:${"a".repeat(10_000)}\r\n` });
      const answer = await world.peer.take("answer", final("INVITE"));
      call.send("ACK", { branch: call.lastBranch, toTag: tagOf(answer.header("To")) });
      return { answer: answer.status };
    },
    engine: { answer: 486 },
    real: { answer: 400 },
  },
  {
    id: "25.3",
    title: "REFER out of any dialog, with no application for it",
    run: async (world) => {
      await world.application();
      world.call().send("REFER", { headers: ["Refer-To: <sip:x@192.0.2.1>"] });
      const answer = await world.seen(final("REFER"), 3_000);
      return { answer: answer?.status ?? "none" };
    },
    engine: { answer: 405 },
    strict: { answer: "none" },
    real: { answer: "none" },
  },
  {
    id: "25.4",
    title: "a header value of the application that holds control characters",
    run: async (world) => {
      const line = await world.control();
      const { secret } = world.server;
      const text = (message: string): string => `${Buffer.byteLength(message)}#${message}`;
      line.socket.write(text(`one|authenticate|${secret}|`));
      await line.until(() => line.received.includes("|OK|"), 5_000);
      line.socket.write(text(`two|sip||\r\nOPTIONS ${world.peer.uri} SIP/2.0\r\nX-A: 1\u0000\u0007\r\n\r\n`));
      const sent = await world.seen((one) => one.method === "OPTIONS" && one.status === 0, 1_500);
      accept(world.peer, sent);
      return { "goes out": sent !== undefined };
    },
    engine: { "goes out": false },
    real: { "goes out": true },
  },
];
