import { describe, expect, it } from "vitest";

import { sipTimers } from "../../src/engine/timers.ts";
import { inviteClientTable } from "../../src/engine/txn/ict.ts";
import { inviteServerTable } from "../../src/engine/txn/ist.ts";
import { type Effect, step, type Table } from "../../src/engine/txn/machine.ts";
import { clientTable } from "../../src/engine/txn/nict.ts";
import { serverTable } from "../../src/engine/txn/nist.ts";

// Every arrow of RFC 3261 figures 5 to 8 with the changes of RFC 6026, written down a second time, from the figures.
// "T1" stands for 500 ms, "64*T1" for 32 s, "T2" for 4 s, "T4" for 5 s; UDP unless the line says TCP.
const timers = sipTimers(500);

function text(effect: Effect): string {
  if (effect.type === "startTimer") {
    return `start ${effect.timer} ${effect.ms}`;
  }
  return effect.type === "stopTimer" ? `stop ${effect.timer}` : effect.type;
}

interface Arrow {
  readonly from: string;
  readonly event: string;
  readonly to: string;
  readonly effects: string;
  readonly firedMs?: number;
  readonly tcp?: true;
}

function arrows(lines: string): Arrow[] {
  return lines
    .trim()
    .split("\n")
    .map((line) => {
      const match = /^\s*(\w+) --(.+?)(?: after (\d+))?( on TCP)?--> (\w+): (.*)$/.exec(line);
      if (match === null) {
        throw new Error(`no arrow: ${line}`);
      }
      const [, from = "", event = "", fired, tcp, to = "", effects = ""] = match;
      return {
        from,
        event,
        to,
        effects,
        ...(fired === undefined ? {} : { firedMs: Number(fired) }),
        ...(tcp === undefined ? {} : { tcp: true as const }),
      };
    });
}

function check(name: string, table: Table<string, string>, lines: string): void {
  describe(name, () => {
    const all = arrows(lines);
    for (const { from, event, to, effects, firedMs, tcp } of all) {
      const after = firedMs === undefined ? "" : ` after ${firedMs}`;
      it(`${from} --${event}${after}${tcp === true ? " on TCP" : ""}--> ${to}: ${effects}`, () => {
        const next = step(table, from, event, { timers, reliable: tcp === true, firedMs });
        expect(next.state).toBe(to);
        expect(next.effects.map(text).join(", ") || "-").toBe(effects);
      });
    }

    it("has no other arrows", () => {
      const known = new Set(all.map(({ from, event }) => `${from} ${event}`));
      const present = Object.entries(table).flatMap(([state, rows]) =>
        Object.keys(rows).map((event) => `${state} ${event}`),
      );
      expect(new Set(present)).toEqual(known);
    });

    it("ignores every event in terminated and every event it does not know", () => {
      const timing = { timers, reliable: false };
      expect(Object.keys(table["terminated"] ?? { missing: 1 })).toEqual([]);
      for (const { event } of all) {
        expect(step(table, "terminated", event, timing)).toEqual({ state: "terminated", effects: [] });
      }
    });
  });
}

check(
  "INVITE client transaction (RFC 3261 figure 5, RFC 6026 figure 8)",
  inviteClientTable,
  `
  initial --start--> calling: start A 500, start B 32000, send
  initial --start on TCP--> calling: start B 32000, send
  calling --timer A after 500--> calling: start A 1000, send
  calling --timer A after 1000--> calling: start A 2000, send
  calling --timer A after 8000--> calling: start A 16000, send
  calling --timer B--> terminated: reportTimeout
  calling --transport error--> terminated: reportTransportError
  calling --1xx--> proceeding: stop A, stop B, passUp
  calling --2xx--> accepted: stop A, stop B, start M 32000, passUp
  calling --2xx on TCP--> accepted: stop A, stop B, start M 32000, passUp
  calling --3xx-6xx--> completed: stop A, stop B, start D 32000, sendAck, passUp
  calling --3xx-6xx on TCP--> completed: stop A, stop B, start D 0, sendAck, passUp
  proceeding --1xx--> proceeding: passUp
  proceeding --2xx--> accepted: start M 32000, passUp
  proceeding --3xx-6xx--> completed: start D 32000, sendAck, passUp
  proceeding --3xx-6xx on TCP--> completed: start D 0, sendAck, passUp
  completed --3xx-6xx--> completed: sendAck
  completed --2xx--> completed: passUpStray
  completed --transport error--> terminated: reportTransportError
  completed --timer D--> terminated: -
  accepted --2xx--> accepted: passUp
  accepted --timer M--> terminated: -
  `,
);

check(
  "non-INVITE client transaction (RFC 3261 figure 6)",
  clientTable,
  `
  initial --start--> trying: start E 500, start F 32000, send
  initial --start on TCP--> trying: start F 32000, send
  trying --timer E after 500--> trying: start E 1000, send
  trying --timer E after 2000--> trying: start E 4000, send
  trying --timer E after 4000--> trying: start E 4000, send
  trying --timer F--> terminated: reportTimeout
  trying --transport error--> terminated: reportTransportError
  trying --1xx--> proceeding: passUp
  trying --2xx--> completed: stop E, stop F, start K 5000, passUp
  trying --2xx on TCP--> completed: stop E, stop F, start K 0, passUp
  trying --3xx-6xx--> completed: stop E, stop F, start K 5000, passUp
  proceeding --timer E after 500--> proceeding: start E 4000, send
  proceeding --timer E after 4000--> proceeding: start E 4000, send
  proceeding --timer F--> terminated: reportTimeout
  proceeding --transport error--> terminated: reportTransportError
  proceeding --1xx--> proceeding: passUp
  proceeding --2xx--> completed: stop E, stop F, start K 5000, passUp
  proceeding --3xx-6xx--> completed: stop E, stop F, start K 5000, passUp
  proceeding --3xx-6xx on TCP--> completed: stop E, stop F, start K 0, passUp
  completed --timer K--> terminated: -
  `,
);

check(
  "INVITE server transaction (RFC 3261 figure 7, RFC 6026 figure 5)",
  inviteServerTable,
  `
  proceeding --request--> proceeding: send
  proceeding --answer 1xx--> proceeding: send
  proceeding --answer 2xx--> accepted: start L 32000, send
  proceeding --answer 2xx on TCP--> accepted: start L 32000, send
  proceeding --answer 3xx-6xx--> completed: start G 500, start H 32000, send
  proceeding --answer 3xx-6xx on TCP--> completed: start H 32000, send
  proceeding --transport error--> proceeding: reportTransportError
  completed --request--> completed: send
  completed --timer G after 500--> completed: start G 1000, send
  completed --timer G after 2000--> completed: start G 4000, send
  completed --timer G after 4000--> completed: start G 4000, send
  completed --timer H--> terminated: reportTimeout
  completed --ACK--> confirmed: stop G, stop H, start I 5000
  completed --ACK on TCP--> confirmed: stop G, stop H, start I 0
  completed --transport error--> completed: reportTransportError
  accepted --request--> accepted: -
  accepted --answer 2xx--> accepted: send
  accepted --ACK--> accepted: passUp
  accepted --transport error--> accepted: reportTransportError
  accepted --timer L--> terminated: -
  confirmed --ACK--> confirmed: -
  confirmed --timer I--> terminated: -
  `,
);

check(
  "non-INVITE server transaction (RFC 3261 figure 8)",
  serverTable,
  `
  trying --request--> trying: -
  trying --answer 1xx--> proceeding: send
  trying --answer 2xx--> completed: start J 32000, send
  trying --answer 2xx on TCP--> completed: start J 0, send
  trying --answer 3xx-6xx--> completed: start J 32000, send
  proceeding --request--> proceeding: send
  proceeding --answer 1xx--> proceeding: send
  proceeding --answer 2xx--> completed: start J 32000, send
  proceeding --answer 3xx-6xx--> completed: start J 32000, send
  proceeding --transport error--> terminated: reportTransportError
  completed --request--> completed: send
  completed --timer J--> terminated: -
  completed --transport error--> terminated: reportTransportError
  `,
);
