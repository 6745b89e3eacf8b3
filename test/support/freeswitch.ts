// A real FreeSWITCH, for those who have one: PATCHBAY_TEST_FREESWITCH is `host:port:password` of its event socket. It must see
// this machine's files at the same paths, may write below its temporary folder, and has no other calls while tests run.
import { once } from "node:events";
import { connect } from "node:net";

export interface FreeswitchPlace {
  readonly host: string;
  readonly port: number;
  readonly password: string;
}

/** Undefined where there is none. */
export const freeswitchPlace: FreeswitchPlace | undefined = placeOf(process.env["PATCHBAY_TEST_FREESWITCH"] ?? "");

function placeOf(text: string): FreeswitchPlace | undefined {
  const [, host, port, password] = /^([^:]+):(\d+):(.+)$/.exec(text) ?? [];
  if (host === undefined || password === undefined) return undefined;
  return { host, port: Number(port), password };
}

/** Asks one command over a connection of its own, so that what a test sees does not come through what it tests. */
export async function askFreeswitch(place: FreeswitchPlace, command: string): Promise<string> {
  const socket = connect(place.port, place.host);
  try {
    await once(socket, "connect");
    let text = "";
    const block = async (): Promise<{ head: string; body: string }> => {
      for (;;) {
        const end = text.indexOf("\n\n");
        const length = Number(/^Content-Length: (\d+)$/m.exec(text.slice(0, Math.max(0, end)))?.[1] ?? 0);
        if (end >= 0 && Buffer.byteLength(text) >= end + 2 + length) {
          const [head, body] = [text.slice(0, end), text.slice(end + 2, end + 2 + length)];
          text = text.slice(end + 2 + length);
          return { head, body };
        }
        const [bytes] = (await once(socket, "data", { signal: AbortSignal.timeout(5_000) })) as [Buffer];
        text += bytes.toString("latin1");
      }
    };
    await block();
    socket.write(`auth ${place.password}\n\n`);
    const { head } = await block();
    if (!head.includes("+OK")) throw new Error("FreeSWITCH refuses the password of PATCHBAY_TEST_FREESWITCH");
    socket.write(`api ${command}\n\n`);
    return (await block()).body.trim();
  } finally {
    socket.destroy();
  }
}

/** How many channels it holds. Not by `show channels`, which reads a database that is written a little later. */
export async function channelsIn(place: FreeswitchPlace): Promise<number> {
  return Number(/^(\d+) session\(s\) - /m.exec(await askFreeswitch(place, "status"))?.[1]);
}
