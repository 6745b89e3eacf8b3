import { afterEach, describe, expect, it } from "vitest";

import { silentLog } from "../../src/engine/options.ts";
import { responseTo } from "../../src/engine/sip/answer.ts";
import { Headers, SipRequest } from "../../src/engine/sip/message.ts";
import { createSystemClock, sipTimers } from "../../src/engine/timers.ts";
import { type Target, TransportLayer } from "../../src/engine/transport/index.ts";
import { TransactionLayer } from "../../src/engine/txn/index.ts";
import { waitFor } from "../support/wait.ts";
import { seededRandom } from "../unit/engine-clock.ts";

const errors: unknown[] = [];
const systemClock = createSystemClock((error) => errors.push(error));
const opened: TransportLayer[] = [];

afterEach(async () => {
  for (const transport of opened.splice(0)) {
    await transport.close();
    expect(transport.stats()).toMatchObject({ udpSockets: 0, tcpConnections: 0, faults: 0 });
  }
  expect(errors.splice(0)).toEqual([]);
});

async function open(): Promise<TransportLayer> {
  const transport = new TransportLayer({
    listen: [
      { protocol: "udp", address: "127.0.0.1", port: 0 },
      { protocol: "tcp", address: "127.0.0.1", port: 0 },
    ],
    sources: "any",
    clock: systemClock,
    log: silentLog,
  });
  opened.push(transport);
  await transport.start();
  return transport;
}

const portOf = (transport: TransportLayer): number => transport.listeners()[0]?.port ?? 0;

describe("two engines' lower halves on real sockets", () => {
  for (const protocol of ["udp", "tcp"] as const) {
    it(`500 requests and 200 INVITEs over ${protocol} all end, and 64*T1 later nothing is left`, async () => {
      const [near, far] = [await open(), await open()];
      const layers = [near, far].map(
        (rig) =>
          new TransactionLayer({
            transport: rig,
            // Nobody may time out because the machine stood still.
            timers: sipTimers(150),
            clock: systemClock,
            random: seededRandom(portOf(rig)),
            log: silentLog,
          }),
      );
      const [client, server] = layers;
      if (client === undefined || server === undefined) {
        throw new Error("two layers were made");
      }
      let served = 0;
      server.onRequest = (transaction, one) => {
        served += 1;
        const status = one.method === "INVITE" ? 486 : 200;
        transaction.respond(responseTo(one, status, { toTag: `t${served}` }));
      };
      const target: Target = { protocol, address: "127.0.0.1", port: portOf(far) };
      const ends = new Map<string, number>();
      const count = (what: string): void => {
        ends.set(what, (ends.get(what) ?? 0) + 1);
      };
      for (let index = 0; index < 700; index += 1) {
        const method = index < 500 ? "OPTIONS" : "INVITE";
        const headers = new Headers([
          { name: "From", value: `<sip:a@127.0.0.1>;tag=${index}` },
          { name: "To", value: "<sip:b@127.0.0.1>" },
          { name: "Call-ID", value: `call-${index}` },
          { name: "CSeq", value: `1 ${method}` },
        ]);
        client.request(new SipRequest(method, "sip:b@127.0.0.1", headers), target, {
          response: ({ status }) => {
            if (status >= 200) {
              count(`${method} ${status}`);
            }
          },
          timeout: () => {
            count("timeout");
          },
          transportError: () => {
            count("transport error");
          },
        });
      }
      await waitFor(() => [...ends.values()].reduce((sum, one) => sum + one, 0) === 700, {
        what: "700 ends",
        timeoutMs: 25_000,
      });
      expect(Object.fromEntries(ends)).toEqual({ "OPTIONS 200": 500, "INVITE 486": 200 });
      expect(served).toBe(700);
      for (const layer of layers) {
        await waitFor(() => layer.stats().client + layer.stats().server + layer.stats().timers === 0, {
          what: "empty maps",
          timeoutMs: 25_000,
        });
        expect(layer.stats().faults).toBe(0);
      }
      expect(near.stats().tcpConnections).toBe(protocol === "tcp" ? 1 : 0);
    });
  }
});
