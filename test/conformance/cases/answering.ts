// Calls that come in: drachtio.md §7.4, 3 to 5 and 9.
import { sdp, tagOf } from "../../integration/engine-support.ts";
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

/** Hands over what comes for every INVITE, without an answer. */
async function held(world: World): Promise<{ readonly srf: SrfInstance; readonly invited: Promise<Invited> }> {
  const invited = deferred<Invited>();
  const srf = await world.application((app) => {
    app.invite((req, res) => {
      invited.resolve({ req, res, cancelled: event(req, "cancel", world.afterPatienceMs) });
    });
  });
  return { srf, invited: invited.promise };
}

interface Invited {
  readonly req: SrfMessage;
  readonly res: SrfReply;
  readonly cancelled: Promise<SrfMessage | undefined>;
}

async function cancelled(world: World, provisional: number | undefined): Promise<Record<string, number | boolean>> {
  const { invited } = await held(world);
  const call = world.call();
  call.send("INVITE", { body: sdp(4000) });
  const branch = call.lastBranch;
  const { res, cancelled: told } = await invited;
  if (provisional !== undefined) {
    res.send(provisional);
    await world.peer.response(provisional, "INVITE");
  }
  call.send("CANCEL", { branch });
  const toCancel = await world.peer.take("answer", (one) => one.status > 0 && one.method === "CANCEL");
  const toInvite = await world.peer.take("answer", (one) => one.status >= 200 && one.method === "INVITE");
  call.send("ACK", { branch, toTag: tagOf(toInvite.header("To")) });
  return {
    "answer to CANCEL": toCancel.status,
    "answer to INVITE": toInvite.status,
    "application is told": (await told) !== undefined,
  };
}

export const answeringCases: readonly Case[] = [
  {
    id: "3.1",
    title: "a call is answered, and the caller hangs up",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const destroyed = event(dialog, "destroy", 5_000);
      const trying = await world.seen((one) => one.status === 100);
      const answer = await call.bye();
      return {
        "100 at once": trying !== undefined,
        "answer to BYE": answer.status,
        "destroy event": (await destroyed) !== undefined,
        "id of the dialog": dialog.id === `${call.callId};from-tag=${call.fromTag}`,
      };
    },
    engine: { "100 at once": true, "answer to BYE": 200, "destroy event": true, "id of the dialog": true },
  },
  {
    id: "3.2",
    title: "a call is answered, and the application hangs up",
    run: async (world) => {
      const { call, dialog } = await world.incoming();
      const ended = dialog.destroy();
      const bye = await world.peer.request("BYE");
      accept(world.peer, bye);
      return {
        "BYE to the Contact": bye.startLine === `BYE ${world.peer.uri} SIP/2.0`,
        tags: tagOf(bye.header("From")) === call.toTag && tagOf(bye.header("To")) === call.fromTag,
        "destroy()": await outcome(ended, 5_000),
      };
    },
    engine: { "BYE to the Contact": true, tags: true, "destroy()": "success" },
  },
  {
    id: "4.1",
    title: "the ACK never comes",
    run: async (world) => {
      const answered = deferred<SrfDialog>();
      const srf = await world.application((app) => {
        app.invite((req, res) => {
          app.createUAS(req, res, { localSdp: sdp(5000) }).then(answered.resolve, answered.reject);
        });
      });
      await world.heard(srf);
      await world.call().invite();
      const dialog = await answered.promise;
      const destroyed = deferred<string>();
      dialog.on("destroy", (_bye: SrfMessage, reason: string) => {
        destroyed.resolve(reason);
      });
      await world.peer.repeated(200, "INVITE");
      const bye = await world.peer.request("BYE", world.afterPatienceMs);
      accept(world.peer, bye);
      return {
        "200 is repeated": true,
        BYE: bye.header("Reason").replaceAll(" ;", ";"),
        "destroy event": await destroyed.promise,
      };
    },
    engine: {
      "200 is repeated": true,
      BYE: 'SIP;cause=200;text="ACK timeout"',
      "destroy event": "ACK timeout",
    },
  },
  {
    id: "5.1",
    title: "the 200 is lost: the INVITE comes again",
    run: async (world) => {
      let delivered = 0;
      await world.application((app) => {
        app.invite((req, res) => {
          delivered += 1;
          void app.createUAS(req, res, { localSdp: sdp(5000) });
        });
      });
      const call = world.call();
      const invite = call.text("INVITE", { body: sdp(4000) });
      world.peer.send(invite, world.sipPort);
      const ok = await world.peer.response(200, "INVITE");
      world.peer.send(invite, world.sipPort);
      const again = await world.peer.repeated(200, "INVITE");
      call.toTag = tagOf(ok.header("To"));
      call.send("ACK");
      await call.bye();
      return { "the same 200 again": again.text === ok.text, "INVITEs delivered": delivered };
    },
    engine: { "the same 200 again": true, "INVITEs delivered": 1 },
  },
  {
    id: "9.1",
    title: "CANCEL before the application has answered anything",
    run: async (world) => cancelled(world, undefined),
    engine: { "answer to CANCEL": 200, "answer to INVITE": 487, "application is told": true },
  },
  {
    id: "9.2",
    title: "CANCEL after 180",
    run: async (world) => cancelled(world, 180),
    engine: { "answer to CANCEL": 200, "answer to INVITE": 487, "application is told": true },
  },
  {
    id: "9.3",
    title: "CANCEL just after the 200",
    run: async (world) => {
      const answered = deferred<SrfDialog>();
      await world.application((app) => {
        app.invite((req, res) => {
          app.createUAS(req, res, { localSdp: sdp(5000) }).then(answered.resolve, answered.reject);
        });
      });
      const call = world.call();
      await call.invite();
      call.send("CANCEL", { branch: call.lastBranch });
      const answer = await world.peer.take("answer", (one) => one.status > 0 && one.method === "CANCEL");
      call.send("ACK");
      const bye = await world.seen((one) => one.method === "BYE" && one.status === 0);
      accept(world.peer, bye);
      const dialog = await answered.promise;
      if (bye === undefined) await call.bye();
      return { "answer to CANCEL": answer.status, "the call stands": bye === undefined && dialog.id !== "" };
    },
    engine: { "answer to CANCEL": 481, "the call stands": true },
  },
  {
    id: "9.4",
    title: "CANCEL of an answered INVITE whose transaction is forgotten",
    slow: true,
    run: async (world) => {
      const { call } = await world.incoming();
      const branch = call.lastBranch;
      // Longer than any server keeps the transaction after the ACK (RFC 6026: 64·T1).
      await world.seen(() => false, 64 * world.server.t1Ms + 7_000);
      call.send("CANCEL", { branch });
      const answer = await world.seen((one) => one.status > 0 && one.method === "CANCEL", 2_000);
      const bye = await world.seen((one) => one.method === "BYE" && one.status === 0, 2_000);
      accept(world.peer, bye);
      if (bye === undefined) await call.bye();
      return { "answer to CANCEL": answer?.status ?? "none", "the call stands": bye === undefined };
    },
    engine: { "answer to CANCEL": 481, "the call stands": true },
    real: { "answer to CANCEL": 481, "the call stands": false },
  },
  {
    id: "9.5",
    title: "the application answers after a CANCEL",
    run: async (world) => {
      const { srf, invited } = await held(world);
      const call = world.call();
      call.send("INVITE", { body: sdp(4000) });
      const branch = call.lastBranch;
      const { req, res, cancelled: told } = await invited;
      call.send("CANCEL", { branch });
      const refused = await world.peer.response(487, "INVITE");
      call.send("ACK", { branch, toTag: tagOf(refused.header("To")) });
      await told;
      return { "createUAS()": await outcome(srf.createUAS(req, res, { localSdp: sdp(5000) }), 5_000) };
    },
    engine: { "createUAS()": "Response not sent due to unknown transaction" },
  },
  {
    id: "9.6",
    title: "an INVITE that the application never answers",
    slow: true,
    run: async (world) => {
      await held(world);
      const call = world.call();
      call.send("INVITE", { body: sdp(4000) });
      const answer = await world.seen((one) => one.status >= 200, 2 * world.server.patienceMs + 5_000);
      if (answer !== undefined) {
        call.send("ACK", { branch: call.lastBranch, toTag: tagOf(answer.header("To")) });
      }
      return { "final answer": answer?.status ?? "none" };
    },
    engine: { "final answer": 408 },
    strict: { "final answer": "none" },
    real: { "final answer": "none" },
  },
  {
    id: "9.7",
    title: "CANCEL of an INVITE for an application that has just gone",
    run: async (world) => {
      const srf = await world.application((app) => {
        app.invite((_req, res) => {
          res.send(486);
        });
      });
      srf.disconnect();
      // A request without a route to any application is answered once the server has seen the connection close.
      await world.seen(() => false, world.soonMs);
      const call = world.call();
      call.send("INVITE", { body: sdp(4000) });
      const branch = call.lastBranch;
      await world.peer.take("answer", (one) => one.status > 0 && one.method === "INVITE");
      call.send("CANCEL", { branch });
      const toInvite = await world.peer.take("answer", (one) => one.status >= 200 && one.method === "INVITE");
      const toCancel = await world.peer.take("answer", (one) => one.status > 0 && one.method === "CANCEL");
      call.send("ACK", { branch, toTag: tagOf(toInvite.header("To")) });
      return { "answer to INVITE": toInvite.status, "answer to CANCEL": toCancel.status };
    },
    engine: { "answer to INVITE": 487, "answer to CANCEL": 200 },
    strict: { "answer to INVITE": 503 },
    real: { "answer to INVITE": 503, "answer to CANCEL": 481 },
  },
  {
    id: "12.1",
    title: "an INVITE without SDP: the offer goes out in the 200, the answer comes in the ACK",
    run: async (world) => {
      const acked = deferred<SrfMessage>();
      await world.application((app) => {
        app.invite((req, res) => {
          void app.createUAS(req, res, { localSdp: sdp(5000) }).then((dialog) => {
            dialog.once("ack", acked.resolve);
          });
        });
      });
      const call = world.call();
      const ok = await call.invite({});
      call.send("ACK", { body: sdp(4000) });
      const ack = await acked.promise;
      await call.bye();
      return { "offer in the 200": ok.body === sdp(5000), "answer delivered": ack.body === sdp(4000) };
    },
    engine: { "offer in the 200": true, "answer delivered": true },
  },
  {
    id: "18.1",
    title: "a caller behind two proxies: Record-Route is kept, and requests take the route",
    run: async (world) => {
      const proxy = `<sip:127.0.0.1:${world.peer.port};lr;hop=1>`;
      const second = "<sip:192.0.2.9;lr;hop=2>";
      const { call, dialog } = await world.incoming([`Record-Route: ${proxy}`, `Record-Route: ${second}`]);
      const ok = world.peer.received.find((one) => one.status === 200 && one.method === "INVITE");
      const ended = dialog.destroy();
      const bye = await world.peer.request("BYE");
      accept(world.peer, bye);
      await ended;
      return {
        "Record-Route in the 200": ok?.headers("Record-Route").join(",").replaceAll(" ", "") === `${proxy},${second}`,
        "Route of the BYE": bye.headers("Route").join(",").replaceAll(" ", "") === `${proxy},${second}`,
        "request URI": bye.startLine.includes(` ${world.peer.uri} `) && call.toTag !== "",
      };
    },
    engine: { "Record-Route in the 200": true, "Route of the BYE": true, "request URI": true },
  },
];
