import { readFileSync } from "node:fs";
import { describe, expect, it, test } from "vitest";
import { parse } from "yaml";
import { outdatedFiles } from "../../scripts/generate-docs.ts";
import type { WireEvent, transferCauses } from "../../src/bot/contract.ts";
import { eventSchema, eventSchemas, replySchemas } from "../../src/bot/contract.ts";
import type { BotEvent, TransferCause } from "../../src/call/bot-event.ts";

const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");

describe("what is generated from the code", () => {
  it("is current (if not: npm run docs)", () => {
    expect(outdatedFiles()).toEqual([]);
  });

  it("names every event and every reply in the reference page", () => {
    const page = read("docs/bot-contract.md");
    for (const name of [...Object.keys(eventSchemas), ...Object.keys(replySchemas)]) {
      expect(page).toContain(`### \`${name}\``);
    }
  });

  test.each(["docs/asyncapi.yaml", "docs/bot-contract.schema.json"])("%s refers only to what is in it", (path) => {
    const document: unknown = parse(read(path));
    const references: string[] = [];
    JSON.stringify(document, (key, value: unknown) => {
      if (key === "$ref") references.push(value as string);
      return value;
    });
    expect(references.length).toBeGreaterThan(1);
    for (const reference of references) {
      const parts = reference.replace(/^#\//, "").split("/");
      const found = parts.reduce<unknown>(
        (node, part) => (node as Record<string, unknown> | undefined)?.[part],
        document,
      );
      expect(found, reference).toBeDefined();
    }
  });

  it("describes every field of every event and reply", () => {
    const document = JSON.parse(read("docs/bot-contract.schema.json"));
    const { event, command } = document.$defs;
    const members = [...event.oneOf, ...command.properties.replies.items.oneOf];
    expect(members).toHaveLength(Object.keys(eventSchemas).length + Object.keys(replySchemas).length);
    for (const member of members) {
      for (const [name, field] of Object.entries<{ description?: string }>(member.properties)) {
        if (name !== "type") expect(field.description, `${member.title}.${name}`).toBeTruthy();
      }
    }
  });
});

describe("the contract and the core's own words", () => {
  type Envelope = "v" | "eventId" | "seq" | "time" | "botId" | "callId" | "replyTo" | "caller" | "called";
  /** Without "and any other key", which the core does not have. */
  type Bare<Value> = Value extends readonly (infer Item)[]
    ? readonly Bare<Item>[]
    : Value extends object
      ? { [Key in keyof Value as string extends Key ? never : Key]: Bare<Value[Key]> }
      : Value;
  type WireBody = WireEvent extends infer Event ? (Event extends unknown ? Omit<Bare<Event>, Envelope> : never) : never;

  it("agree: whatever the core publishes is an event of the contract", () => {
    // The assignment is the test: it does not compile when a key or a value differs.
    const toWire = (event: BotEvent): WireBody => event;
    const cause = (known: (typeof transferCauses)[number]): TransferCause => known;
    const back = (known: TransferCause): (typeof transferCauses)[number] => known;
    expect([typeof toWire, typeof cause, typeof back]).toEqual(["function", "function", "function"]);
  });

  it("takes the examples of the design for what they are", () => {
    const envelope = {
      v: 1,
      eventId: "01J:3",
      seq: 3,
      time: "2026-11-22T17:14:40.459Z",
      botId: "237-test-237-VDQ-28334674",
      callId: "01J",
      replyTo: "pb:{237-test-237-VDQ-28334674}:call:01J:commands",
      caller: "79991112233",
      called: "74951234567",
    };
    const transfer = {
      ...envelope,
      event: "transfer",
      transferStatus: { status: "SUCCESS", hangup: false, number: "79123456789" },
      transferDetails: {
        transferId: "01J",
        cause: "completed",
        endedBy: "operator",
        method: "invite",
        sipCode: 200,
        sipReason: "OK",
        q850: 16,
        ringMs: 4210,
        answerMs: 6120,
        talkMs: 93_500,
        trunk: "trunk-b",
        callerIdShown: "caller",
        recording: "continuous",
        confirmed: true,
        attempts: [
          { trunk: "trunk-a", target: "79123456789", sipCode: 503, cause: "trunk_failure", ms: 380 },
          { trunk: "trunk-b", target: "79123456789", sipCode: 200, cause: "completed", ms: 6120 },
        ],
      },
    };
    expect(eventSchema.safeParse(transfer).success).toBe(true);
    expect(eventSchema.safeParse({ ...transfer, seq: 0 }).success).toBe(false);
  });
});
