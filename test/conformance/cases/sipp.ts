// SIPp as the peer, one call flow for each direction: drachtio.md §7.4, 3 and 6.
import { fileURLToPath } from "node:url";

import { sdp } from "../../integration/engine-support.ts";
import { runSipp, Sipp } from "../../support/sipp.ts";
import { type Case } from "../case.ts";
import { outcome, type SrfMessage, type SrfReply } from "../world.ts";

const scenario = (name: string): string =>
  fileURLToPath(new URL(`../../integration/sipp/engine/${name}.xml`, import.meta.url));

// SIPp takes no answer by its CSeq, and some repetitions for unexpected: on a slow machine nothing is to be repeated.
const t1Ms = 250;

export const sippCases: readonly Case[] = [
  {
    id: "3.3",
    title: "SIPp calls: 180, 200, ACK, INFO, re-INVITE, BYE, five times",
    t1Ms,
    run: async (world) => {
      const ended: string[] = [];
      await world.application((app) => {
        app.invite((req, res) => {
          res.send(180);
          void app.createUAS(req, res, { localSdp: sdp(5000) }).then((dialog) => {
            dialog.on("info", (_info: SrfMessage, answer: SrfReply) => {
              answer.send(200);
            });
            dialog.on("destroy", (bye: SrfMessage) => ended.push(bye.get("Call-ID")));
          });
        });
      });
      const result = await runSipp({
        scenario: scenario("caller"),
        target: `127.0.0.1:${world.sipPort}`,
        calls: 5,
        callsPerSecond: 10,
      });
      return { "SIPp is content": result.exitCode === 0, "calls ended": new Set(ended).size };
    },
    engine: { "SIPp is content": true, "calls ended": 5 },
  },
  {
    id: "6.8",
    title: "SIPp is called: 180, 200, ACK, BYE, five times",
    t1Ms,
    run: async (world) => {
      const srf = await world.application();
      await using callee = await Sipp.start({ scenario: scenario("callee"), calls: 5 });
      const outcomes: (string | number)[] = [];
      for (let count = 0; count < 5; count += 1) {
        const calling = srf.createUAC(`sip:callee@127.0.0.1:${callee.port}`, { localSdp: sdp(5000) });
        outcomes.push(await outcome(calling, 10_000));
        outcomes.push(await outcome((await calling).destroy(), 10_000));
      }
      const result = await callee.finished();
      return {
        "SIPp is content": result.exitCode === 0,
        "createUAC() and destroy()": [...new Set(outcomes)].join(" "),
      };
    },
    engine: { "SIPp is content": true, "createUAC() and destroy()": "success" },
  },
];
