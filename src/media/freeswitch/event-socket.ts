import { connect } from "node:net";
import { MediaError } from "../media-error.ts";
import type { FreeswitchServer, MediaClock } from "../options.ts";

const mostBytes = 1_048_576;

interface Block {
  readonly head: string;
  readonly body: string;
}

/** Cuts the text of an event socket into blocks; what is not whole stays in `rest`. */
export function readBlocks(text: string): { readonly blocks: readonly Block[]; readonly rest: string } {
  const blocks: Block[] = [];
  let at = 0;
  for (;;) {
    const end = text.indexOf("\n\n", at);
    if (end < 0) break;
    const head = text.slice(at, end);
    const length = Number(/^content-length: *(\d{1,9})$/im.exec(head)?.[1] ?? 0);
    if (text.length < end + 2 + length) break;
    blocks.push({ head, body: text.slice(end + 2, end + 2 + length) });
    at = end + 2 + length;
  }
  return { blocks, rest: text.slice(at) };
}

/** Whether the list that `sofia status` prints has this profile, at an IPv4 address. */
export function hasProfile(status: string, profile: string): boolean {
  return status
    .split("\n")
    .some((line) => line.trim().split(/\s+/)[0] === profile && /sip:mod_sofia@\d+\.\d+\.\d+\.\d+:\d+/.test(line));
}

/**
 * Asks a FreeSWITCH over a connection of its own whether it takes our password and has our SIP profile. Rejects with a
 * MediaError: `unreachable`, `timeout`, `wrong_password` or `no_profile`.
 */
export async function probe(server: FreeswitchServer, timeoutMs: number, clock: MediaClock): Promise<void> {
  const { host, port, password, profile } = server;
  await new Promise<void>((resolve, reject) => {
    const socket = connect(port, host);
    const finish = (error?: MediaError): void => {
      deadline.cancel();
      socket.destroy();
      if (error === undefined) resolve();
      else reject(error);
    };
    const deadline = clock.after(timeoutMs, () => {
      finish(new MediaError("timeout", `the event socket said nothing within ${timeoutMs} ms`));
    });
    let text = "";
    const take = ({ head, body }: Block): void => {
      if (head.includes("auth/request")) socket.write(`auth ${password}\n\n`);
      else if (head.includes("command/reply")) {
        if (head.includes("+OK")) socket.write("api sofia status\n\n");
        else finish(new MediaError("wrong_password", "the event socket refuses the password"));
      } else if (head.includes("api/response")) {
        const error = new MediaError("no_profile", `FreeSWITCH has no SIP profile ${profile} at an IPv4 address`);
        finish(hasProfile(body, profile) ? undefined : error);
      } else if (head.includes("rude-rejection"))
        finish(new MediaError("unreachable", "FreeSWITCH's ACL keeps us out"));
    };
    socket.setEncoding("latin1");
    socket.on("data", (bytes) => {
      const { blocks, rest } = readBlocks(text + String(bytes));
      text = rest;
      for (const block of blocks) take(block);
      if (text.length > mostBytes) finish(new MediaError("unreachable", "this is no event socket"));
    });
    socket.on("error", (error) => finish(new MediaError("unreachable", error.message, { cause: error })));
    socket.on("close", () => finish(new MediaError("unreachable", "the event socket was closed")));
  });
}
