// Carriers and operators played by SIPp, which shares nothing with our code, on both sides of a call through the service.
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import type { BotCall, TransferDetails } from "../integration/raw-bot.ts";
import { botNumber, operatorNumber, Stage, trunkPassword } from "../integration/stage.ts";
import { expectSuccess, Sipp } from "../support/sipp.ts";
import { waitFor } from "../support/wait.ts";

const scenarios = "test/interop/sipp";
const usualCaller = "test/integration/sipp/job/caller-tcp.xml";
/** Answers, and hangs up after a moment. */
const answers = { scenario: `${scenarios}/operator-answers.xml` };

/** The service with one trunk, whose gateways these are. */
function serviceFor(gateways: readonly Sipp[], trunk: object = {}): Promise<Stage> {
  const hosts = gateways.map(({ port }, n) => ({ id: `sipp-${n + 1}`, host: "127.0.0.1", port }));
  return Stage.start({ t1Ms: 40, trunk: { gateways: hosts, ...trunk } });
}

function callerOf(stage: Stage, scenario = usualCaller): Promise<Sipp> {
  const target = `127.0.0.1:${stage.port("tcp")}`;
  return Sipp.start({ scenario, protocol: "tcp", target, service: botNumber });
}

/** A scenario whose `[status]` is this one: SIPp takes a variable nearly everywhere, but not there. */
async function saying(file: string, status: string): Promise<string> {
  return (await readFile(`${scenarios}/${file}`, "utf8")).replace("SIP/2.0 [status]", `SIP/2.0 ${status}`);
}

async function refuser(status: string, reason: string): Promise<Sipp> {
  return await Sipp.start({ scenario: await saying("operator-refuses.xml", status), variables: { reason } });
}

async function answeredCall(stage: Stage): Promise<BotCall> {
  const call = await stage.bot.nextCall();
  await call.event("answered");
  return call;
}

const switchTo = { type: "switch", phoneNumber: operatorNumber, continueCall: true } as const;
const ledger = ({ attempts }: TransferDetails): object[] =>
  attempts.map(({ sipCode, cause, target }) => ({ sipCode, cause, target }));
const invitesAt = ({ messages }: Sipp): string[] =>
  messages.filter(({ direction, what }) => direction === "received" && what === "INVITE").map(({ text }) => text);
const invitesSent = ({ messages }: Sipp): string[] =>
  messages.filter(({ direction, what }) => direction === "sent" && what === "INVITE").map(({ text }) => text);

/** The bot says goodbye, and everybody's scenario has been played to its end. */
async function farewell(stage: Stage, call: BotCall, ...all: readonly Sipp[]): Promise<void> {
  await call.run({ type: "hangup" });
  await call.event("hangup");
  for (const one of all) expectSuccess(await one.finished());
  await stage.atRest();
}

test("503 → the next gateway answers, and both attempts are in the ledger", async () => {
  await using refusing = await refuser("503 Service Unavailable", "Q.850;cause=34");
  await using answering = await Sipp.start(answers);
  await using stage = await serviceFor([refusing, answering]);
  await using caller = await callerOf(stage);
  const call = await answeredCall(stage);
  await call.run(switchTo);
  const { status, details } = await call.transfer();
  expect(status).toEqual({ status: "SUCCESS", hangup: false, number: operatorNumber });
  expect(ledger(details)).toEqual([
    { sipCode: 503, cause: "trunk_failure", target: operatorNumber },
    { sipCode: 200, cause: "completed", target: operatorNumber },
  ]);
  await farewell(stage, call, caller, refusing, answering);
});

test.each([
  ["486 Busy Here", "Q.850;cause=17"],
  ["600 Busy Everywhere", "SIP;cause=600"],
  // RFC 3326 §2: the proxy passes on what the operator's phone has said.
  ["503 Service Unavailable", 'SIP;cause=486;text="Busy Here"'],
])("a busy operator is never dialled twice: %s with %s", async (said, reason) => {
  await using busy = await refuser(said, reason);
  await using idle = await Sipp.start(answers);
  await using stage = await serviceFor([busy, idle]);
  await using caller = await callerOf(stage);
  const call = await answeredCall(stage);
  await call.run(switchTo);
  const { status, details } = await call.transfer();
  expect(status).toEqual({ status: "FAIL", hangup: false, number: operatorNumber });
  expect(details.cause).toBe("busy");
  expect(details.attempts).toHaveLength(1);
  await farewell(stage, call, caller, busy);
  expect(idle.messages).toEqual([]);
});

test.each(["405 Method Not Allowed", "603 Decline"])(
  "REFER refused with %s → INVITE; the trunk sees no re-INVITE and hears one BYE",
  async (refusal) => {
    await using operator = await Sipp.start(answers);
    await using stage = await serviceFor([operator]);
    await using caller = await callerOf(stage, await saying("trunk-refuses-refer.xml", refusal));
    const call = await answeredCall(stage);
    await call.run({ ...switchTo, method: "refer" });
    const { status, details } = await call.transfer();
    expect(status).toEqual({ status: "SUCCESS", hangup: false, number: operatorNumber });
    expect(details).toMatchObject({ method: "invite", cause: "completed" });
    expect(call.all("warning").map(({ body }) => body["code"])).toEqual(["refer_failed"]);
    await farewell(stage, call, caller, operator);
    const refer = caller.messages.find(({ what }) => what === "REFER")?.text ?? "";
    expect(refer).toMatch(new RegExp(`^Refer-To: <sip:${operatorNumber}@`, "m"));
    expect(invitesAt(caller)).toEqual([]);
  },
);

test("REFER followed: SUCCESS by the NOTIFY of 200, nobody is called, and the trunk is hung up", async () => {
  await using operator = await Sipp.start(answers);
  await using stage = await serviceFor([operator]);
  await using caller = await callerOf(stage, `${scenarios}/trunk-follows-refer.xml`);
  const call = await answeredCall(stage);
  await call.run({ ...switchTo, method: "refer" });
  const { status, details } = await call.transfer();
  expect(status).toEqual({ status: "SUCCESS", hangup: true, number: operatorNumber });
  expect(details).toMatchObject({ method: "refer", confirmed: true });
  await call.event("hangup");
  expectSuccess(await caller.finished());
  expect(operator.messages).toEqual([]);
  await stage.atRest();
});

test.each([
  ["SHA-256", "sha256"],
  ["SHA-512-256", "sha512-256"],
  ["MD5", "md5"],
])("a gateway that asks for a password with %s gets a proof that it can check", async (algorithm, hashName) => {
  const challenge = `Digest realm="sipp.example", nonce="asked-1", algorithm=${algorithm}, qop="auth"`;
  await using operator = await Sipp.start({ scenario: `${scenarios}/operator-asks.xml`, variables: { challenge } });
  const outbound = { username: trunkPassword.username, passwordEnv: "STAGE_TRUNK_PASSWORD" };
  await using stage = await serviceFor([operator], { outbound });
  await using caller = await callerOf(stage);
  const call = await answeredCall(stage);
  await call.run(switchTo);
  expect((await call.transfer()).status).toEqual({ status: "SUCCESS", hangup: false, number: operatorNumber });
  await farewell(stage, call, caller, operator);
  const [plain = "", proved = ""] = [...new Set(invitesAt(operator))];
  expect(plain).not.toContain("Proxy-Authorization");
  const proof = /^Proxy-Authorization: Digest (.*)$/m.exec(proved)?.[1] ?? "";
  const field = (name: string): string => new RegExp(`(?:^|[ ,])${name}="?([^",\r]*)`).exec(proof)?.[1] ?? "";
  // RFC 7616 §3.4.1, worked out here and not by our own code.
  const hash = (...parts: readonly string[]): string => createHash(hashName).update(parts.join(":")).digest("hex");
  const secret = hash(trunkPassword.username, "sipp.example", trunkPassword.password);
  const action = hash("INVITE", field("uri"));
  expect(field("response")).toBe(hash(secret, "asked-1", field("nc"), field("cnonce"), "auth", action));
  expect([field("algorithm"), field("uri")]).toEqual([algorithm, /^INVITE (\S+)/.exec(proved)?.[1]]);
});

describe("a trunk whose calls must be proved", () => {
  const provesHimself = `${scenarios}/caller-proves.xml`;

  /** SIPp 3.6 reads the first challenge and gives up on any algorithm but MD5, so that each is asked for alone. */
  function serviceAsking(algorithm: string): Promise<Stage> {
    const { username } = trunkPassword;
    const inbound = { username, passwordEnv: "STAGE_TRUNK_PASSWORD", realm: "here", algorithms: [algorithm] };
    return Stage.start({ t1Ms: 40, trunk: { inbound } });
  }

  function proving(stage: Stage, own: { readonly password?: string; readonly first?: string } = {}): Promise<Sipp> {
    const { password = trunkPassword.password, first = "Subject: none" } = own;
    return Sipp.start({
      scenario: provesHimself,
      protocol: "tcp",
      target: `127.0.0.1:${stage.port("tcp")}`,
      service: botNumber,
      variables: { first },
      args: ["-au", trunkPassword.username, "-ap", password],
    });
  }

  const finals = ({ messages }: Sipp): string[] =>
    messages.flatMap(({ direction, what }) => (direction === "received" && /^[2-6]/.test(what) ? [what] : []));
  const challenges = ({ messages }: Sipp): string[] =>
    messages.flatMap(({ text }) => /^WWW-Authenticate: (.*)$/m.exec(text)?.[1] ?? []);

  test.for(["MD5", "SHA-256"])("%s: asked, proved, through", async (algorithm, context) => {
    await using stage = await serviceAsking(algorithm);
    await using caller = await proving(stage);
    await waitFor(() => finals(caller).length > 1 || caller.errors !== "", { what: "the answer to his proof" });
    if (/must use MD5/.test(caller.errors)) context.skip(`this SIPp does not know ${algorithm}`);
    const call = await answeredCall(stage);
    await farewell(stage, call, caller);
    expect(finals(caller)).toEqual(["401", "200"]);
    expect(challenges(caller)[0]).toContain(`algorithm=${algorithm}`);
    expect(invitesSent(caller)[1]).toMatch(/^Authorization: Digest /m);
  });

  test("a wrong password: asked again, and no bot ever hears of it", async () => {
    await using stage = await serviceAsking("MD5");
    await using caller = await proving(stage, { password: "wrong" });
    expectSuccess(await caller.finished());
    expect(finals(caller)).toEqual(["401", "401"]);
    expect(challenges(caller).map((value) => value.includes("stale"))).toEqual([false, false]);
    await stage.atRest();
    expect(stage.bot.events).toEqual([]);
  });

  test("a nonce that was used before: stale, and the same password with the new one is through", async () => {
    await using stage = await serviceAsking("MD5");
    await using caller = await proving(stage);
    await farewell(stage, await answeredCall(stage), caller);
    const first = /^Authorization: .*$/m.exec(invitesSent(caller)[1] ?? "")?.[0].trim() ?? "";
    await using again = await proving(stage, { first });
    await farewell(stage, await answeredCall(stage), again);
    expect(invitesSent(again)[0]).toContain(first);
    expect(finals(again)).toEqual(["401", "200"]);
    expect(challenges(again)[0]).toContain("stale=true");
  });
});
