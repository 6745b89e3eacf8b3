// Carriers and operators played by SIPp, which shares nothing with our code, on both sides of a call through the service.
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import type { BotCall, TransferDetails } from "../integration/raw-bot.ts";
import { botNumber, operatorNumber, Stage, trunkPassword } from "../integration/stage.ts";
import { expectSuccess, Sipp } from "../support/sipp.ts";

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
