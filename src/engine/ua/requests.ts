import { isIP } from "node:net";

import type { Dialog, DialogRoute } from "../dialog/dialog.ts";
import { writeRequest } from "../dialog/session-timer.ts";
import type { SipUri } from "../sip/grammar.ts";
import {
  formatHostPort,
  isCallId,
  isUri,
  param,
  parseContacts,
  parseDecimal,
  parseNameAddr,
  parseUri,
  uriScheme,
} from "../sip/grammar.ts";
import type { HeaderLine, SipResponse } from "../sip/message.ts";
import { Headers, SipRequest } from "../sip/message.ts";
import type { Core, NextHop } from "./core.ts";
import { contactForHop, contactTarget, ensureContentType, isSecure, tagOf, withTag } from "./headers.ts";
import type { AppMessage } from "./headers.ts";

/** A request as an application wrote it. */
export type AppRequest = AppMessage & { kind: "request" };

export const missingType = "missing content-type";

/** Methods whose requests carry our Contact inside a dialog: target refreshes, and what makes dialogs. */
const contactMethods: ReadonlySet<string> = new Set(["INVITE", "SUBSCRIBE", "NOTIFY", "REFER", "UPDATE"]);

/** Headers that are never copied as the application wrote them. */
const ownHeaders: ReadonlySet<string> = new Set(["From", "To", "Call-ID", "CSeq", "Max-Forwards"]);
const credentials: readonly string[] = ["Authorization", "Proxy-Authorization"];

interface ChosenRoute {
  readonly requestUri: string;
  readonly nextHop: SipUri;
  /** RFC 3261 §19.1.1 `maddr`: where the proxy that the application has named is, whatever DNS says of its host. */
  readonly address: string | undefined;
  readonly routes: readonly string[];
}

/** The request URI and the next hop, or the text of the NOK. */
export function chooseRoute(core: Core, message: AppRequest, proxyUri: string | undefined): ChosenRoute | string {
  const routes = takenBackRoutes(message);
  const chosen = chooseHop(core, message, proxyUri);
  if (typeof chosen === "string") {
    return chosen;
  }
  const address = proxyUri === undefined ? undefined : addressOf(chosen.nextHop);
  if (address === "") {
    return `invalid proxy uri: ${printable(proxyUri ?? "")}`;
  }
  if (routes.length === 0) {
    return { ...chosen, address, routes };
  }
  const addresses = routes.map((route) => parseNameAddr(route)?.sip);
  const [first] = addresses;
  if (first === undefined || addresses.includes(undefined) || param(first.params, "lr") === undefined) {
    return "invalid route header";
  }
  return { ...chosen, address, nextHop: proxyUri === undefined ? first : chosen.nextHop, routes };
}

/** Of `maddr`; empty where that is no address, undefined where there is none. */
function addressOf({ params }: SipUri): string | undefined {
  const text = param(params, "maddr")?.replace(/^\[(.*)\]$/, "$1");
  return text === undefined || isIP(text) !== 0 ? text : "";
}

/** The one case in which an application may set `Route`: an INVITE with both tags, which takes a dialog back (§4.4). */
function takenBackRoutes({ method, lines }: AppRequest): string[] {
  const given = new Headers(lines);
  return method === "INVITE" && tagOf(given.get("To") ?? given.get("t")) !== undefined ? given.list("Route") : [];
}

function chooseHop(
  core: Core,
  message: AppRequest,
  proxyUri: string | undefined,
): { readonly requestUri: string; readonly nextHop: SipUri } | string {
  const { network, settings } = core.parts;
  const proxy = proxyUri === undefined ? settings.outboundProxy : readProxy(proxyUri);
  if (proxyUri !== undefined && proxy === undefined) {
    return `invalid proxy uri: ${printable(proxyUri)}`;
  }
  const scheme = uriScheme(message.uri);
  // drachtio takes a bare number; without a proxy there is no host it could belong to.
  const bareNumber = scheme === undefined && /^\+?[\d*#.\-()]{1,64}$/.test(message.uri);
  if (bareNumber && proxy !== undefined) {
    return {
      requestUri: `sip:${message.uri}@${formatHostPort(proxy.host, proxy.port)}`,
      nextHop: proxy,
    };
  }
  if (scheme === "tel" && proxy !== undefined && isUri(message.uri)) {
    return { requestUri: message.uri, nextHop: proxy };
  }
  const uri = parseUri(message.uri);
  if (uri === undefined) {
    return `invalid request-uri: ${printable(message.uri)}`;
  }
  // RFC 3261 §19.1.1: no headers in a request URI; drachtio fails like this, seen with `?Replaces=`.
  if (uri.headers !== undefined) {
    return "Error creating leg";
  }
  const secure = uri.scheme === "sips";
  const tls = secure || param(uri.params, "transport")?.toLowerCase() === "tls";
  if (network.isOwn(uri.host, uri.port ?? (tls ? 5061 : 5060))) {
    return "can not send request to myself";
  }
  // RFC 3261 §8.1.2, RFC 5630 §3.1.2: what is for a sips URI takes TLS on its first hop too, whatever the proxy is called.
  return { requestUri: message.uri, nextHop: { ...(proxy ?? uri), ...(secure ? { scheme: "sips" } : {}) } };
}

/** Fills in what the application left out (§2.2 of the specification), or returns the text of the NOK. */
export function buildOutOfDialog(
  core: Core,
  message: AppRequest,
  lines: readonly HeaderLine[],
  contact: string,
  hop: NextHop,
  routes: readonly string[],
): { request: SipRequest; callId: string; seq: number; fromTag: string } | string {
  const { random, settings } = core.parts;
  const given = new Headers(lines);
  const { method } = message;
  const from = given.get("From") ?? contactToFrom(contact);
  const to = given.get("To") ?? `<${message.uri}>`;
  if (given.count("From") > 1 || parseNameAddr(from) === undefined) {
    return "invalid from header";
  }
  if (given.count("To") > 1 || parseNameAddr(to) === undefined) {
    return "invalid to header";
  }
  // RFC 3261 §8.1.1.3, §19.3. A tag that the application gave is kept: the retry with credentials must not change it.
  const tagged = withTag(from, core.newTag());
  const fromTag = tagOf(tagged);
  const callId = given.get("Call-ID") ?? random.uuid();
  if (fromTag === undefined || !isCallId(callId) || callId.length > 256) {
    return "invalid call-id header";
  }
  const seq = given.has("CSeq") ? readSeq(given.get("CSeq") ?? "") : random.integer(2 ** 27) + 1;
  if (seq === undefined) {
    return "invalid cseq header";
  }
  const maxForwards = given.get("Max-Forwards") ?? "70";
  if (parseDecimal(maxForwards, 255) === undefined) {
    return "invalid max-forwards header";
  }
  const headers = new Headers();
  headers.add("Max-Forwards", maxForwards);
  for (const route of routes) {
    headers.add("Route", route);
  }
  headers.add("From", tagged);
  headers.add("To", withBrackets(to));
  headers.add("Call-ID", callId);
  headers.add("CSeq", `${seq} ${method}`);
  for (const { name, value } of lines) {
    if (!ownHeaders.has(name)) {
      headers.add(name, name === "Contact" ? contactForHop(value, message, hop, isSecure(message.uri)) : value);
    }
  }
  if (method === "INVITE" || method === "SUBSCRIBE") {
    if (!headers.has("Contact")) {
      headers.add("Contact", contact);
    } else if (contactTarget(headers) === undefined) {
      return "invalid contact header";
    }
  }
  if (method === "INVITE") {
    writeRequest(headers, undefined);
  }
  if (settings.userAgent !== undefined && !headers.has("User-Agent")) {
    headers.add("User-Agent", settings.userAgent);
  }
  if (!ensureContentType(headers, message.body)) {
    return missingType;
  }
  return { request: new SipRequest(method, message.uri, headers, message.body), callId, seq, fromTag };
}

/** RFC 3261 §12.2.1.1: identifiers, number and route are the dialog's. Undefined for a body whose type nobody can tell. */
export function buildInDialog(
  core: Core,
  dialog: Dialog,
  route: DialogRoute,
  method: string,
  lines: readonly HeaderLine[],
  message: AppRequest | undefined,
  hop: NextHop,
): SipRequest | undefined {
  const headers = new Headers();
  headers.add("Max-Forwards", "70");
  for (const one of route.routes) {
    headers.add("Route", one);
  }
  headers.add("From", dialog.localAddress);
  headers.add("To", dialog.remoteAddress);
  headers.add("Call-ID", dialog.callId);
  headers.add("CSeq", `0 ${method}`);
  for (const { name, value } of lines) {
    if (!ownHeaders.has(name)) {
      headers.add(
        name,
        name === "Contact" && message !== undefined
          ? contactForHop(value, message, hop, isSecure(route.requestUri))
          : value,
      );
    }
  }
  if (contactMethods.has(method)) {
    if (!headers.has("Contact")) {
      headers.add(
        "Contact",
        dialog.localContact === "" ? core.contactFor(hop, isSecure(route.requestUri)) : dialog.localContact,
      );
    } else if (method === "INVITE" && contactTarget(headers) !== undefined) {
      dialog.localContact = headers.get("Contact") ?? dialog.localContact;
    }
  }
  if ((method === "INVITE" || method === "UPDATE") && dialog.phase === "confirmed") {
    writeRequest(headers, core.sessions.termsOf(dialog));
  }
  const { userAgent } = core.parts.settings;
  if (userAgent !== undefined && !headers.has("User-Agent")) {
    headers.add("User-Agent", userAgent);
  }
  const body = message?.body ?? Buffer.alloc(0);
  if (!ensureContentType(headers, body)) {
    return undefined;
  }
  // Numbered last, so that a refused request leaves no gap.
  headers.set("CSeq", `${dialog.nextLocalSeq()} ${method}`);
  return new SipRequest(method, route.requestUri, headers, body);
}

/** RFC 3261 §13.2.2.4: the ACK to a 2xx is a request of its own inside the dialog, with the INVITE's CSeq number. */
export function buildAck(
  core: Core,
  invite: { readonly seq: number; readonly request: SipRequest },
  dialog: Dialog,
  route: DialogRoute,
  hop: NextHop,
  lines: readonly HeaderLine[],
  body: Buffer,
): SipRequest | undefined {
  const headers = new Headers();
  headers.add("Via", core.parts.network.viaFor(hop));
  headers.add("Max-Forwards", "70");
  for (const one of route.routes) {
    headers.add("Route", one);
  }
  headers.add("From", dialog.localAddress);
  headers.add("To", dialog.remoteAddress);
  headers.add("Call-ID", dialog.callId);
  headers.add("CSeq", `${invite.seq} ACK`);
  // RFC 3261 §13.2.2.4: the same credentials as the INVITE.
  for (const name of credentials) {
    for (const value of invite.request.headers.all(name)) {
      headers.add(name, value);
    }
  }
  for (const { name, value } of lines) {
    if (!ownHeaders.has(name) && !credentials.includes(name)) {
      headers.add(name, value);
    }
  }
  return ensureContentType(headers, body) ? new SipRequest("ACK", route.requestUri, headers, body) : undefined;
}

function readProxy(text: string): SipUri | undefined {
  const bare = text.startsWith("<") && text.endsWith(">") ? text.slice(1, -1) : text;
  const uri = parseUri(uriScheme(bare) === undefined || !/^sips?:/i.test(bare) ? `sip:${bare}` : bare);
  return uri?.headers === undefined ? uri : undefined;
}

/** `n`, or `n METHOD` as drachtio-srf's digest retry writes it. */
function readSeq(text: string): number | undefined {
  return parseDecimal(text.trim().split(/[ \t]/, 1)[0] ?? "", 2 ** 31 - 2);
}

function contactToFrom(contact: string): string {
  return contact.replace(/;transport=[a-z]+/, "");
}

function withBrackets(to: string): string {
  return to.includes("<") ? to : `<${parseNameAddr(to)?.uri ?? to}>${tagSuffix(to)}`;
}

function tagSuffix(address: string): string {
  const tag = tagOf(address);
  return tag === undefined ? "" : `;tag=${tag}`;
}

/** A Contact that drachtio-srf would take for an address although nothing can be sent there is not handed over. */
export function withoutBrokenContact(response: SipResponse): void {
  const { headers, status } = response;
  // A redirect may name other schemes than sip (RFC 3261 §8.1.3.4); a dialog needs one that can be sent to.
  const usable =
    status < 300 ? contactTarget(headers) !== undefined : parseContacts(headers.all("Contact"))?.type === "contacts";
  if (headers.has("Contact") && !usable) {
    headers.remove("Contact");
  }
}

/** Text of an application in an error message: short, and without what could break the frame. */
export function printable(text: string): string {
  return text.replaceAll(/[^\x20-\x7b\x7d\x7e]/g, "?").slice(0, 200);
}
