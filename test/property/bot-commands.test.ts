import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { CommandDesk } from "../../src/bot/command-desk.ts";
import type { BotFormat } from "../../src/bot/envelope.ts";
import { readJson } from "../../src/bot/json.ts";
import { phoneTarget, uriTarget } from "../../src/bot/target.ts";
import type { TransferPolicy } from "../../src/bot/translate.ts";
import type { BotEvent } from "../../src/call/bot-event.ts";
import type { CallEvent } from "../../src/call/event.ts";
import { customHeaders } from "../../src/call/headers.ts";
import type { CallId, GatewayId, TransferId, TrunkId } from "../../src/call/ids.ts";

const policy: TransferPolicy = {
  tls: false,
  numberRefusal: () => null,
  allowsSipHost: (host) => host.length % 2 === 0,
  routeFor: (channel) => ({
    route: {
      trunk: "own" as TrunkId,
      gateways: ["own-1" as GatewayId],
      identity: "caller",
      retryWithBotNumber: false,
      sipUriVia: "direct",
      progressTimeoutMs: 10_000,
    },
    known: channel === null,
    identityHeaders: "allow",
    referFallback: true,
    referFollowed: true,
  }),
};

interface Desk {
  readonly desk: CommandDesk;
  readonly told: BotEvent[];
  readonly posted: CallEvent[];
  readonly faults: unknown[];
}

/** A desk whose call accepts every command. */
function deskOf(
  options: { readonly allow?: () => boolean; readonly holds?: boolean; readonly format?: BotFormat } = {},
): Desk {
  const told: BotEvent[] = [];
  const posted: CallEvent[] = [];
  const faults: unknown[] = [];
  const tell = (event: BotEvent): void => {
    told.push(event);
    if (event.event === "accepted" || event.event === "rejected") desk.settle(event);
  };
  const desk: CommandDesk = new CommandDesk({
    call: "call" as CallId,
    policy,
    format: options.format ?? "patchbay",
    mintTransferId: () => "t" as TransferId,
    tell,
    allow: options.allow ?? (() => true),
    onFault: (error) => faults.push(error),
    post(event) {
      posted.push(event);
      if (options.holds === false) return false;
      if (event.type === "bot.command") tell({ event: "accepted", commandId: event.command.commandId });
      if (event.type === "bot.invalidSwitch") {
        const { commandId, code, message, pointer } = event;
        tell({ event: "rejected", commandId, code, message, pointer });
      }
      return true;
    },
  });
  return { desk, told, posted, faults };
}

const answersOf = (told: readonly BotEvent[]): readonly BotEvent[] =>
  told.filter((event) => event.event === "accepted" || event.event === "rejected");

// What a bot may really send, with every field now and then replaced by anything.
const hostileKey = fc.constantFrom(
  "__proto__",
  "constructor",
  "prototype",
  "toJSON",
  "hasOwnProperty",
  "valueOf",
  "",
  "a/b~c",
);
const anything = fc.oneof(
  { weight: 3, arbitrary: fc.jsonValue({ maxDepth: 3 }) },
  fc.string({ unit: "binary", maxLength: 600 }),
  fc.constantFrom("\r\n", "\0", "1e999", "x@y", "sip:a@b;lr", "+1", "true", -1, 1e308, ""),
  fc.dictionary(fc.oneof(hostileKey, fc.string()), fc.jsonValue({ maxDepth: 1 }) as fc.Arbitrary<unknown>),
);
const mostly = (arbitrary: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> =>
  fc.oneof({ weight: 6, arbitrary }, anything);
const record = (fields: Record<string, fc.Arbitrary<unknown>>, requiredKeys: string[]): fc.Arbitrary<object> =>
  fc
    .tuple(
      fc.record(Object.fromEntries(Object.entries(fields).map(([name, arbitrary]) => [name, mostly(arbitrary)])), {
        requiredKeys: requiredKeys as never[],
      }),
      fc.dictionary(fc.oneof(hostileKey, fc.string({ maxLength: 20 })), anything, { maxKeys: 2 }),
    )
    .map(([known, extra]) => Object.assign(Object.create(null) as object, extra, known));
const ringPrompt = fc.oneof(
  record({ type: fc.constant("text"), text: fc.string({ unit: "binary" }) }, ["type", "text"]),
  record({ type: fc.constant("audio"), audioUrl: fc.webUrl() }, ["type", "audioUrl"]),
);
const target = record(
  {
    phoneNumber: fc.constant("100"),
    sipUri: fc.constant("ops@ok.example"),
    headers: fc.dictionary(fc.oneof(hostileKey, fc.string()), fc.string({ unit: "binary" })),
  },
  [],
);
const reply = fc.oneof(
  record(
    { type: fc.constant("text"), text: fc.string({ unit: "binary" }), tts: fc.string(), lang: fc.constant("ru") },
    ["type"],
  ),
  record({ type: fc.constant("audio"), audioUrl: fc.webUrl(), times: fc.integer() }, ["type"]),
  record(
    {
      type: fc.constant("switch"),
      phoneNumber: fc.oneof(fc.constant("8 (495) 123-45-67"), fc.integer()),
      sipUri: fc.oneof(fc.constant("ops@ok.example"), fc.emailAddress()),
      timeout: fc.oneof(fc.integer(), fc.double(), fc.constant("30")),
      headers: fc.dictionary(fc.oneof(hostileKey, fc.string()), fc.oneof(fc.string({ unit: "binary" }), fc.integer())),
      transferChannel: fc.string(),
      continueCall: fc.constantFrom(true, false, "true", "false", null),
      method: fc.constantFrom("invite", "refer", "transfer"),
      targets: fc.array(target, { maxLength: 11 }),
      strategy: fc.constantFrom("serial", "ring"),
      confirm: record({ prompt: ringPrompt, digit: fc.constant("1"), timeout: fc.integer() }, ["prompt"]),
      maxTalkSeconds: fc.double(),
      duringRing: fc.array(ringPrompt, { maxLength: 3 }),
    },
    ["type"],
  ),
  record({ type: fc.constant("duringRing"), prompts: fc.array(ringPrompt, { maxLength: 3 }) }, ["type"]),
  record({ type: fc.constantFrom("stop", "switchCancel", "hangup", "take", "release", "record", "dtmf", "dance") }, [
    "type",
  ]),
);
const command = record(
  { commandId: fc.string({ maxLength: 3 }), worker: fc.string(), replies: fc.array(reply, { maxLength: 5 }) },
  ["replies"],
);
/** The same from a bot of the JAICP platform. */
const response = record({ data: record({ replies: fc.array(reply, { maxLength: 5 }) }, ["replies"]) }, ["data"]);
const jsonText = fc.oneof(command, response, anything).map((value) => JSON.stringify(value) ?? "undefined");
/** Text with a few characters put in, cut out or doubled. */
const damaged = fc
  .tuple(
    jsonText,
    fc.array(fc.tuple(fc.nat(), fc.string({ unit: "binary", maxLength: 3 }), fc.nat(4)), { maxLength: 3 }),
  )
  .map(([text, edits]) =>
    edits.reduce((now, [at, insert, cut]) => {
      const place = now.length === 0 ? 0 : at % now.length;
      return now.slice(0, place) + insert + now.slice(place + cut);
    }, text),
  );
const wireBytes = fc.oneof(
  { weight: 4, arbitrary: jsonText.map((text) => Buffer.from(text)) },
  { weight: 3, arbitrary: damaged.map((text) => Buffer.from(text)) },
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
);

let before: readonly PropertyKey[] = [];
beforeAll(() => {
  before = Reflect.ownKeys(Object.prototype);
});
afterAll(() => {
  expect(Reflect.ownKeys(Object.prototype)).toEqual(before);
});

describe("whatever a bot sends", () => {
  it("gets exactly one answer, never throws, and leaves every prototype alone", () => {
    const seen = new Map<string, number>();
    fc.assert(
      fc.property(wireBytes, fc.constantFrom("patchbay" as const, "jaicp" as const), (bytes, format) => {
        const { desk, told, posted, faults } = deskOf({ format });
        desk.receive(bytes);
        expect(answersOf(told)).toHaveLength(1);
        expect(posted.length).toBeLessThanOrEqual(1);
        const kind = posted[0]?.type ?? told.map((event) => (event.event === "rejected" ? event.code : "")).join("");
        seen.set(kind, (seen.get(kind) ?? 0) + 1);
        expect(faults).toEqual([]);
        expect(told.length).toBeLessThanOrEqual(41);
        for (const event of told) {
          if (event.event !== "rejected" && event.event !== "warning") continue;
          expect(event.message.length).toBeLessThanOrEqual(250);
          expect(event.pointer?.length ?? 0).toBeLessThanOrEqual(250);
        }
        expect(Object.getPrototypeOf({})).toBe(Object.prototype);
        expect(Reflect.ownKeys(Object.prototype)).toHaveLength(before.length);
      }),
      // Found once: a text whose place holds something with a length of its own.
      { numRuns: 2_000, examples: [[Buffer.from('{"worker":{"length":{}},"replies":[]}'), "patchbay"]] },
    );
    // Every way through was really taken.
    for (const kind of [
      "bot.command",
      "bot.invalidSwitch",
      "bad_json",
      "invalid_command",
      "unknown_reply",
      "invalid_reply",
    ]) {
      expect(seen.get(kind) ?? 0, kind).toBeGreaterThan(10);
    }
  });

  it("is executed once however often it is repeated, and every repeat gets the first answer", () => {
    fc.assert(
      fc.property(fc.array(command, { minLength: 1, maxLength: 8 }), fc.infiniteStream(fc.nat()), (commands, order) => {
        const { desk, told, posted } = deskOf();
        const sent = commands.flatMap((one) => [one, one, one]);
        const shuffled = sent.map((one) => ({ one, key: order.next().value as number })).sort((a, b) => a.key - b.key);
        const firsts = new Map<string, BotEvent>();
        for (const { one } of shuffled) {
          const from = told.length;
          desk.receive(Buffer.from(JSON.stringify(one)));
          const [answer, ...more] = answersOf(told.slice(from));
          expect(more).toEqual([]);
          if (answer === undefined || !("commandId" in answer) || answer.commandId === null) continue;
          const first = firsts.get(answer.commandId);
          if (first === undefined) firsts.set(answer.commandId, answer);
          else expect(answer).toEqual(first);
        }
        const ids = posted.map((event) =>
          event.type === "bot.command"
            ? event.command.commandId
            : event.type === "bot.invalidSwitch"
              ? event.commandId
              : "",
        );
        expect(new Set(ids).size).toBe(ids.length);
      }),
      { numRuns: 200 },
    );
  });

  it("is rejected, not executed, beyond the rate limit and when the call is gone", () => {
    fc.assert(
      fc.property(wireBytes, fc.constantFrom("limited", "gone", "ended"), (bytes, why) => {
        const { desk, told, posted } = deskOf({ allow: () => why !== "limited", holds: why !== "gone" });
        if (why === "ended") desk.end();
        desk.receive(bytes);
        expect(answersOf(told)).toHaveLength(1);
        expect(answersOf(told)[0]?.event).toBe("rejected");
        if (why !== "gone") expect(posted).toEqual([]);
      }),
      { numRuns: 500 },
    );
  });
});

describe("the JSON reader", () => {
  it("reads what JSON.parse reads, and refuses what it refuses", () => {
    fc.assert(
      fc.property(damaged, (text) => {
        let value: unknown;
        let valid = true;
        try {
          value = JSON.parse(text);
        } catch {
          valid = false;
        }
        const outcome = readJson(Buffer.from(text));
        if (!valid) {
          expect(outcome.ok).toBe(false);
        } else if (outcome.ok) {
          // A lone half of a character does not survive UTF-8 and so never comes here.
          if (!/\p{Surrogate}/u.test(text)) expect(JSON.stringify(outcome.value)).toBe(JSON.stringify(value));
        } else if (outcome.code === "bad_json") {
          expect(value === null || typeof value !== "object" || Array.isArray(value)).toBe(true);
        }
      }),
      { numRuns: 1_000 },
    );
  });
});

describe("targets and headers", () => {
  const uriText = fc.oneof(
    fc.string({ unit: "binary" }),
    fc
      .tuple(
        fc.constantFrom("", "sip:", "SIP:", "sips:", "tel:"),
        fc.oneof(fc.string(), fc.constantFrom("ops", "%41%0d", "a;b", "+7")),
        fc.constantFrom("@", "", "@@"),
        fc.oneof(
          fc.domain(),
          fc.ipV4(),
          fc.ipV6().map((ip) => `[${ip}]`),
          fc.string(),
          fc.ipV4Extended(),
        ),
        fc.oneof(
          fc.constant(""),
          fc.nat(70_000).map((port) => `:${port}`),
        ),
        fc.oneof(
          fc.constant(""),
          fc.string().map((text) => `;${text}`),
          fc.constantFrom(";transport=udp", ";lr", ";x=%0a", "?a=b"),
        ),
      )
      .map((parts) => parts.join("")),
  );

  it("an accepted URI is plain text that is safe in a header, and reads as itself", () => {
    const open = { allowsSipHost: () => true, tls: true };
    let accepted = 0;
    fc.assert(
      fc.property(uriText, (text) => {
        const outcome = uriTarget(text, open);
        if (!outcome.ok || outcome.target.kind !== "uri") return;
        accepted += 1;
        const { uri } = outcome.target;
        expect(uri).toMatch(/^sips?:[\x21-\x7e]+@[\x21-\x7e]+$/);
        expect(uri).not.toMatch(/[\s"<>\\?]|%0|%1|%7f/i);
        expect(uri).not.toMatch(/;(?:maddr|ttl|lr|method)(?:[;=]|$)/i);
        expect(uriTarget(uri, open)).toEqual(outcome);
      }),
      { numRuns: 4_000 },
    );
    expect(accepted).toBeGreaterThan(20);
  });

  it("an accepted number is nothing but a plus and 1 to 32 of 0-9 * #", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: "binary" }), fc.stringMatching(/^\+?[0-9*# ().-]{0,40}$/)), (text) => {
        const outcome = phoneTarget(text);
        if (outcome.ok && outcome.target.kind === "phone") expect(outcome.target.digits).toMatch(/^\+?[0-9*#]{1,32}$/);
      }),
      { numRuns: 2_000 },
    );
  });

  it("headers that pass are safe, unchanged and within the limits; all others are told, but for null", () => {
    const names = fc.oneof(hostileKey, fc.string(), fc.constantFrom("Via", "v", "X-A", "x-a", "Payload", "Diversion"));
    const values = fc.oneof(
      fc.string({ unit: "binary", maxLength: 600 }),
      fc.string(),
      fc.double(),
      fc.boolean(),
      fc.constant(null),
    );
    fc.assert(
      fc.property(fc.dictionary(names, values, { maxKeys: 60, noNullPrototype: false }), (input) => {
        const { headers, warnings } = customHeaders(input, { identityHeaders: "allow" });
        expect(headers.length).toBeLessThanOrEqual(32);
        for (const { name, value } of headers) {
          expect(name).toMatch(/^[A-Za-z0-9\-.!%*_+`'~]{1,64}$/);
          expect(value).not.toMatch(/[\p{Cc}\u2028\u2029]/u);
          expect(Buffer.byteLength(value)).toBeLessThanOrEqual(512);
          expect(value).toBe(String(input[name]));
        }
        const nulls = Object.values(input).filter((value) => value === null).length;
        expect(headers.length + warnings.length + nulls).toBe(Object.keys(input).length);
      }),
      { numRuns: 1_000 },
    );
  });
});
