import { describe, expect, it } from "vitest";

import {
  answerSession,
  confirmSession,
  defaultSessionRules,
  readSessionExpires,
  sessionOff,
  sessionTooSmall,
  stepSession,
  writeAnswer,
  writeRequest,
} from "../../src/engine/dialog/session-timer.ts";
import type {
  SessionEffect,
  SessionEvent,
  SessionRules,
  SessionState,
  SessionTerms,
} from "../../src/engine/dialog/session-timer.ts";
import { Headers } from "../../src/engine/sip/message.ts";

const rules = defaultSessionRules;

function headers(...lines: readonly string[]): Headers {
  return new Headers(
    lines.map((line) => ({ name: line.slice(0, line.indexOf(":")), value: line.slice(line.indexOf(":") + 1).trim() })),
  );
}

const timer = "Supported: 100rel, timer";
const ours: SessionTerms = { seconds: 1800, minimumSeconds: 90, weRefresh: true, peerExpires: true };
const theirs: SessionTerms = { ...ours, weRefresh: false };

describe("Session-Expires", () => {
  it.each([
    ["1800", { seconds: 1800, refresher: undefined }],
    ["1800;refresher=uac", { seconds: 1800, refresher: "uac" }],
    ['1800 ; Refresher = UAS;x="a;b"', { seconds: 1800, refresher: "uas" }],
    ["1800;refresher=me", { seconds: 1800, refresher: undefined }],
    // RFC 4028 §4 allows 2^32-1, Node's timers do not.
    ["4294967295", { seconds: 2_147_483, refresher: undefined }],
    ["4294967296", undefined],
    ["-1", undefined],
    ["soon", undefined],
    ["", undefined],
    ["90;refresher=uac;refresher=uas", undefined],
  ])("%s", (value, expected) => {
    expect(readSessionExpires(headers(`Session-Expires: ${value}`))).toEqual(expected);
  });

  it("has the compact form x, and need not be there", () => {
    expect(readSessionExpires(headers("x: 90"))?.seconds).toBe(90);
    expect(readSessionExpires(headers())).toBeUndefined();
  });

  it("89 is too small, 90 is not, none is not", () => {
    expect(sessionTooSmall(headers("Session-Expires: 89"), rules)).toBe(true);
    expect(sessionTooSmall(headers("Session-Expires: 90"), rules)).toBe(false);
    expect(sessionTooSmall(headers(), rules)).toBe(false);
  });
});

describe("our 2xx", () => {
  interface Row {
    readonly name: string;
    readonly request?: readonly string[];
    readonly app?: string;
    readonly current?: SessionTerms;
    readonly defaultRefresher?: SessionRules["defaultRefresher"];
    readonly says: string | undefined;
    readonly require?: boolean;
  }
  const rows: readonly Row[] = [
    { name: "nobody asks for a timer", request: [timer], says: undefined },
    {
      name: "the offered refresher is echoed: uac",
      request: [timer, "Session-Expires: 600;refresher=uac"],
      says: "600;refresher=uac",
      require: true,
    },
    {
      name: "the offered refresher is echoed: uas",
      request: [timer, "Session-Expires: 600;refresher=uas"],
      says: "600;refresher=uas",
      require: true,
    },
    { name: "no refresher, default none", request: [timer, "Session-Expires: 600"], says: undefined },
    {
      name: "no refresher, default uas",
      request: [timer, "Session-Expires: 600"],
      defaultRefresher: "uas",
      says: "600;refresher=uas",
      require: true,
    },
    {
      name: "no refresher, default uac",
      request: [timer, "Session-Expires: 600"],
      defaultRefresher: "uac",
      says: "600;refresher=uac",
      require: true,
    },
    {
      name: "default uac, but the peer does not know timers (table 2)",
      request: ["Session-Expires: 600"],
      defaultRefresher: "uac",
      says: "600;refresher=uas",
      require: false,
    },
    {
      name: "the application's own wins",
      request: [timer],
      app: "1800;refresher=uas",
      says: "1800;refresher=uas",
      require: true,
    },
    {
      name: "the application's without refresher: the peer",
      request: [timer],
      app: "1800",
      says: "1800;refresher=uac",
      require: true,
    },
    { name: "the same, but the peer cannot", app: "1800", says: "1800;refresher=uas", require: false },
    {
      name: "the application's is raised to the minimum",
      request: [timer],
      app: "30;refresher=uas",
      says: "90;refresher=uas",
      require: true,
    },
    {
      name: "and to the peer's Min-SE",
      request: [timer, "Min-SE: 2400"],
      app: "1800;refresher=uas",
      says: "2400;refresher=uas",
      require: true,
    },
    {
      name: "the application cannot change the offered refresher or lengthen the interval (§9)",
      request: [timer, "Session-Expires: 600;refresher=uac"],
      app: "1800;refresher=uas",
      says: "600;refresher=uac",
      require: true,
    },
    {
      name: "it can shorten it, not below Min-SE",
      request: [timer, "Session-Expires: 1800;refresher=uac", "Min-SE: 900"],
      app: "600",
      says: "900;refresher=uac",
      require: true,
    },
    { name: "what is no interval counts for nothing", request: [timer], app: "soon", says: undefined },
    {
      name: "a re-INVITE that leaves the refresher open keeps it: us",
      request: [timer, "Session-Expires: 600"],
      current: ours,
      says: "600;refresher=uas",
      require: true,
    },
    {
      name: "a re-INVITE that leaves the refresher open keeps it: the peer",
      request: [timer, "Session-Expires: 600"],
      current: theirs,
      says: "600;refresher=uac",
      require: true,
    },
    {
      name: "a re-INVITE without the header: we refresh from now on",
      current: theirs,
      says: "1800;refresher=uas",
      require: false,
    },
  ];
  it.each([
    [[timer], true],
    [["Session-Expires: 1800;refresher=uas"], true],
    [[], false],
  ])("whether the session expires on the peer's side too: %j", (request, expected) => {
    const answer = headers("Session-Expires: 1800;refresher=uas");
    expect(answerSession(headers(...request), answer, undefined, rules)?.peerExpires).toBe(expected);
  });

  it.each(rows)("$name", ({ request = [], app, current, defaultRefresher = "none", says, require }) => {
    const asked = headers(...request);
    const answer = headers(...(app === undefined ? [] : [`Session-Expires: ${app}`]));
    const terms = answerSession(asked, answer, current, { ...rules, defaultRefresher });
    writeAnswer(asked, answer, terms);
    expect(answer.all("Session-Expires")).toEqual(says === undefined ? [] : [says]);
    expect(answer.get("Require")).toBe(require === true ? "timer" : undefined);
    expect(answer.get("Supported")).toBe(says === undefined ? undefined : "timer");
    expect(terms?.weRefresh).toBe(says === undefined ? undefined : says.endsWith("uas"));
  });
});

describe("a 2xx to us", () => {
  const asked = headers("Session-Expires: 1800;refresher=uac", "Min-SE: 90");
  it.each([
    ["1800;refresher=uac", undefined, { ...ours }],
    ["1800;refresher=uas", undefined, { ...theirs }],
    ["1800", undefined, { ...ours }],
    ["1", undefined, { ...ours, seconds: 90 }],
    [undefined, undefined, undefined],
    [undefined, theirs, undefined],
    [undefined, ours, ours],
  ] as const)("Session-Expires: %s", (value, current, expected) => {
    const answer = headers(...(value === undefined ? [] : [`Session-Expires: ${value}`]));
    expect(confirmSession(asked, answer, current, rules)).toEqual(expected);
  });
});

describe("our request", () => {
  it("outside of a dialog: Supported beside an interval, nothing else", () => {
    const plain = headers();
    writeRequest(plain, undefined);
    expect(plain.lines).toEqual([]);
    const offer = headers("Session-Expires: 1800;refresher=uac", "Supported: replaces");
    writeRequest(offer, undefined);
    expect(offer.all("Supported")).toEqual(["replaces", "timer"]);
  });

  it("in a dialog: the terms in force, unless the application wrote its own", () => {
    const plain = headers();
    writeRequest(plain, theirs);
    expect(plain.get("Session-Expires")).toBe("1800;refresher=uas");
    expect(plain.get("Min-SE")).toBe("90");
    const own = headers("Session-Expires: 300;refresher=uac");
    writeRequest(own, theirs);
    expect(own.all("Session-Expires")).toEqual(["300;refresher=uac"]);
  });
});

describe("the state", () => {
  const second = 1000;
  const start: SessionState = { phase: "waiting", terms: ours, endsAtMs: 1_768_000 };
  const refreshing: SessionState = { phase: "refreshing", terms: ours, endsAtMs: 1_768_000, raises: 0 };
  const step = (
    state: SessionState,
    event: SessionEvent,
    nowMs = 900_000,
  ): readonly [string, readonly SessionEffect[]] => {
    const [next, effects] = stepSession(state, event, nowMs, second);
    return [next.phase, effects];
  };
  const refused = (status: number, more: { minimumSeconds?: number; retryAfter?: boolean } = {}): SessionEvent => ({
    type: "refused",
    status,
    minimumSeconds: 0,
    retryAfter: false,
    retryMs: 2_100,
    ...more,
  });
  const due: SessionEvent = { type: "due" };
  const arm = (ms: number): SessionEffect => ({ type: "arm", ms });

  it.each([
    [ours, 900_000],
    [theirs, 1_768_000],
    // RFC 4028 §10: a third of a short interval is less than 32 s.
    [{ ...theirs, seconds: 90 }, 60_000],
  ])("agreed: armed once, %j", (terms, ms) => {
    expect(step(sessionOff, { type: "agreed", terms })).toEqual(["waiting", [arm(ms)]]);
  });

  it("agreed on none: disarmed, and nothing is done twice", () => {
    expect(step(start, { type: "agreed", terms: undefined })).toEqual(["off", [{ type: "disarm" }]]);
    expect(step(sessionOff, { type: "agreed", terms: undefined })).toEqual(["off", []]);
  });

  it("half of the time over: refresh, and armed to the end meanwhile", () => {
    expect(step(start, due)).toEqual(["refreshing", [arm(868_000), { type: "refresh", terms: ours }]]);
  });

  it("another INVITE is open: later, but never later than the end", () => {
    const postponed: SessionEvent = { type: "postponed", retryMs: 2_100 };
    expect(step(refreshing, postponed)).toEqual(["waiting", [arm(2_100)]]);
    expect(step(refreshing, postponed, 1_767_000)).toEqual(["waiting", [arm(1_000)]]);
    expect(step(start, due, 1_768_000)).toEqual(["off", [{ type: "end" }]]);
  });

  it("the peer did not refresh, or our refresh was never answered: the end", () => {
    expect(step({ ...start, terms: theirs }, due, 1_768_000)).toEqual(["off", [{ type: "end" }]]);
    expect(step(refreshing, due, 1_768_000)).toEqual(["off", [{ type: "end" }]]);
  });

  it.each([491, 500])("%i is a glare: later", (status) => {
    expect(step(refreshing, refused(status, { retryAfter: true }))).toEqual(["waiting", [arm(2_100)]]);
  });

  it.each([400, 408, 481, 488, 500, 503, 603])("%i ends it", (status) => {
    expect(step(refreshing, refused(status))).toEqual(["off", [{ type: "disarm" }, { type: "end" }]]);
  });

  it.each([401, 407])("%i: no refresh of ours can help, the session lasts as long as it lasts", (status) => {
    expect(step(refreshing, refused(status))).toEqual(["waiting", [arm(868_000)]]);
  });

  it.each([401, 405, 488, 500, 603])("%i of a peer who knows no session timers: he is there", (status) => {
    const terms = { ...ours, peerExpires: false };
    expect(step({ ...refreshing, terms }, refused(status))).toEqual(["waiting", [arm(900_000)]]);
  });

  it.each([408, 481, 503])("%i of such a peer: he is not", (status) => {
    const terms = { ...ours, peerExpires: false };
    expect(step({ ...refreshing, terms }, refused(status))[0]).toBe("off");
  });

  it("422 raises the interval at once, twice at most, and only when there is something to raise", () => {
    const [first, effects] = stepSession(refreshing, refused(422, { minimumSeconds: 2_000 }), 900_000, second);
    const raised = { ...ours, seconds: 2_000, minimumSeconds: 2_000 };
    expect(effects).toEqual([arm(868_000), { type: "refresh", terms: raised }]);
    const [again] = stepSession(first, refused(422, { minimumSeconds: 2_001 }), 900_000, second);
    expect(again.phase).toBe("refreshing");
    expect(step(again, refused(422, { minimumSeconds: 2_002 }))[0]).toBe("off");
    expect(step(refreshing, refused(422, { minimumSeconds: 90 }))[0]).toBe("off");
  });

  it("what comes after the peer's own refresh is only heard when it means that he is gone", () => {
    expect(step(start, refused(488))).toEqual(["waiting", []]);
    expect(step(start, refused(481))).toEqual(["off", [{ type: "disarm" }, { type: "end" }]]);
    expect(step(sessionOff, refused(481))).toEqual(["off", []]);
  });

  it("could not be sent: later; over: off", () => {
    expect(step(refreshing, { type: "postponed", retryMs: 500 })).toEqual(["waiting", [arm(500)]]);
    expect(step(start, { type: "postponed", retryMs: 500 })).toEqual(["waiting", []]);
    expect(step(refreshing, { type: "gone" })).toEqual(["off", [{ type: "disarm" }]]);
    expect(step(sessionOff, due)).toEqual(["off", []]);
  });
});
