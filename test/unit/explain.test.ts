// `patchbay explain`: what it prints, what it refuses and where, and that the README shows what it really says.
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

import { parseConfig } from "../../src/config/load.ts";
import { explain } from "../../src/explain.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const yaml = `
sip: { listen: [{ protocol: udp, address: 192.0.2.10, port: 5070 }, { protocol: tcp, address: 192.0.2.10, port: 5080 }] }
trunks:
  - id: a
    sources: [192.0.2.1]
    gateways: [{ host: 192.0.2.1 }, { host: "2001:db8::1", transport: tcp, port: 5099 }]
    rules: { prepend: "00" }
  - id: b
    gateways: [{ host: sip.example.net, priority: 1 }, { host: 192.0.2.9, priority: 1 }]
    outbound: { username: us, passwordEnv: P, realm: example.net }
    number: "74950000000"
    refer: never
    callsPerSecond: 7
channels:
  - { botId: x, trunk: a, numbers: ["74951234567", "7*"], destinations: { sipHosts: [ops.example] } }
  - { botId: y, trunk: b }
`;

function told(reply: unknown, caller = "79991112233", botId = "x"): { refused: boolean; text: string } {
  const parsed = parseConfig(yaml, {}, ".");
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  const json = Buffer.from(typeof reply === "string" ? reply : JSON.stringify(reply));
  return explain(parsed.config, { botId, json, caller, called: undefined });
}

const dial = { type: "switch", phoneNumber: "100" };

describe("what would be sent", () => {
  test("every gateway in its order, each with its own address of ours, and the retry with the bot's number", () => {
    const { refused, text } = told(dial);
    expect(refused).toBe(false);
    expect(text).toContain("channel x, trunk a, caller 79991112233, called 74951234567\nthe operator sees: caller\n");
    expect(text).toContain("1. gateway a-1, next hop 192.0.2.1 over udp\n   INVITE sip:00100@192.0.2.1 SIP/2.0\n");
    expect(text).toContain("   From: <sip:79991112233@192.0.2.10:5070>\n");
    expect(text).toContain(
      "2. gateway a-2, next hop [2001:db8::1]:5099 over tcp\n   INVITE sip:00100@[2001:db8::1]:5099;transport=tcp SIP/2.0\n",
    );
    expect(text).toContain("   From: <sip:79991112233@192.0.2.10:5080>\n");
    expect(text).toContain(
      "   after 403, 433, 438, 607, 608 once more with:\n     From: <sip:74951234567@192.0.2.10:5070>\n",
    );
    expect(text).toContain("next gateway: no 18x within 10 s, 401, 407, 408, 415, 488, 606, 5xx\n");
    expect(text).toContain("no further gateway: 404, 410, 480, 484, 485, 486, 600, 603, 604\n");
    expect(text).toContain("answer within 60 s over all attempts\n");
    expect(text).not.toContain("drawn by weight");
  });

  test("another channel's trunk with all its settings", () => {
    const { text } = told({ ...dial, transferChannel: "y", timeout: 20, maxTalkSeconds: 600 });
    expect(text).toContain("the operator sees: bot\n");
    expect(text).toContain("   From: <sip:74950000000@sip.example.net>\n");
    expect(text).toContain("   a challenge of realm example.net is answered as us\n");
    expect(text).not.toContain("once more with");
    expect(text).toContain("gateways of one priority are drawn by weight for each call; this is one draw\n");
    expect(text).toContain("answer within 20 s over all attempts\ntalk ends after 600 s\n");
    expect(text).toContain("trunk limits: 1000 legs, 7 calls per second\n");
  });

  test("a caller who withholds his number, custom headers, warnings with their place in the file", () => {
    const { refused, text } = told(
      { ...dial, headers: { callReason: "a b", Via: "x" }, transferChannel: "nobody" },
      "",
    );
    expect(refused).toBe(false);
    expect(text).toContain('   From: "Anonymous" <sip:anonymous@anonymous.invalid>\n');
    expect(text).toContain("   Privacy: id\n   callReason: a b\n");
    expect(text).not.toContain("   Via:");
    expect(text).toContain("warning: header_dropped at /headers/Via: ");
    expect(text).toContain("warning: transfer_channel_unknown at /transferChannel: ");
  });

  test("a SIP URI is called directly, several targets one after the other, in a whole command", () => {
    const targets = [{ sipUri: "anna@ops.example" }, { phoneNumber: "200" }];
    const { text } = told({ replies: [{ type: "switch", targets, strategy: "ring" }] });
    expect(text).toContain("target 1 of 2 (ring): anna@ops.example\n1. directly, next hop sip:anna@ops.example, once ");
    expect(text).toContain("target 2 of 2 (ring): 200\n1. gateway a-1");
  });

  test("a REFER, and what follows when it fails", () => {
    expect(told({ ...dial, method: "refer" }).text).toMatch(
      /\nREFER on the caller's dialog;.*\nwhen it fails,.*\n\n1\. gateway/,
    );
    const never = told({ ...dial, method: "refer" }, "79991112233", "y").text;
    expect(never).toContain("nothing follows when it fails");
    expect(never).not.toContain("INVITE sip:");
  });
});

describe("what would be refused", () => {
  test.each<[string, unknown, string, RegExp]>([
    ["an invalid number", { type: "switch", phoneNumber: "12 ab" }, "x", /^refused: invalid_reply at \/phoneNumber: /],
    [
      "a host that is not allowed",
      { type: "switch", sipUri: "a@evil.example" },
      "x",
      /^refused: destination_refused at \/sipUri: /,
    ],
    ["no target", { type: "switch" }, "x", /^refused: invalid_reply: /],
    ["an unknown reply", { replies: [{ type: "dance" }] }, "x", /^refused: unknown_reply at \/replies\/0\/type: /],
    ["a command without a switch", { replies: [{ type: "stop" }] }, "x", /^refused: there is no switch in it/],
    ["no command", { hello: 1 }, "x", /^refused: invalid_command/],
    ["no JSON", "{", "x", /^refused: bad_json: /],
    ["an unknown channel", dial, "nobody", /^refused: no channel has the botId nobody/],
  ])("%s", (_name, reply, botId, message) => {
    const { refused, text } = told(reply, "7", botId);
    expect(refused).toBe(true);
    expect(text).toMatch(message);
  });
});

describe("the command", () => {
  const run = async (...args: string[]): Promise<{ status: number; stdout: string; stderr: string }> =>
    new Promise((resolve) => {
      execFile(process.execPath, ["bin/patchbay.mjs", "explain", ...args], { cwd: root }, (error, stdout, stderr) => {
        resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
      });
    });

  test("prints what the README shows", { timeout: 60_000 }, async () => {
    const readme = readFileSync(join(root, "README.md"), "utf8");
    const shown = /```console\n\$ npx patchbay explain (.*)\n((?:.*\n)*?)```/.exec(readme);
    const { status, stdout } = await run(...(shown?.[1] ?? "").split(" "));
    expect(status).toBe(0);
    expect(stdout).toBe(shown?.[2]);
  });

  test(
    "ends with 1 for a refusal, with 2 for wrong arguments, configurations and files",
    { timeout: 60_000 },
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "patchbay-explain-"));
      try {
        const config = join(folder, "patchbay.yaml");
        const file = join(folder, "switch.json");
        writeFileSync(config, yaml);
        writeFileSync(file, JSON.stringify({ type: "switch", phoneNumber: "x" }));
        const [refused, ...wrong] = await Promise.all([
          run("--config", config, "--channel", "x", file),
          run("--config", config, file),
          run("--config", config, "--channel", "x", join(folder, "none")),
          run("--config", join(folder, "none"), "--channel", "x", file),
          run("--config", config, "--channel", "x", "--what", file),
        ]);
        expect(refused).toMatchObject({ status: 1, stderr: "" });
        for (const one of wrong) expect(one).toMatchObject({ status: 2, stdout: "" });
      } finally {
        rmSync(folder, { recursive: true });
      }
    },
  );
});
