import { randomBytes } from "node:crypto";

import type { CustomHeader } from "../call/transfer.ts";
import { authorization, chooseChallenge } from "./digest.ts";
import type { Challenge, Credentials } from "./digest.ts";
import type { HeaderLine } from "./message.ts";
import { formatReason } from "./reason.ts";
import { SipFault } from "./link/fault.ts";
import type { Reply, SipDialog } from "./link/types.ts";

/** A trunk's own credentials, and where they may be given. */
export interface TrunkCredentials extends Credentials {
  /** Only challenges of this realm are answered; null for any. */
  readonly realm: string | null;
}

/**
 * Sends BYE and resolves when it is over, whatever came: after a BYE nothing can be done about a dialog (RFC 3261
 * §15.1.1). A gateway that challenges it gets the trunk's credentials, once; without them nobody does.
 */
export async function hangUp(
  dialog: SipDialog,
  link: { whenUp(timeoutMs: number): Promise<boolean> },
  options: {
    readonly reason: string;
    readonly headers: readonly CustomHeader[];
    readonly timeoutMs: number;
    readonly credentials: TrunkCredentials | null;
  },
): Promise<void> {
  const { reason, headers, timeoutMs, credentials } = options;
  const given = headers.some(({ name }) => name.toLowerCase() === "reason");
  const own = given ? [] : [{ name: "Reason", value: formatReason("Q.850", 16, reason) }];
  const lines = [...own, ...headers];
  let result = await dialog.send("BYE", { headers: lines, timeoutMs });
  // Without a connection to the engine the peer would stay in a call nobody is in: it is hung up when we are back.
  if (result instanceof SipFault && result.code === "engine_away" && (await link.whenUp(timeoutMs))) {
    result = await dialog.send("BYE", { headers: lines, timeoutMs });
  }
  if (credentials !== null && !(result instanceof SipFault)) {
    // The dialog's remote target is what the request line names, and so what the hash must cover (RFC 3261 §22.4).
    const answer = answerChallenge(result, credentials, { method: "BYE", uri: dialog.remoteUri });
    if (answer !== undefined) {
      await dialog.send("BYE", { headers: [...lines, answer], timeoutMs });
    }
  }
  dialog.forget();
}

/** The header that answers a 401 or 407, undefined when it cannot be answered with what we have. */
export function answerChallenge(
  reply: Reply,
  credentials: TrunkCredentials,
  request: { readonly method: string; readonly uri: string },
): HeaderLine | undefined {
  const asked = challengeOf(reply, credentials.realm);
  // Every request gets a fresh nonce count of 1, because each challenge is answered once with the nonce it brought.
  return asked && credentialsLine(asked, credentials, request, 1);
}

/** What a 401 or 407 asks for, and the header that answers it. */
export interface Asked {
  readonly header: "Authorization" | "Proxy-Authorization";
  readonly challenge: Challenge;
}

/** Undefined where nothing is asked, or nothing that we can answer. */
export function challengeOf(reply: Reply, realm: string | null): Asked | undefined {
  const [name, header] =
    reply.status === 401
      ? (["www-authenticate", "Authorization"] as const)
      : reply.status === 407
        ? (["proxy-authenticate", "Proxy-Authorization"] as const)
        : [];
  if (name === undefined || header === undefined) {
    return undefined;
  }
  const challenge = chooseChallenge(reply.headerLines(name), realm);
  return challenge && { header, challenge };
}

/** `nonceCount`: how often this nonce was used, this time included (RFC 7616 §3.4). */
export function credentialsLine(
  { header, challenge }: Asked,
  credentials: Credentials,
  request: { readonly method: string; readonly uri: string },
  nonceCount: number,
): HeaderLine {
  const count = { nonceCount, cnonce: randomBytes(16).toString("hex") };
  return { name: header, value: authorization(challenge, credentials, request, count) };
}
