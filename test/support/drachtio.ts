// A real drachtio-server, for those who have one: PATCHBAY_TEST_DRACHTIO is the path of the program, or of a script that
// passes its arguments on to it. It is started with a configuration file of the test's own, on free loopback ports.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { TestContext } from "vitest";
import type { Certificate } from "./certificates.ts";
import { DisposalStack } from "./disposal.ts";
import { temporaryFolder } from "./folder.ts";
import { claimPort, ownsPort } from "./ports.ts";
import { type Exit, RunningProcess } from "./process.ts";

/** The path of the program, or undefined where none is given. */
export const drachtioProgram: string | undefined = process.env["PATCHBAY_TEST_DRACHTIO"] || undefined;
/** Why tests that need one are left out. */
export const noDrachtio = "PATCHBAY_TEST_DRACHTIO does not name a drachtio-server";

export const drachtioSecret = "a-secret-of-the-test";

/** Names in the tests that a drachtio-server would spell in its own way unless it is told them. */
export const botHeaderNames = ["callReason", "crmClientId", "testheader"] as const;

/** Leaves out a test that only the embedded engine can pass, where a drachtio-server stands in for it; says why. */
export function engineOnly(context: TestContext, why: string): void {
  if (drachtioProgram !== undefined) context.skip(`not on a drachtio-server: ${why}`);
}

export interface DrachtioOptions {
  /** T1 of its transactions; T2, T4 and 64·T1 follow. What it times itself, such as the wait for an ACK, stays at 32 s. */
  readonly t1Ms?: number;
  /** Names of headers that are written as the application spells them. Default: none. */
  readonly headerNames?: readonly string[];
  /** Listens for TLS with this, on `tlsPort`. */
  readonly tls?: Pick<Certificate, "certificateFile" | "keyFile"> | undefined;
}

export class DrachtioServer implements AsyncDisposable {
  readonly sipPort: number;
  readonly controlPort: number;
  /** Undefined where it does not speak TLS. */
  readonly tlsPort: number | undefined;
  readonly #program: string;
  readonly #file: string;
  readonly #env: Readonly<Record<string, string>>;
  readonly #resources: DisposalStack;
  #process: RunningProcess | undefined;

  private constructor(
    program: string,
    file: string,
    ports: Ports,
    env: Readonly<Record<string, string>>,
    resources: DisposalStack,
  ) {
    this.#program = program;
    this.#file = file;
    this.sipPort = ports.sip;
    this.controlPort = ports.control;
    this.tlsPort = ports.tls;
    this.#env = env;
    this.#resources = resources;
  }

  static async start({ t1Ms = 500, headerNames = [], tls }: DrachtioOptions = {}): Promise<DrachtioServer> {
    if (drachtioProgram === undefined) throw new Error(noDrachtio);
    await using resources = new DisposalStack();
    const { port: sip } = resources.use(await claimPort());
    const { port: control } = resources.use(await claimPort());
    const ports: Ports = {
      sip,
      control,
      tls: tls === undefined ? undefined : resources.use(await claimPort()).port,
    };
    const { path } = resources.use(await temporaryFolder("drachtio"));
    const file = join(path, "drachtio.conf.xml");
    await writeFile(file, configuration(ports, t1Ms, tls));
    const env = { DRACHTIO_PRESERVE_HEADER_NAMES: headerNames.join(",") };
    const server = new DrachtioServer(drachtioProgram, file, ports, env, resources.move());
    try {
      await server.start();
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
    return server;
  }

  /** How it ended, while it is not running. */
  get exit(): Exit | undefined {
    return this.#process?.exit;
  }

  /** Starts it, again on the same ports after `kill`. */
  async start(): Promise<void> {
    const { sipPort, controlPort, tlsPort } = this;
    this.#process = await RunningProcess.start({
      name: "drachtio-server",
      command: this.#program,
      // The design's advice for production: what it does for phones behind NAT goes wrong behind a proxy.
      args: ["-f", this.#file, "--disable-nat-detection"],
      env: this.#env,
      ready: ({ pid }) =>
        ownsPort(pid, "udp", sipPort) &&
        ownsPort(pid, "tcp", sipPort) &&
        ownsPort(pid, "tcp", controlPort) &&
        (tlsPort === undefined || ownsPort(pid, "tcp", tlsPort)),
    });
  }

  /** Ends it as a crash would. */
  async kill(): Promise<void> {
    await this.#process?.kill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // It does not end by itself while applications are connected.
    await this.kill();
    await this.#resources[Symbol.asyncDispose]();
  }
}

interface Ports {
  readonly sip: number;
  readonly control: number;
  readonly tls: number | undefined;
}

const configuration = ({ sip, control, tls }: Ports, t1Ms: number, certificate: DrachtioOptions["tls"]): string =>
  `<drachtio>
  <admin port="${control}" secret="${drachtioSecret}">127.0.0.1</admin>
  <sip>
    <contacts>
      <contact>sip:127.0.0.1:${sip};transport=udp,tcp</contact>
      ${tls === undefined ? "" : `<contact>sips:127.0.0.1:${tls};transport=tls</contact>`}
    </contacts>
    <udp-mtu>4096</udp-mtu>
    <timers><t1>${t1Ms}</t1><t2>${8 * t1Ms}</t2><t4>${10 * t1Ms}</t4><t1x64>${64 * t1Ms}</t1x64></timers>
    ${certificate === undefined ? "" : tlsSection(certificate)}
  </sip>
  <cdrs>false</cdrs>
  <logging><console/><sofia-loglevel>0</sofia-loglevel><loglevel>error</loglevel></logging>
</drachtio>
`;

const tlsSection = ({ keyFile, certificateFile }: NonNullable<DrachtioOptions["tls"]>): string =>
  `<tls>
      <min-tls-version>1.2</min-tls-version>
      <key-file>${keyFile}</key-file>
      <cert-file>${certificateFile}</cert-file>
      <chain-file>${certificateFile}</chain-file>
    </tls>`;
