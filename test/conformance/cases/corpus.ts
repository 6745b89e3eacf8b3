// Malformed and unusual messages: drachtio.md §7.4, 25.
import { sdp, tagOf } from "../../integration/engine-support.ts";
import { Prober } from "../../integration/prober.ts";
import { hasTortureMessages, tortureMessages, withRport } from "../../support/sip-corpus.ts";
import type { Case, Observed } from "../case.ts";
import { accept, outcome, type World } from "../world.ts";

/** Methods that an application may route, each with the answer it gives here. */
const routed: Readonly<Record<string, number>> = {
  invite: 486,
  options: 200,
  register: 405,
  message: 405,
  subscribe: 405,
  notify: 405,
  refer: 405,
  publish: 405,
  info: 405,
};

const viaOf = (bytes: Buffer): string => /^(?:via|v)[ \t]*:[^\r]*/im.exec(bytes.toString("latin1"))?.[0] ?? "";

/** What the sender of each message of a set sees over UDP, with an application that refuses every call. */
async function answersTo(world: World, set: "rfc4475" | "rfc5118"): Promise<Observed> {
  await world.application((app) => {
    for (const [verb, status] of Object.entries(routed)) {
      app.use(verb, (_req, res) => {
        res.send(status);
      });
    }
  });
  const sent: (readonly [string, Prober])[] = [];
  const vias = new Set<string>();
  try {
    for (const [name, bytes] of tortureMessages(set)) {
      // With the same Via again, two messages would be one transaction until the first is forgotten.
      if (vias.has(viaOf(bytes))) await world.seen(() => false, 64 * world.server.t1Ms + world.soonMs);
      vias.add(viaOf(bytes));
      const prober = await Prober.open("udp", world.sipPort);
      sent.push([name, prober]);
      prober.send(withRport(bytes));
      await prober.probe();
    }
    // An answer that has to go through the application may come after that to the last probe.
    await world.seen(() => false, world.soonMs);
    return Object.fromEntries(sent.map(([name, prober]) => [name, prober.finals().join(" ") || "none"]));
  } finally {
    for (const [, prober] of sent) await prober[Symbol.asyncDispose]();
  }
}

const withoutMessages = hasTortureMessages ? undefined : "the messages are not beside the project";

export const corpusCases: readonly Case[] = [
  {
    id: "25.5",
    title: "messages of RFC 4475, final answer",
    slow: true,
    skipped: withoutMessages,
    run: async (world) => answersTo(world, "rfc4475"),
    engine: {
      "badaspec.dat": "400",
      "badbranch.dat": "400",
      "baddate.dat": "486",
      "baddn.dat": "400",
      "badinv01.dat": "400",
      "badvers.dat": "505",
      "bcast.dat": "none",
      "bext01.dat": "420",
      "bigcode.dat": "none",
      "clerr.dat": "400",
      "cparam01.dat": "405",
      "cparam02.dat": "405",
      "dblreq.dat": "405",
      "esc01.dat": "486",
      "esc02.dat": "501",
      "escnull.dat": "405",
      "escruri.dat": "400",
      "insuf.dat": "400",
      "intmeth.dat": "501",
      "inv2543.dat": "400",
      "invut.dat": "486",
      "longreq.dat": "486",
      "ltgtruri.dat": "400",
      "lwsdisp.dat": "200",
      "lwsruri.dat": "400",
      "lwsstart.dat": "400",
      "mcl01.dat": "400",
      "mismatch01.dat": "400",
      "mismatch02.dat": "501",
      "mpart01.dat": "405",
      "multi01.dat": "400",
      "ncl.dat": "400",
      "noreason.dat": "none",
      "novelsc.dat": "416",
      "quotbal.dat": "400",
      "regaut01.dat": "405",
      "regbadct.dat": "400",
      "regescrt.dat": "405",
      "scalar02.dat": "400",
      "scalarlg.dat": "none",
      "sdp01.dat": "486",
      "semiuri.dat": "200",
      "transports.dat": "200",
      "trws.dat": "400",
      "unkscm.dat": "416",
      "unksm2.dat": "405",
      "unreason.dat": "none",
      "wsinv.dat": "481",
      "zeromf.dat": "200",
    },
    real: {
      "badaspec.dat": "200",
      "badbranch.dat": "200",
      "baddate.dat": "400",
      "badinv01.dat": "none",
      "badvers.dat": "none",
      "bext01.dat": "none",
      "esc02.dat": "none",
      "escruri.dat": "486",
      "intmeth.dat": "none",
      "inv2543.dat": "486",
      "longreq.dat": "none",
      "lwsruri.dat": "none",
      "lwsstart.dat": "none",
      "mismatch02.dat": "400",
      "mpart01.dat": "400",
      "novelsc.dat": "none",
      "regaut01.dat": "none",
      "scalar02.dat": "none",
      "trws.dat": "none",
      "unkscm.dat": "none",
    },
  },
  {
    id: "25.6",
    title: "messages of RFC 5118, final answer",
    slow: true,
    skipped: withoutMessages,
    run: async (world) => answersTo(world, "rfc5118"),
    engine: {
      "ipv4-mapped-ipv6": "486",
      "ipv6-bad": "400",
      "ipv6-bug-abnf-3-colons": "400",
      "ipv6-correct-abnf-2-colons": "200",
      "ipv6-good": "405",
      "ipv6-in-sdp": "486",
      "mult-ip-in-header": "481",
      "mult-ip-in-sdp": "486",
      "port-ambiguous": "405",
      "port-unambiguous": "405",
      "via-received-param-no-delim": "200",
      "via-received-param-with-delim": "481",
    },
    real: { "ipv6-bad": "none", "ipv6-bug-abnf-3-colons": "200" },
  },
  {
    id: "25.7",
    title: "an INVITE whose Contact has no host",
    run: async (world) => {
      let delivered = 0;
      const srf = await world.application((app) => {
        app.invite((_req, res) => {
          delivered += 1;
          res.send(486);
        });
      });
      const call = world.call();
      call.send("INVITE", { body: sdp(4000), contact: "<sip:alice@>" });
      const branch = call.lastBranch;
      const answer = await world.seen((one) => one.status >= 200 && one.method === "INVITE", 3_000);
      if (answer !== undefined) call.send("ACK", { branch, toTag: tagOf(answer.header("To")) });
      await world.heard(srf);
      return { answer: answer?.status ?? "none", "INVITEs delivered": delivered };
    },
    engine: { answer: 400, "INVITEs delivered": 0 },
  },
  {
    id: "25.8",
    title: "a 200 to our INVITE whose Contact has no host",
    run: async (world) => {
      const { srf, dialog, callee } = await world.calling();
      callee.reply(200, "OK", { body: sdp(4000), contact: "<sip:bob@>" });
      const ack = await world.seen((one) => one.method === "ACK", 3_000);
      const bye = await world.seen((one) => one.method === "BYE", 3_000);
      accept(world.peer, bye);
      const came = await outcome(dialog, world.afterPatienceMs);
      await world.heard(srf);
      return { ACK: ack !== undefined, BYE: bye !== undefined, "createUAC()": came };
    },
    engine: { ACK: true, BYE: true, "createUAC()": 500 },
    real: { ACK: false, BYE: false, "createUAC()": 408 },
  },
];
