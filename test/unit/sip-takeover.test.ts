// Crossings on the way to somebody's place that cannot be made on a wire, and calls that have no wire.
import { describe, expect, test } from "vitest";
import type { ExchangeId, LegId, Sdp } from "../../src/call/ids.ts";
import type { SipTrunk } from "../../src/sip/directory.ts";
import { InDialog } from "../../src/sip/in-dialog.ts";
import type { LegContext } from "../../src/sip/leg.ts";
import type {
  AcceptEvents,
  DialogEvents,
  IncomingInvite,
  IncomingRequest,
  SipDialog,
} from "../../src/sip/link/types.ts";
import { SipFault } from "../../src/sip/link/fault.ts";
import { inviteLocally } from "../../src/sip/local-call.ts";
import { readHeaders } from "../../src/sip/message.ts";
import { parseReplaces, replacesIn } from "../../src/sip/replaces.ts";
import { matches, Takeover, Takeovers } from "../../src/sip/takeover.ts";
import { silentLog } from "../../src/telemetry/log.ts";

const sdp = "v=0" as Sdp;

/** An INVITE with Replaces, and everything around it, played by hand. */
class World {
  readonly answers: number[] = [];
  readonly done: (SipDialog | null)[] = [];
  readonly sent: string[] = [];
  readonly #timers = new Set<() => void>();
  cancel: () => void = () => undefined;
  accepting: AcceptEvents | undefined;
  inDialog: DialogEvents | undefined;
  readonly taking: Takeover;
  readonly dialog: SipDialog = {
    callId: "x",
    localTag: "1",
    remoteTag: "2",
    connected: true,
    remoteUri: "sip:taker@192.0.2.1",
    localContact: "<sip:192.0.2.2>",
    listen: (events) => {
      this.inDialog = events;
    },
    send: async (method) => {
      this.sent.push(method);
      return { ...readHeaders(""), status: 200, reason: "OK", body: "", sourceAddress: "" };
    },
    forget: () => undefined,
  };

  readonly context: LegContext;

  inviteFrom(from: string): IncomingInvite {
    return {
      ...readHeaders(`INVITE sip:x SIP/2.0\r\nFrom: ${from}\r\n\r\n`),
      protocol: "udp",
      body: sdp,
      respond: (status: number) => this.answers.push(status),
      onCancel: (run: (headers: ReturnType<typeof readHeaders>) => void) => {
        this.cancel = () => run(readHeaders(""));
      },
      accept: (_sdp: string, _headers: unknown, on: AcceptEvents) => {
        this.accepting = on;
      },
    } as unknown as IncomingInvite;
  }

  constructor() {
    const invite = this.inviteFrom("<sip:x@192.0.2.1>;tag=x");
    const context = {
      link: { whenUp: async () => true },
      clock: {
        now: () => 0,
        after: (_ms: number, run: () => void) => {
          this.#timers.add(run);
          return { cancel: () => this.#timers.delete(run) };
        },
      },
      times: { transactionMs: 1, cancelMs: 1, requestMs: 1, exchangeMs: 1 },
    } as unknown as LegContext;
    this.context = context;
    const done = (dialog: SipDialog | null): void => void this.done.push(dialog);
    this.taking = new Takeover({ invite, leg: "c/operator-1" as LegId, number: 1, trunk: undefined, context, done });
    this.taking.begin();
  }

  timeIsUp(): void {
    for (const run of this.#timers) {
      this.#timers.delete(run);
      run();
    }
  }

  get timers(): number {
    return this.#timers.size;
  }

  /** The 200 is out. */
  accepted(): this {
    this.taking.accept(sdp);
    this.accepting?.accepted(this.dialog);
    return this;
  }
}

describe("on the way to somebody's place", () => {
  test("it is taken with the ACK, not before", () => {
    const world = new World().accepted();
    expect(world.done).toEqual([]);
    world.inDialog?.acknowledged("");
    expect([world.done, world.timers]).toEqual([[world.dialog], 0]);
  });

  test("no answer of the call in time: 500; refused: as told; once", () => {
    const late = new World();
    late.timeIsUp();
    const refused = new World();
    refused.taking.refuse(603);
    refused.taking.accept(sdp);
    for (const [world, status] of [
      [late, 500],
      [refused, 603],
    ] as const) {
      expect([world.answers, world.done, world.timers, world.accepting]).toEqual([[status], [null], 0, undefined]);
    }
  });

  test("CANCEL before the answer, and one that the engine passes on before it takes our 200", async () => {
    const early = new World();
    early.cancel();
    early.taking.accept(sdp);
    expect([early.done, early.accepting, early.timers]).toEqual([[null], undefined, 0]);
    const crossed = new World();
    crossed.taking.accept(sdp);
    crossed.cancel();
    crossed.accepting?.accepted(crossed.dialog);
    crossed.inDialog?.acknowledged("");
    await expect.poll(() => crossed.sent).toEqual(["BYE"]);
    expect([crossed.done, crossed.timers]).toEqual([[null], 0]);
    const lost = new World();
    lost.taking.accept(sdp);
    lost.accepting?.failed(new SipFault("engine_away", "gone"));
    expect([lost.done, lost.timers]).toEqual([[null], 0]);
  });

  test("no ACK: it is hung up, and the leg stays with whom it has", async () => {
    const world = new World().accepted();
    world.timeIsUp();
    await expect.poll(() => world.sent).toEqual(["BYE"]);
    expect([world.done, world.timers]).toEqual([[null], 0]);
    const ended = new World().accepted();
    ended.inDialog?.ended({ byPeer: false, text: "", headers: readHeaders("") });
    expect([ended.done, ended.sent, ended.timers]).toEqual([[null], [], 0]);
  });

  test("the leg ends meanwhile: 603 before the answer, BYE after the ACK", async () => {
    const early = new World();
    early.taking.close();
    expect([early.answers, early.done, early.timers]).toEqual([[603], [], 0]);
    const late = new World().accepted();
    late.taking.close();
    expect(late.sent).toEqual([]);
    late.inDialog?.acknowledged("");
    await expect.poll(() => late.sent).toEqual(["BYE"]);
    expect([late.done, late.timers]).toEqual([[], 0]);
  });
});

describe("who claims a place", () => {
  /** A leg, and an INVITE for its peer's place. */
  function leg(trunk?: SipTrunk): {
    readonly world: World;
    readonly claims: Takeovers;
    readonly posted: string[];
    readonly taken: unknown[];
    claim(from?: string): void;
  } {
    const world = new World();
    // The one that the world has made by itself is not wanted here.
    world.taking.close();
    world.answers.length = 0;
    const [posted, taken]: [string[], unknown[]] = [[], []];
    const claims = new Takeovers({
      leg: "c/operator-1" as LegId,
      trunk,
      context: world.context,
      post: (event) => posted.push(event.type) > 0,
      taken: ({ by, local }) => void taken.push({ by, local }),
    });
    const claim = (from = "<sip:7702@192.0.2.1>;tag=x"): void => claims.begin(world.inviteFrom(from), sdp);
    return { world, claims, posted, taken, claim };
  }
  const exchange = (n: number): ExchangeId => `c/operator-1/claim-${n}` as ExchangeId;

  test("one at a time; who has it says who he is", () => {
    const { world, claims, posted, taken, claim } = leg();
    claim();
    claim();
    expect([posted, world.answers]).toEqual([["leg.claimed"], [603]]);
    expect([claims.accept(exchange(7), sdp), claims.refuse(exchange(7), 488)]).toEqual([false, false]);
    expect(claims.accept(exchange(1), sdp)).toBe(true);
    world.accepting?.accepted(world.dialog);
    world.inDialog?.acknowledged("");
    expect([taken, claims.open, world.timers]).toEqual([[{ by: "7702", local: false }], false, 0]);
  });

  test.each([
    ["without a user", "<sip:192.0.2.1>;tag=x", false, null],
    ["that asks for privacy", "<sip:7702@192.0.2.1>;tag=x\r\nPrivacy: id", false, null],
    [
      "with an identity that is not trusted",
      "<sip:7702@192.0.2.1>;tag=x\r\nP-Asserted-Identity: <sip:7703@x>",
      false,
      "7702",
    ],
    ["with one that is", "<sip:7702@192.0.2.1>;tag=x\r\nP-Asserted-Identity: <sip:7703@x>", true, "7703"],
  ])("an INVITE %s: who he is, by the rule for callers", (_what, from, trustIdentity, by) => {
    const { world, claims, taken, claim } = leg({ trustIdentity, sessionExpiresSeconds: null } as SipTrunk);
    claim(from);
    claims.accept(exchange(1), sdp);
    world.accepting?.accepted(world.dialog);
    world.inDialog?.acknowledged("");
    expect(taken).toEqual([{ by, local: false }]);
  });

  test("the peer's own end waits for him, and counts when he does not come", () => {
    const ends: string[] = [];
    const none = leg();
    expect(none.claims.outlive(() => ends.push("none"))).toBe(false);
    const refused = leg();
    refused.claim();
    expect(refused.claims.outlive(() => ends.push("refused"))).toBe(true);
    refused.claims.refuse(exchange(1), 488);
    const came = leg();
    came.claim();
    came.claims.outlive(() => ends.push("came"));
    came.claims.accept(exchange(1), sdp);
    came.world.accepting?.accepted(came.world.dialog);
    came.world.inDialog?.acknowledged("");
    expect([ends, came.taken.length, refused.world.answers]).toEqual([["refused"], 1, [488]]);
  });

  test("the phone that rang answers first: 486 before his answer, BYE after it, and nothing is taken", async () => {
    const early = leg();
    early.claim();
    early.claims.close(486);
    const late = leg();
    late.claim();
    late.claims.accept(exchange(1), sdp);
    late.world.accepting?.accepted(late.world.dialog);
    late.claims.close(486);
    late.world.inDialog?.acknowledged("");
    await expect.poll(() => late.world.sent).toEqual(["BYE"]);
    expect([early.world.answers, early.taken, late.taken, late.world.timers]).toEqual([[486], [], [], 0]);
  });
});

test("an answer to the one before, which comes late, is none to who has taken his place", () => {
  const asked: ExchangeId[] = [];
  const answers: number[] = [];
  const next = (number: number): InDialog =>
    new InDialog({
      leg: "c/operator-1" as LegId,
      dialog: new World().dialog,
      number,
      clock: { now: () => 0, wallMs: () => 0, after: () => ({ cancel: () => undefined }) },
      exchangeMs: 1,
      post: (event) => {
        if (event.type === "leg.offered") asked.push(event.exchange);
        return true;
      },
      onNotify: () => false,
    });
  const request = {
    ...readHeaders("INVITE sip:x SIP/2.0\r\nContent-Type: application/sdp\r\n\r\n"),
    method: "INVITE",
    body: sdp,
    respond: (status: number) => answers.push(status),
  } as unknown as IncomingRequest;
  const [before, taker] = [next(0), next(1)];
  for (const one of [before, taker]) one.offered(request);
  taker.reanswer(asked[0]!, sdp);
  expect(answers).toEqual([]);
  taker.reanswer(asked[1]!, sdp);
  expect(answers).toEqual([200]);
});

describe("a call between two of our calls", () => {
  interface Side {
    readonly heard: string[];
    readonly events: DialogEvents;
  }
  const side = (): Side => {
    const heard: string[] = [];
    return {
      heard,
      events: {
        ended: () => heard.push("ended"),
        acknowledged: () => heard.push("ACK"),
        offered: (request) => {
          heard.push(`offered ${request.body}`);
          request.respond(200, "OK", { body: "answer" });
          request.respond(500);
        },
        asked: (request) => {
          heard.push(request.method);
          request.respond(202);
        },
      },
    };
  };

  async function connected(): Promise<{ one: SipDialog; other: SipDialog; caller: Side; called: Side }> {
    const [caller, called] = [side(), side()];
    const dialogs = await new Promise<[SipDialog, SipDialog]>((resolve, reject) => {
      let other: SipDialog | undefined;
      inviteLocally(
        { uri: "sip:x", proxy: null, headers: [], sdp },
        {
          sent: () => undefined,
          provisional: () => undefined,
          failed: () => reject(new Error("failed")),
          answered: (one, { body }) => {
            one.listen(caller.events);
            if (other !== undefined && body === "answer") resolve([one, other]);
          },
        },
        (invite) => {
          invite.accept("answer", [], {
            accepted: (dialog) => {
              other = dialog;
              dialog.listen(called.events);
            },
            failed: reject,
          });
        },
        silentLog,
      );
    });
    await expect.poll(() => called.heard).toEqual(["ACK"]);
    return { one: dialogs[0], other: dialogs[1], caller, called };
  }

  test("requests go both ways, a re-INVITE is acknowledged, BYE ends both sides once", async () => {
    const { one, other, caller, called } = await connected();
    const options = { timeoutMs: 1_000 };
    expect(await one.send("INVITE", { ...options, body: "new" })).toMatchObject({ status: 200, body: "answer" });
    expect(await other.send("INFO", options)).toMatchObject({ status: 202 });
    const both = await Promise.all([one.send("BYE", options), other.send("BYE", options)]);
    expect(both).toMatchObject([{ status: 200 }, { status: 481 }]);
    expect([one.connected, other.connected]).toEqual([false, false]);
    expect(called.heard).toEqual(["ACK", "offered new", "ACK", "ended"]);
    expect(caller.heard).toEqual(["INFO"]);
    expect(await one.send("INFO", options)).toMatchObject({ status: 481 });
  });

  test.each([false, true])("cancelled: 487, once, and nobody is accepted (after it was taken: %s)", async (taken) => {
    const heard: string[] = [];
    let invite: IncomingInvite | undefined;
    const sent = inviteLocally(
      { uri: "sip:x", proxy: null, headers: [], sdp },
      {
        sent: () => undefined,
        provisional: () => undefined,
        answered: () => heard.push("answered"),
        failed: (result) => heard.push(`failed ${result instanceof SipFault ? result.code : result.status}`),
      },
      (one) => {
        invite = one;
        one.onCancel(() => heard.push("cancelled"));
      },
      silentLog,
    );
    if (taken) await expect.poll(() => invite).toBeDefined();
    sent.cancel([]);
    sent.cancel([]);
    await expect.poll(() => heard).toContain("failed 487");
    invite?.respond(603);
    invite?.accept("answer", [], {
      accepted: () => heard.push("accepted"),
      failed: ({ code }) => heard.push(code),
    });
    expect(heard).toEqual(taken ? ["cancelled", "failed 487", "cancelled"] : ["failed 487"]);
  });
});

describe("Replaces", () => {
  test("names a dialog as the one sees it who gets the INVITE (RFC 3891 §3)", () => {
    const dialog = { ...new World().dialog, callId: "a@b", localTag: "7", remoteTag: "8" };
    const named = (text: string): boolean | undefined => {
      const replaced = parseReplaces(text);
      return replaced && matches(dialog, replaced);
    };
    expect(named("a@b;to-tag=7;from-tag=8")).toBe(true);
    expect(named("a@b ; FROM-TAG=8 ; To-Tag=7 ; x=1")).toBe(true);
    expect(named("a@b;to-tag=8;from-tag=7")).toBe(false);
    expect(named("A@B;to-tag=7;from-tag=8")).toBe(false);
    expect(named("a@b;to-tag=7")).toBeUndefined();
    expect(named("a@b;to-tag=7;to-tag=7;from-tag=8")).toBeUndefined();
    expect(named("a b;to-tag=7;from-tag=8")).toBeUndefined();
  });

  test("in a URI it is escaped, other headers do not matter (RFC 3261 §19.1.1)", () => {
    const dialog = { callId: "a+1@b", toTag: "7", fromTag: "8", earlyOnly: true };
    const text = "a+1%40b%3Bto-tag%3D7%3Bfrom-tag%3D8%3Bearly-only";
    expect(replacesIn(`Subject=%E9&Replaces=${text}`)).toEqual({ dialog, required: false });
    expect(replacesIn(`REPLACES=${text}&Require=replaces`)).toEqual({ dialog, required: true });
    expect(replacesIn(`Replaces=${text}&Require=replacesx`)).toEqual({ dialog, required: false });
    expect(replacesIn("Subject=x")).toBeUndefined();
    for (const bad of [`Replaces=${text}&replaces=${text}`, "Replaces=%E9", "Replaces=", "Replaces=x"]) {
      expect(replacesIn(bad), bad).toBeNull();
    }
  });
});
