import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { refusalTo, responseTo } from "../../src/engine/sip/answer.ts";
import { SipRequest } from "../../src/engine/sip/message.ts";
import { defaultMessageLimits, parseMessage } from "../../src/engine/sip/parse.ts";
import { StreamFramer } from "../../src/engine/sip/stream.ts";
import type { ServerTransaction } from "../../src/engine/txn/index.ts";
import { parseAppMessage, textForApp } from "../../src/engine/ua/headers.ts";
import { encodeFrame, FrameDecoder } from "../../src/engine/wire/frame.ts";
import { corpus, mutate, mutation } from "../support/sip-corpus.ts";
import { seededRandom } from "../unit/engine-clock.ts";
import { answerTo, incoming, outgoing, peer, stack, targetOf } from "../unit/engine-wire-tap.ts";

// 100,000 cases over the parser, the wire protocol and the transactions. Half of them are the same in every run, from the
// seeds below, and half are new; fast-check prints the seed and the path of whatever fails. Add a seed that found
// something to the list, and the case itself to the `examples` of its property.

const keptSeeds: readonly number[] = [3_261, 4_475, 5_118, 20_261_122];

/** One property with that many cases: half from the kept seeds, half from a seed of this run. */
function fuzz<T extends [unknown, ...unknown[]]>(
  runs: number,
  property: fc.IAsyncProperty<T> | fc.IProperty<T>,
  examples: T[] = [],
): () => Promise<void> {
  return async () => {
    for (const seed of keptSeeds) {
      await fc.assert(property, { seed, numRuns: runs / 2 / keptSeeds.length, examples });
    }
    await fc.assert(property, { numRuns: runs / 2 });
  };
}

const seeds = corpus();
const source = { address: "192.0.2.200", port: 5_062 };
const random = seededRandom();
const damaged = fc
  .tuple(fc.constantFrom(...seeds), fc.array(mutation, { minLength: 1, maxLength: 8 }))
  .map(([bytes, changes]) => mutate(bytes, changes));

// Tabs are blanks in SIP.
const control = /(?!\t)\p{Cc}/u;

describe("the parser", () => {
  it(
    "60,000 messages: what is accepted is written so that it reads the same, what is refused is answered by one sound line",
    fuzz(
      60_000,
      fc.property(damaged, fc.constantFrom("datagram" as const, "stream" as const), (bytes, transport) => {
        const outcome = parseMessage(bytes, defaultMessageLimits, transport);
        if (outcome.ok) {
          const written = outcome.message.toBuffer();
          const again = parseMessage(written, defaultMessageLimits, transport);
          expect(again.ok && again.message.toBuffer().equals(written)).toBe(true);
          const [head = ""] = textForApp(outcome.message).toString("utf8").split("\r\n\r\n", 1);
          expect(head.replaceAll("\r\n", "")).not.toMatch(control);
        } else if (outcome.answerable !== undefined) {
          const answer = refusalTo(outcome.answerable, source, random).toBuffer().toString("utf8");
          expect(answer).toMatch(/^SIP\/2\.0 [45]\d\d [A-Za-z0-9 -]+\r\n(?:[^\r\n]+\r\n)+\r\n$/);
        }
      }),
    ),
  );

  it(
    "10,000 streams: nothing is lost, and after a lost place nothing more is read",
    fuzz(
      10_000,
      fc.property(
        fc.array(damaged, { minLength: 1, maxLength: 3 }),
        fc.integer({ min: 1, max: 500 }),
        (messages, size) => {
          const stream = Buffer.concat(messages);
          const framer = new StreamFramer(defaultMessageLimits);
          let broken = false;
          for (let at = 0; at < stream.length; at += size) {
            for (const piece of framer.push(stream.subarray(at, at + size))) {
              expect(broken).toBe(false);
              broken = piece.type === "broken";
              if (piece.type === "message") {
                parseMessage(piece.bytes, defaultMessageLimits, "stream");
              }
            }
          }
        },
      ),
    ),
  );
});

describe("the wire protocol", () => {
  it(
    "10,000 frames: every frame comes out as it went in, however it is cut, and damage ends the stream",
    fuzz(
      10_000,
      fc.property(
        fc.array(fc.array(fc.stringMatching(/^[^|\r\n]*$/), { minLength: 1, maxLength: 6 }), {
          minLength: 1,
          maxLength: 5,
        }),
        fc.integer({ min: 1, max: 40 }),
        fc.option(mutation),
        (frames, size, change) => {
          const sound = Buffer.concat(
            frames.filter((tokens) => tokens.join("|") !== "").map((tokens) => encodeFrame(tokens)),
          );
          const bytes = change === null ? sound : mutate(sound, [change]);
          const decoder = new FrameDecoder(4_096);
          const got: (readonly string[])[] = [];
          let failed = false;
          for (let at = 0; at < bytes.length; at += size) {
            const { messages, error } = decoder.push(bytes.subarray(at, at + size));
            expect(failed && messages.length > 0).toBe(false);
            failed ||= error !== undefined;
            got.push(...messages.map(({ tokens }) => tokens));
            expect(decoder.pendingBytes).toBeLessThanOrEqual(4_096);
          }
          if (change === null) {
            expect(failed).toBe(false);
            expect(got).toEqual(
              frames
                .filter((tokens) => tokens.join("|") !== "")
                .map((tokens) => Buffer.from(tokens.join("|")).toString().split("|")),
            );
          }
        },
      ),
    ),
  );

  it(
    "10,000 messages of an application: none throws, and no control character gets through",
    fuzz(
      10_000,
      fc.property(damaged, (bytes) => {
        const outcome = parseAppMessage(bytes);
        if (outcome.ok) {
          for (const { name, value } of outcome.message.lines) {
            expect(`${name}: ${value}`).not.toMatch(control);
          }
          if (outcome.message.kind === "request") {
            expect(outcome.message.uri).not.toMatch(control);
          }
        }
      }),
    ),
  );
});

// What may happen to a transaction layer, from all of its sides.
const step = fc.oneof(
  fc.record({
    type: fc.constant("request" as const),
    method: fc.constantFrom("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS"),
    branch: fc.constantFrom("z9hG4bKa", "z9hG4bKb", "old"),
    cseq: fc.integer({ min: 1, max: 3 }),
    toTag: fc.constantFrom(undefined, "ours", "other"),
    port: fc.constantFrom(5_070, 5_071),
  }),
  fc.record({
    type: fc.constant("answer" as const),
    which: fc.nat(5),
    status: fc.constantFrom(100, 180, 200, 302, 401, 486, 503, 603),
  }),
  fc.record({ type: fc.constant("send" as const), method: fc.constantFrom("INVITE", "BYE", "OPTIONS") }),
  fc.record({
    type: fc.constant("response" as const),
    which: fc.nat(5),
    status: fc.constantFrom(100, 183, 200, 404, 487, 699),
  }),
  fc.record({ type: fc.constant("cancel" as const), which: fc.nat(5) }),
  fc.record({ type: fc.constant("wait" as const), ms: fc.constantFrom(1, 200, 500, 4_000, 32_000) }),
);

describe("the transactions", () => {
  it(
    "10,000 histories: no callback fails, and when all is over nothing stays",
    fuzz(
      10_000,
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 12 }), fc.boolean(), async (steps, named) => {
        const { clock, tap, layer } = stack(undefined, 500, named ? ["192.0.2.0/24"] : "any");
        const served: ServerTransaction[] = [];
        layer.onRequest = (transaction) => {
          served.push(transaction);
        };
        const sent: ReturnType<typeof layer.request>[] = [];
        for (const one of steps) {
          switch (one.type) {
            case "request": {
              const { type: _type, method, port, toTag, ...fields } = one;
              tap.onMessage(
                incoming(method, { ...fields, ...(toTag === undefined ? {} : { toTag }) }),
                peer("udp", "192.0.2.9", port),
              );
              break;
            }
            case "answer": {
              const transaction = served[one.which];
              transaction?.respond(responseTo(transaction.request, one.status, { toTag: "ours" }));
              break;
            }
            case "send":
              sent.push(
                layer.request(outgoing(one.method), targetOf(5_070), {
                  response: () => undefined,
                  timeout: () => undefined,
                  transportError: () => undefined,
                }),
              );
              break;
            case "response": {
              const request = sent[one.which]?.request;
              if (request instanceof SipRequest) {
                tap.onMessage(answerTo(request, one.status), peer());
              }
              break;
            }
            case "cancel":
              sent[one.which]?.cancel();
              break;
            case "wait":
              await clock.advance(one.ms);
          }
        }
        // The users do their part: whatever is open is answered, and what rings for ever is given up.
        for (const transaction of served) {
          transaction.respond(responseTo(transaction.request, 486, { toTag: "ours" }));
        }
        for (const transaction of sent) {
          transaction.abandon();
        }
        await clock.advance(100_000);
        expect(layer.stats()).toMatchObject({ client: 0, server: 0, timers: 0, faults: 0 });
      }),
    ),
  );
});
