import type { Random } from "../timers.ts";
import type { Answerable } from "./parse.ts";
import { Headers, SipResponse, type SipRequest } from "./message.ts";
import { formatVia, parseNameAddr, parseVias, param, splitList, withParam, type Via } from "./grammar.ts";

/** The reason phrases of RFC 3261 §21 and of the later RFCs whose codes are in use. */
const reasonPhrases: ReadonlyMap<number, string> = new Map([
  [100, "Trying"],
  [180, "Ringing"],
  [181, "Call Is Being Forwarded"],
  [182, "Queued"],
  [183, "Session Progress"],
  [199, "Early Dialog Terminated"],
  [200, "OK"],
  [202, "Accepted"],
  [204, "No Notification"],
  [300, "Multiple Choices"],
  [301, "Moved Permanently"],
  [302, "Moved Temporarily"],
  [305, "Use Proxy"],
  [380, "Alternative Service"],
  [400, "Bad Request"],
  [401, "Unauthorized"],
  [402, "Payment Required"],
  [403, "Forbidden"],
  [404, "Not Found"],
  [405, "Method Not Allowed"],
  [406, "Not Acceptable"],
  [407, "Proxy Authentication Required"],
  [408, "Request Timeout"],
  [410, "Gone"],
  [412, "Conditional Request Failed"],
  [413, "Request Entity Too Large"],
  [414, "Request-URI Too Long"],
  [415, "Unsupported Media Type"],
  [416, "Unsupported URI Scheme"],
  [420, "Bad Extension"],
  [421, "Extension Required"],
  [422, "Session Interval Too Small"],
  [423, "Interval Too Brief"],
  [428, "Use Identity Header"],
  [429, "Provide Referrer Identity"],
  [433, "Anonymity Disallowed"],
  [436, "Bad Identity-Info"],
  [437, "Unsupported Certificate"],
  [438, "Invalid Identity Header"],
  [439, "First Hop Lacks Outbound Support"],
  [440, "Max-Breadth Exceeded"],
  [469, "Bad Info Package"],
  [470, "Consent Needed"],
  [480, "Temporarily Unavailable"],
  [481, "Call/Transaction Does Not Exist"],
  [482, "Loop Detected"],
  [483, "Too Many Hops"],
  [484, "Address Incomplete"],
  [485, "Ambiguous"],
  [486, "Busy Here"],
  [487, "Request Terminated"],
  [488, "Not Acceptable Here"],
  [489, "Bad Event"],
  [491, "Request Pending"],
  [493, "Undecipherable"],
  [494, "Security Agreement Required"],
  [500, "Server Internal Error"],
  [501, "Not Implemented"],
  [502, "Bad Gateway"],
  [503, "Service Unavailable"],
  [504, "Server Time-out"],
  [505, "Version Not Supported"],
  [513, "Message Too Large"],
  [580, "Precondition Failure"],
  [600, "Busy Everywhere"],
  [603, "Decline"],
  [604, "Does Not Exist Anywhere"],
  [606, "Not Acceptable"],
  [607, "Unwanted"],
]);

const classPhrases = ["", "Progress", "Success", "Redirection", "Client Error", "Server Error", "Global Failure"];

/** The phrase of a status; for a status no RFC names, that of its class. */
export function reasonPhrase(status: number): string {
  return reasonPhrases.get(status) ?? classPhrases[Math.floor(status / 100)] ?? "";
}

/**
 * A response with what RFC 3261 §8.2.6.2 has it copy from its request: Via, From, To, Call-ID, CSeq, and in a 100 the
 * Timestamp. `toTag` is added where the request's To has none; a 100 needs no tag.
 */
export function responseTo(
  request: SipRequest,
  status: number,
  options: { readonly reason?: string; readonly toTag?: string } = {},
): SipResponse {
  const headers = new Headers();
  for (const name of ["Via", "From", "To", "Call-ID", "CSeq"]) {
    for (const value of request.headers.all(name)) {
      headers.add(name, name === "To" && options.toTag !== undefined ? withToTag(value, options.toTag) : value);
    }
  }
  const timestamp = request.headers.get("Timestamp");
  if (status === 100 && timestamp !== undefined) {
    headers.add("Timestamp", timestamp);
  }
  return new SipResponse(status, options.reason ?? reasonPhrase(status), headers);
}

/** A To value with a tag, unless it has one. */
function withToTag(value: string, tag: string): string {
  const to = parseNameAddr(value);
  return to?.tag === undefined ? `${value};tag=${tag}` : value;
}

/**
 * RFC 3261 §18.2.1 and RFC 3581 §4: writes where a request came from into its topmost Via. `received` when the sent-by
 * is another host than the source, and always together with an `rport` that was asked for.
 */
export function viaWithSource(via: Via, address: string, port: number): Via {
  let { params } = via;
  const asked = param(params, "rport") !== undefined;
  if (asked) {
    params = withParam(params, "rport", String(port));
  }
  if (asked || via.host.toLowerCase() !== address.toLowerCase()) {
    params = withParam(params, "received", address);
  }
  return { ...via, params };
}

/** Puts the source of a request into the topmost value of its first Via line and leaves the others. */
export function markSource(headers: Headers, address: string, port: number): Via | undefined {
  const line = headers.get("via");
  const first = line === undefined ? undefined : parseVias(line)?.[0];
  if (line === undefined || first === undefined) {
    return undefined;
  }
  const marked = viaWithSource(first, address, port);
  const others = (splitList(line) ?? []).slice(1);
  headers.setFirst("Via", [formatVia(marked), ...others].join(", "));
  return marked;
}

/** The stateless answer to a malformed request, made of what could be read of it. */
export function refusalTo(
  answerable: Answerable,
  source: { address: string; port: number },
  random: Random,
): SipResponse {
  const headers = new Headers();
  for (const { name, value } of answerable.lines) {
    headers.add(name, name.toLowerCase() === "to" ? withLooseToTag(value, random) : value);
  }
  if (answerable.via !== undefined) {
    markSource(headers, source.address, source.port);
  }
  return new SipResponse(answerable.status, answerable.reason, headers);
}

function withLooseToTag(value: string, random: Random): string {
  return /;\s?tag\s?=/i.test(value) ? value : `${value};tag=${random.token(64)}`;
}
