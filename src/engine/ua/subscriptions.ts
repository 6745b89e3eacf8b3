import type { Dialog } from "../dialog/dialog.ts";

import { parseCSeq, parseDecimal } from "../sip/grammar.ts";
import type { Headers, SipRequest, SipResponse } from "../sip/message.ts";
import type { Core } from "./core.ts";

/** Subscriptions that one dialog may carry; further ones are passed on and not watched. */
const mostSubscriptions = 16;
const mostSeconds = 2 ** 31 - 1;
/** RFC 6665 §4.2.1.1 leaves the default to the event package; most of them say an hour. */
const defaultSeconds = 3_600;

/** Methods of the INVITE usage: they mean nothing in a dialog whose call is over (RFC 5057 §4.1). INFO is RFC 6086's. */
export const callMethods: ReadonlySet<string> = new Set(["INVITE", "BYE", "UPDATE", "PRACK", "INFO"]);

/** RFC 6665 §4.4.1, RFC 5057 §5.4: besides INVITE, what moves the remote target. */
export const targetRefreshes: ReadonlySet<string> = new Set(["UPDATE", "SUBSCRIBE", "NOTIFY", "REFER"]);

/** RFC 6665 §4.1.2.2, §4.2.2, RFC 5057 §5.1: failures that end the subscription they concern, and nothing else. */
function endsSubscription(status: number): boolean {
  return (status >= 480 && status <= 485) || [404, 405, 408, 410, 416, 489, 501, 604].includes(status);
}

/**
 * Follows the subscriptions of a dialog by what was asked and answered in it, whoever asked: each keeps the dialog alive
 * until it ends, expires, or is refused. Applications answer for the content; this is only about when a dialog is over.
 */
export function followSubscription(core: Core, dialog: Dialog, request: SipRequest, response: SipResponse): void {
  const { status } = response;
  if (status < 200 || dialog.phase === "ended") {
    return;
  }
  const accepted = status < 300;
  switch (request.method) {
    case "SUBSCRIBE": {
      const key = eventKey(request.headers);
      if (accepted) {
        const seconds = expiresOf(response.headers) ?? expiresOf(request.headers) ?? defaultSeconds;
        // RFC 6665 §4.1.2.3: a last NOTIFY follows the end of a subscription; it gets the time a transaction may take.
        keep(core, dialog, key, 1_000 * seconds);
      } else if (endsSubscription(status)) {
        end(core, dialog, key);
      }
      return;
    }
    case "NOTIFY":
      notified(core, dialog, request, status);
      return;
    case "REFER":
      // RFC 3515 §2.4.4, RFC 4488 §4: accepted, and not declared to be without a subscription.
      if (accepted && !declined(request.headers) && !declined(response.headers)) {
        const id = parseCSeq(request.headers.get("CSeq") ?? "")?.number ?? 0;
        keep(core, dialog, `refer;id=${id}`, core.parts.settings.ringingLimitMs);
      }
  }
}

function notified(core: Core, dialog: Dialog, request: SipRequest, status: number): void {
  const key = knownKey(dialog, eventKey(request.headers));
  if (key === undefined) {
    return;
  }
  const [state = "", ...params] = (request.headers.get("Subscription-State") ?? "").split(";");
  if (state.trim().toLowerCase() === "terminated" || endsSubscription(status)) {
    end(core, dialog, key);
    return;
  }
  const expires = params.find((param) => /^\s*expires\s*=/i.test(param))?.split("=")[1];
  const seconds = parseDecimal(expires?.trim() ?? "", mostSeconds);
  if (status < 300 && seconds !== undefined) {
    keep(core, dialog, key, 1_000 * seconds);
  }
}

/** The call in a dialog is over. What is left of a REFER gets the time of one more transaction to be reported. */
export function limitReferrals(core: Core, dialog: Dialog): void {
  for (const key of dialog.subscriptions) {
    if (key.startsWith("refer;")) {
      keep(core, dialog, key, 0);
    }
  }
}

function keep(core: Core, dialog: Dialog, key: string, ms: number): void {
  if (!dialog.subscriptions.has(key) && dialog.subscriptions.size >= mostSubscriptions) {
    return;
  }
  dialog.subscriptions.add(key);
  dialog.timers.start(`subscription ${key}`, ms + core.parts.timers.t64Ms, () => {
    end(core, dialog, key);
  });
}

function end(core: Core, dialog: Dialog, key: string): void {
  dialog.timers.stop(`subscription ${key}`);
  if (dialog.subscriptions.delete(key) && dialog.subscriptions.size === 0 && !dialog.hasCall) {
    core.endDialog(dialog);
  }
}

/** RFC 6665 §8.2.1: a subscription is told by the package and the `id` parameter; other parameters do not count. */
function eventKey(headers: Headers): string {
  const [name = "", ...params] = (headers.get("Event") ?? "").split(";");
  const id = params.map((param) => param.trim()).find((param) => /^id\s*=/i.test(param));
  return `${name.trim().toLowerCase()};id=${id?.split("=")[1]?.trim() ?? ""}`;
}

/** RFC 3515 §2.4.6: the NOTIFYs of a first REFER need not carry its id. */
function knownKey(dialog: Dialog, key: string): string | undefined {
  if (dialog.subscriptions.has(key)) {
    return key;
  }
  return key === "refer;id=" ? [...dialog.subscriptions].find((one) => one.startsWith("refer;")) : undefined;
}

function expiresOf(headers: Headers): number | undefined {
  return parseDecimal(headers.get("Expires")?.trim() ?? "", mostSeconds);
}

function declined(headers: Headers): boolean {
  return /^\s*false\b/i.test(headers.get("Refer-Sub") ?? "");
}
