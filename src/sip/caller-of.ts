import type { CallFacts } from "./leg.ts";
import type { IncomingInvite } from "./link/types.ts";
import { parseNameAddr, splitOutsideQuotes, userOf } from "./uri.ts";

/** Who calls, as far as he may be believed and wants to be known. */
export function callerOf(
  invite: Pick<IncomingInvite, "header" | "headerLines">,
  trustIdentity: boolean,
): CallFacts["caller"] {
  const from = parseNameAddr(invite.header("from") ?? "");
  // RFC 3325 §5: an asserted identity counts only from a peer that is trusted to have checked it.
  const asserted = trustIdentity
    ? invite
        .headerLines("p-asserted-identity")
        .flatMap((line) => splitOutsideQuotes(line, ","))
        .slice(0, 4)
        .flatMap((text) => parseNameAddr(text) ?? [])
        .find(({ uri }) => userOf(uri) !== "")
    : undefined;
  const shown = asserted ?? from;
  const fromUser = userOf(from?.uri ?? "");
  const privacy = invite
    .headerLines("privacy")
    .flatMap((line) => line.split(/[;,]/))
    .map((value) => value.trim().toLowerCase());
  // RFC 3323 §4.2 and RFC 3325 §7: any of these asks that nobody behind us learns who calls.
  const asked = privacy.some((value) => value === "id" || value === "user" || value === "header");
  const anonymous = fromUser.toLowerCase() === "anonymous" || /@anonymous\.invalid\b/i.test(from?.uri ?? "");
  return {
    number: (shown === undefined ? "" : userOf(shown.uri)).slice(0, 128),
    display: shown?.display?.slice(0, 128) ?? null,
    withheld: asked || anonymous,
  };
}
