import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { responseTo } from "../../src/engine/sip/answer.ts";
import type { SipRequest, SipResponse } from "../../src/engine/sip/message.ts";
import { defaultMessageLimits, parseMessage } from "../../src/engine/sip/parse.ts";
import type { TransactionLayer } from "../../src/engine/txn/index.ts";
import type { ManualClock } from "../unit/engine-clock.ts";
import { outgoing, peer, stack, targetOf, type WireTap } from "../unit/engine-wire-tap.ts";

// Two transaction layers joined by a network that loses, doubles and delays packets as fast-check wishes.
interface Packet {
  readonly lost: boolean;
  readonly doubled: boolean;
  readonly delayMs: number;
}

const packet: fc.Arbitrary<Packet> = fc.record({
  lost: fc.boolean(),
  doubled: fc.boolean(),
  delayMs: fc.integer({ min: 0, max: 900 }),
});

interface Joined {
  readonly clock: ManualClock;
  readonly client: TransactionLayer;
  readonly server: TransactionLayer;
}

function join(fates: readonly Packet[]): Joined {
  const near = stack();
  const far = stack();
  // One clock for both: the second stack's is never moved.
  const { clock } = near;
  let turn = 0;
  const link = (from: WireTap, to: WireTap): void => {
    from.forward = (bytes) => {
      const fate = fates[turn % fates.length] ?? { lost: false, doubled: false, delayMs: 0 };
      turn += 1;
      const copies = fate.lost ? 0 : fate.doubled ? 2 : 1;
      for (let copy = 0; copy < copies; copy += 1) {
        clock.after(fate.delayMs * (copy + 1), () => {
          const outcome = parseMessage(bytes, defaultMessageLimits, "datagram");
          if (outcome.ok) {
            to.onMessage(outcome.message, peer());
          }
        });
      }
    };
  };
  link(near.tap, far.tap);
  link(far.tap, near.tap);
  // The far side's own timers have to run on the same clock.
  const realAdvance = clock.advance.bind(clock);
  clock.advance = async (ms) => {
    for (let passed = 0; passed < ms; passed += 50) {
      await realAdvance(50);
      await far.clock.advance(50);
    }
  };
  return { clock, client: near.layer, server: far.layer };
}

const quiet = { client: 0, server: 0, timers: 0, faults: 0 };

describe("over a network that loses, doubles and reorders packets", () => {
  it("a non-INVITE request is served at most once, ends exactly once, and leaves nothing behind after 64*T1", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(packet, { minLength: 1, maxLength: 12 }), async (fates) => {
        const { clock, client, server } = join(fates);
        let served = 0;
        server.onRequest = (transaction, request) => {
          served += 1;
          transaction.respond(responseTo(request, 200, { toTag: "far" }));
        };
        const ends: string[] = [];
        client.request(outgoing("BYE"), targetOf(5_070), {
          response: (response) => ends.push(String(response.status)),
          timeout: () => ends.push("timeout"),
          transportError: () => ends.push("transport error"),
        });
        await clock.advance(32_100);
        expect(ends).toHaveLength(1);
        expect(served).toBeLessThanOrEqual(1);
        expect(ends[0] === "200" ? served : 1).toBe(1);
        await clock.advance(64_500);
        expect(client.stats()).toMatchObject(quiet);
        expect(server.stats()).toMatchObject(quiet);
      }),
      { numRuns: 60 },
    );
  });

  it("a refused INVITE is offered once, refused once, acknowledged, and leaves nothing behind", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(packet, { minLength: 1, maxLength: 12 }),
        fc.integer({ min: 0, max: 3_000 }),
        fc.boolean(),
        async (fates, ringMs, cancels) => {
          const { clock, client, server } = join(fates);
          let offered = 0;
          const refuse = (request: SipRequest, respond: (response: SipResponse) => boolean, status: number): void => {
            respond(responseTo(request, status, { toTag: "far" }));
          };
          server.onRequest = (transaction, request) => {
            if (request.method === "CANCEL") {
              refuse(request, (one) => transaction.respond(one), transaction.cancels === undefined ? 481 : 200);
              const { cancels: invite } = transaction;
              if (invite !== undefined) {
                refuse(invite.request, (one) => invite.respond(one), 487);
              }
              return;
            }
            offered += 1;
            clock.after(ringMs, () => {
              refuse(request, (one) => transaction.respond(one), 486);
            });
          };
          const ends: string[] = [];
          const acked: string[] = [];
          server.onAck = (request) => acked.push(request.headers.get("CSeq") ?? "");
          const transaction = client.request(outgoing("INVITE"), targetOf(5_070), {
            response: (response) => {
              if (response.status >= 200) {
                ends.push(String(response.status));
              }
            },
            timeout: () => ends.push("timeout"),
            transportError: () => ends.push("transport error"),
          });
          if (cancels) {
            clock.after(700, () => {
              transaction.cancel();
            });
          }
          await clock.advance(70_000);
          // A final response may be lost for good (the network can lose everything); then the user agent gives up.
          expect(ends.length).toBeLessThanOrEqual(1);
          if (ends.length === 0) {
            expect(transaction.state).toBe("proceeding");
            transaction.abandon();
          }
          expect(["486", "487", "timeout", undefined]).toContain(ends[0]);
          expect(offered).toBeLessThanOrEqual(1);
          await clock.advance(64_500);
          // ACKs that come after the transaction is gone are strays; none of them is answered, and nothing stays.
          expect(client.stats()).toMatchObject(quiet);
          expect(server.stats()).toMatchObject(quiet);
          expect(acked.every((one) => one === "1 ACK")).toBe(true);
        },
      ),
      { numRuns: 60 },
    );
  });
});
