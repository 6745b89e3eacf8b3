// A trunk registers with SIPp, which asks for a password, wants a longer time, and judges every proof by itself.
import { once } from "node:events";
import { type AddressInfo, connect, type Socket } from "node:net";
import { createServer } from "node:tls";
import { expect, test } from "vitest";
import { Stage, type StageOptions, trunkPassword } from "../integration/stage.ts";
import { Authority, type Certificate } from "../support/certificates.ts";
import { temporaryFolder } from "../support/folder.ts";
import { expectSuccess, Sipp, type SippMessage } from "../support/sipp.ts";
import { waitFor } from "../support/wait.ts";

const registrar = {
  scenario: "test/interop/sipp/registrar.xml",
  variables: { username: trunkPassword.username, password: trunkPassword.password },
} as const;

/** The service with one trunk that registers at this port. A second of a registration lasts 50 ms. */
function registering(port: number, transport: "udp" | "tls", tls?: StageOptions["tls"]): Promise<Stage> {
  return Stage.start({
    t1Ms: 200,
    sessionSecondMs: 50,
    trunk: {
      sources: [],
      gateways: [{ id: "registrar", host: "127.0.0.1", port, transport }],
      outbound: { username: trunkPassword.username, passwordEnv: "STAGE_TRUNK_PASSWORD" },
      register: true,
      registerExpiresSeconds: 60,
    },
    ...(tls === undefined ? {} : { tls }),
  });
}

async function stateOf(stage: Stage): Promise<string | undefined> {
  const answer = await fetch(`http://127.0.0.1:${stage.app.adminPort}/readyz`);
  const page = (await answer.json()) as { trunks: Record<string, { registration?: string }> };
  return page.trunks["trunk-a"]?.registration;
}

/** What the registrar was sent and what it answered, without repetitions. */
function story(messages: readonly SippMessage[]): readonly string[] {
  const seen = new Set<string>();
  return messages.flatMap(({ what, text }) => {
    if (seen.has(text)) return [];
    seen.add(text);
    const expires = /^Expires: (\d+)/m.exec(text)?.[1];
    return [expires === undefined ? what : `${what} ${expires}`];
  });
}

const whole = ["REGISTER 60", "401", "REGISTER 60", "423", "REGISTER 120", "200", "REGISTER 120", "200"];

async function watched(stage: Stage, sipp: Sipp): Promise<readonly SippMessage[]> {
  await waitFor(async () => (await stateOf(stage)) === "registered", { what: "the registration", timeoutMs: 20_000 });
  await waitFor(() => story(sipp.messages).length >= whole.length, { what: "the refresh", timeoutMs: 20_000 });
  await stage.app.close();
  const result = await sipp.finished();
  expectSuccess(result);
  expect(story(result.messages)).toEqual([...whole, "REGISTER 0", "200"]);
  return result.messages.filter(({ what }) => what === "REGISTER");
}

test("401, 423, 200, the refresh before it expires, and the end at shutdown", async () => {
  await using sipp = await Sipp.start(registrar);
  await using stage = await registering(sipp.port, "udp");
  const requests = await watched(stage, sipp);
  expect(requests[0]?.text).toMatch(/^REGISTER sip:127\.0\.0\.1 SIP\/2\.0\r?\nVia: SIP\/2\.0\/UDP /);
  // One nonce serves the whole registration, and is counted (RFC 7616 §3.4).
  const counts = new Set(requests.flatMap(({ text }) => /\bnc=(\d+)/.exec(text)?.[1] ?? []));
  expect([...counts]).toEqual(["00000001", "00000002", "00000003", "00000004"]);
});

/** Ends TLS in front of a SIPp that has none. */
async function tlsInFrontOf(
  port: number,
  { certificate, key }: Certificate,
): Promise<{ port: number } & AsyncDisposable> {
  const server = createServer({ cert: certificate, key }, (near) => {
    const far = connect(port, "127.0.0.1");
    const ways: readonly (readonly [from: Socket, to: Socket])[] = [
      [near, far],
      [far, near],
    ];
    for (const [one, other] of ways) {
      one.on("error", () => other.destroy()).on("close", () => other.destroy());
      one.pipe(other);
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: async () => {
      server.close();
    },
  };
}

test("the same over TLS, with a registrar whose certificate is checked; the Contact leads to our TLS listener", async () => {
  await using folder = await temporaryFolder("registrar");
  const authority = await Authority.create(folder.path);
  const own = await authority.sign("service", "IP:127.0.0.1");
  await using sipp = await Sipp.start({ ...registrar, protocol: "tcp" });
  await using front = await tlsInFrontOf(sipp.port, await authority.sign("registrar", "IP:127.0.0.1"));
  const { certificateFile, keyFile } = own;
  const caFile = authority.certificateFile;
  await using stage = await registering(front.port, "tls", { certificateFile, keyFile, caFile });
  const port = stage.port("tls");
  for (const { text } of await watched(stage, sipp)) {
    expect(text).toMatch(/^Via: SIP\/2\.0\/TLS /m);
    expect(text).toContain(`Contact: <sip:${trunkPassword.username}@127.0.0.1:${port};transport=tls>`);
  }
});
